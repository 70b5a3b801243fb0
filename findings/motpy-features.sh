#!/usr/bin/env bash
# Guess: with features (appearance vectors) on each detection and `feature_similarity_beta` set, motpy tells two people
#   apart who meet and turn back, whatever else is detected elsewhere.
# Really: a new track does not take over the feature of the detection that it begins with, and as long as any track has
#   none, no feature is looked at, nobody's. A false box that comes up once, far away, leaves such a track for eleven
#   frames; it is handed out in two frames only. If the two meet within these eleven, each gets the other's id, as
#   without features. With one false box in ten frames, each elsewhere, the features never count. A thing that is seen
#   in two frames or more has its feature from the second one on and does no harm. Nothing is said, and the
#   documentation names no such condition.
# Here: what a tracker falls back to is tried with a false box elsewhere in the picture.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet motpy==0.0.10 filterpy==1.4.5 numpy==1.26.4
cat > check.py <<'EOF'
from importlib.metadata import version

import numpy as np
from motpy import Detection, MultiObjectTracker

print(" ".join(f"{name} {version(name)}" for name in ("motpy", "filterpy", "numpy")))
RED, BLUE, GREY = np.eye(3)  # appearances that have nothing in common
MEET, FRAMES = 20, 50


def detection(left, feature):
    return Detection(np.array([left, 100.0, left + 60, 220.0]), score=0.9, feature=feature)


def run(false=(), beta=0.0):
    """Two people in red and blue meet in frame 20 and turn back; `false` has the places of grey boxes, by frame.

    Gives whether each keeps their id, and in how many frames a third track is handed out."""
    tracker = MultiObjectTracker(dt=1.0, matching_fn_kwargs={"feature_similarity_beta": beta})
    ids, third = [], 0
    for t in range(FRAMES):
        apart = 5.0 * abs(t - MEET)
        places = {"red": 300 - apart, "blue": 310 + apart}
        found = [detection(places["red"], RED), detection(places["blue"], BLUE)]
        if t in false:
            found.append(detection(false[t], GREY))
        tracks = tracker.step(found)
        third += len(tracks) > 2
        ids.append([min(tracks, key=lambda track: abs(track.box[0] - x)).id for x in places.values()])
    assert ids[5] in (ids[-1], ids[-1][::-1])
    return ids[5] == ids[-1], third


def text(kept):
    return "ids kept" if kept else "ids exchanged"


without, never = run(beta=None)[0], run()[0]
print(f"places alone: {text(without)}; with features: {text(never)}")
assert not without and never
once = {frame: run({frame: 900.0}) for frame in range(5, 30)}
harmful = [frame for frame, (kept, _) in once.items() if not kept]
shown = {third for _, third in once.values()}
print(f"one false box in one of frames 5 to 29: ids exchanged if it is in {harmful[0]} to {harmful[-1]}; "
      f"handed out in {max(shown)} frames")
assert harmful == list(range(MEET - 10, MEET + 1)) and shown == {2}
often = run({frame: 600.0 + 40 * frame for frame in range(5, FRAMES, 10)})[0]  # each at another place
twice = run({15: 900.0, 16: 900.0})[0]
always = run({frame: 900.0 for frame in range(FRAMES)})[0]
print(f"one in ten frames: {text(often)}; one in 15 and 16: {text(twice)}; a grey thing in all frames: {text(always)}")
assert not often and twice and always
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   motpy 0.0.10 filterpy 1.4.5 numpy 1.26.4
#   places alone: ids exchanged; with features: ids kept
#   one false box in one of frames 5 to 29: ids exchanged if it is in 10 to 20; handed out in 2 frames
#   one in ten frames: ids exchanged; one in 15 and 16: ids kept; a grey thing in all frames: ids kept
