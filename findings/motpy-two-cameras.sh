#!/usr/bin/env bash
# Guess: each motpy tracker works with the `dt` it was made with: one for a camera of 5 frames per second (dt=1/5), one
#   for a camera of 30 (dt=1/30), both in one program.
# Really: MultiObjectTracker writes its dt into the dictionary with the motion model's settings. Without one, or with
#   the name of a preset, that is the preset's own, one for the whole program; a dictionary of the caller's is not
#   copied either. So the tracker made last sets dt for all that share it. Tracks that are there keep theirs, each later
#   one is wrong. With 1/30 at 5 frames per second a walker who turns back is lost and gets a new id; one who stops is
#   49 px off in place of 7. With 1/5 at 30 frames per second boxes tremble twice as much. Nothing is said. A copy of
#   the settings for each tracker is right.
# Here: a tracker is tried beside a second one with other settings in the same process.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet motpy==0.0.10 filterpy==1.4.5 numpy==1.26.4
cat > check.py <<'EOF'
from importlib.metadata import version

import numpy as np
from motpy import Detection, ModelPreset, MultiObjectTracker

print(" ".join(f"{name} {version(name)}" for name in ("motpy", "filterpy", "numpy")))
NAME = "constant_velocity_and_static_box_size_2d"
OWN = {"order_pos": 1, "dim_pos": 2, "order_size": 0, "dim_size": 2}
SPECS = {
    "default": lambda: {},
    "name of the preset": lambda: {"model_spec": NAME},
    "one dictionary": lambda: {"model_spec": OWN},
    "a copy for each": lambda: {"model_spec": dict(ModelPreset[NAME].value)},
}


def make(rate, other=None, spec="default"):
    """A tracker for a camera of this rate; with `other`, a second one is made after it, and never used."""
    tracker = MultiObjectTracker(dt=1 / rate, **SPECS[spec]())
    if other:
        MultiObjectTracker(dt=1 / other, **SPECS[spec]())
    return tracker


def follow(tracker, rate, place, noise=0.0):
    """Twelve seconds of one person, whose left side is at place(seconds): number of ids, and how far off each frame."""
    ids, off, random = [], [], np.random.default_rng(0)
    for frame in range(12 * rate):
        x = place(frame / rate)
        found = np.array([x, 100.0, x + 80, 300.0]) + np.tile(random.normal(0, 1, 2) * noise, 2)
        nearest = min(tracker.step([Detection(found, score=0.9)]), key=lambda track: abs(track.box[0] - x))
        ids.append(nearest.id)
        off.append(nearest.box[0] - x)
    return len(set(ids)), np.array(off)


WALKS = {  # 60 px per second
    "walks on": lambda t: 100 + 60 * t,
    "stops": lambda t: 100 + 60 * min(t, 5),
    "turns back": lambda t: 100 + 60 * (5 - abs(t - 5)),
}
SLOW, FAST, TURN = 5, 30, WALKS["turns back"]  # the first two in frames per second
for name, walk in WALKS.items():
    (ids, off), (ids_beside, off_beside) = (follow(make(SLOW, other), SLOW, walk) for other in (None, FAST))
    off, off_beside = np.abs(off).max(), np.abs(off_beside).max()
    print(f"5 per second, {name}: ids {ids}, up to {off:.1f} px off; "
          f"one for 30 made after it: ids {ids_beside}, {off_beside:.1f} px")
    assert ids == 1 and off < 14 and (ids_beside == 2 if name == "turns back" else off_beside > 6 * off)

for spec in SPECS:
    alone, beside, same = (follow(make(SLOW, other, spec), SLOW, TURN)[0] for other in (None, FAST, SLOW))
    print(f"{spec}: ids {alone}; beside one for 30 {beside}; beside one for 5 {same}")
    assert alone == same == 1 and beside == (1 if spec == "a copy for each" else 2)

tracker, all_ids = make(SLOW), {}
for frame in range(60):
    if frame == 5:
        MultiObjectTracker(dt=1 / FAST)  # one person is there; another one, below, comes in now
    x = TURN(frame / SLOW)
    people = {"first": 100.0, "second": 500.0} if frame >= 5 else {"first": 100.0}
    tracks = tracker.step([Detection(np.array([x, y, x + 80, y + 200]), score=0.9) for y in people.values()])
    for who, y in people.items():
        nearest = min(tracks, key=lambda track: abs(track.box[0] - x) + abs(track.box[1] - y))
        all_ids.setdefault(who, []).append(nearest.id)
counts = [len(set(ids)) for ids in all_ids.values()]
print("one person there before the one for 30 was made, another after: ids", *counts)
assert counts == [1, 2]

tremble = [follow(make(FAST, other), FAST, lambda t: 100.0, noise=3.0)[1][FAST:].std() for other in (None, SLOW)]
print("30 per second, stands, noise of 3 px: {:.2f} px; one for 5 made after it: {:.2f} px".format(*tremble))
assert tremble[1] > 1.8 * tremble[0]
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   motpy 0.0.10 filterpy 1.4.5 numpy 1.26.4
#   5 per second, walks on: ids 1, up to 0.3 px off; one for 30 made after it: ids 1, 3.9 px
#   5 per second, stops: ids 1, up to 6.5 px off; one for 30 made after it: ids 1, 49.3 px
#   5 per second, turns back: ids 1, up to 13.0 px off; one for 30 made after it: ids 2, 51.5 px
#   default: ids 1; beside one for 30 2; beside one for 5 1
#   name of the preset: ids 1; beside one for 30 2; beside one for 5 1
#   one dictionary: ids 1; beside one for 30 2; beside one for 5 1
#   a copy for each: ids 1; beside one for 30 1; beside one for 5 1
#   one person there before the one for 30 was made, another after: ids 1 2
#   30 per second, stands, noise of 3 px: 0.99 px; one for 5 made after it: 2.07 px
