#!/usr/bin/env bash
# Guess: a keypoint that Norfair sees for the first time on a person whom it follows already is taken as it is detected,
#   in x and y: its code means to. Before that it may be anywhere, at (0, 0) with some detectors, with a low score.
# Really: the marks "seen now" are laid out for all points, then for all again (a, b, c, a, b, c), those of "seen
#   before" point by point (a, a, b, b, c, c), and the two are compared. So whether x and y of a new point are taken
#   goes by other points: of COCO's 17, the left knee's x by the left wrist, its y by the right wrist. If that one is
#   hidden, the filter draws the coordinate from (0, 0): 323 px off in the second frame at x = 1220, over 5 px for 13
#   frames, while `live_points` is True. If each point is seen in seven of ten frames, half of those that turn up later
#   are wrong. If all points are seen at that time it is right, as with NoFilterFactory; both Kalman filters are wrong.
# Here: a tracker of points is tried with some of them hidden while others turn up.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet norfair==2.3.0 filterpy==1.4.5 numpy==1.26.4
cat > check.py <<'EOF'
from importlib.metadata import version

import numpy as np
from norfair import Detection, Tracker
from norfair.filter import FilterPyKalmanFilterFactory, NoFilterFactory, OptimizedKalmanFilterFactory

print(" ".join(f"{name} {version(name)}" for name in ("norfair", "filterpy")))
# COCO's 17 points of one who stands still: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles.
HALF = np.array([[5, 95], [12, 98], [25, 130], [35, 170], [38, 205], [18, 210], [20, 270], [21, 330]], float)
PERSON = [[0, 100]] + [[side * x, y] for x, y in HALF for side in (1, -1)] + np.array([1200.0, 300.0])
LEFT_WRIST, RIGHT_WRIST, LEFT_KNEE = 9, 10, 13
FACTORIES = {"default": OptimizedKalmanFilterFactory, "FilterPy": FilterPyKalmanFilterFactory, "none": NoFilterFactory}


def follow(seen, filter_name="default"):
    """How far each point's estimate is off, in x and y, and whether it counts as live; a row per frame.

    `seen` has a row of 17 marks per frame. Seen points are detected without any error, others are at (0, 0)."""
    tracker = Tracker("euclidean", 1e6, initialization_delay=0, detection_threshold=0.5,
                      filter_factory=FACTORIES[filter_name]())
    off, live = [], []
    for marks in seen:
        points = np.where(marks[:, None], PERSON, 0.0)
        (person,) = tracker.update([Detection(points, scores=np.where(marks, 0.9, 0.1))])
        assert person.id == 1
        off.append(person.estimate - PERSON)
        live.append(person.live_points)
    return np.array(off), np.array(live)


def knee(first, hidden, filter_name="default"):
    """The left knee from the frame on in which it is seen first; wrists in `hidden` are never seen."""
    seen = np.ones((60, 17), bool)
    seen[:first, LEFT_KNEE] = False
    seen[:, hidden] = False
    off, live = follow(seen, filter_name)
    assert not live[:first, LEFT_KNEE].any() and live[first:, LEFT_KNEE].all()
    others = [i for i in range(17) if i != LEFT_KNEE and i not in hidden]
    assert np.abs(off[:, others]).max() < 1e-9
    return off[first:, LEFT_KNEE]


WRISTS = {"both wrists seen": [], "left wrist hidden": [LEFT_WRIST], "right wrist hidden": [RIGHT_WRIST]}
print("left knee, seen from the second frame on")
for name, hidden in WRISTS.items():
    rows = {each: knee(1, hidden, each) for each in FACTORIES}
    bad = int((np.abs(rows["default"]).max(axis=1) > 5).sum())
    print(f"{name}: off by", ", ".join(f"{(off[0].round(1) + 0).tolist()} {each}" for each, off in rows.items())
          + f"; over 5 px in {bad} frames")
    for each, off in rows.items():
        wrong = [hidden_one in hidden and each != "none" for hidden_one in (LEFT_WRIST, RIGHT_WRIST)]
        assert (np.abs(off[0]) > 100).tolist() == wrong and ((np.abs(off) > 1e-9).any(axis=0) == wrong).all()
later = {first: knee(first, [LEFT_WRIST])[0] for first in (3, 10)}
print("left wrist hidden, knee seen from the",
      ", the ".join(f"{k + 1}th on: {v.round(1).tolist()}" for k, v in later.items()))
assert 200 < -later[3][0] < 210 and 30 < -later[10][0] < 40

random, wrong = np.random.default_rng(0), []
for _ in range(100):  # people, 15 frames each
    seen = random.random((15, 17)) < 0.7
    off, live = follow(seen)
    for point in range(17):
        first = int(seen[:, point].argmax())
        if first:
            assert live[first, point]
            by = [seen[first, (2 * point + axis) % 17] for axis in (0, 1)]  # whose marks x and y go by
            assert (np.abs(off[first, point]) < 1e-9).tolist() == by
            wrong.append(np.abs(off[first, point]).max())
wrong = np.array(wrong)
share, middle = (wrong > 5).mean(), np.median(wrong[wrong > 5])
print(f"each point seen in 7 of 10 frames: of {len(wrong)} that turn up later {share:.0%} are over 5 px off, "
      f"the middle one of these {middle:.0f}")
assert 0.4 < share < 0.6 and middle > 200 and ((wrong > 5) | (wrong < 1e-9)).all()
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   norfair 2.3.0 filterpy 1.4.5
#   left knee, seen from the second frame on
#   both wrists seen: off by [0.0, 0.0] default, [0.0, 0.0] FilterPy, [0.0, 0.0] none; over 5 px in 0 frames
#   left wrist hidden: off by [-323.2, 0.0] default, [-305.0, 0.0] FilterPy, [0.0, 0.0] none; over 5 px in 13 frames
#   right wrist hidden: off by [0.0, -151.0] default, [0.0, -142.5] FilterPy, [0.0, 0.0] none; over 5 px in 11 frames
#   left wrist hidden, knee seen from the 4th on: [-205.0, 0.0], the 11th on: [-34.0, 0.0]
#   each point seen in 7 of 10 frames: of 503 that turn up later 50% are over 5 px off, the middle one of these 260
