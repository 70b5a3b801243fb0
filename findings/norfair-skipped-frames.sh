#!/usr/bin/env bash
# Guess: Norfair's tracker follows an even movement whether the detector runs on each frame or on every Nth one, with
#   `period` set to N and update() called for the frames between, as documented. Its two Kalman filters differ in speed.
# Really: its default filter, OptimizedKalmanFilter, moves the place on frames without a detection, but leaves its
#   uncertainty as it was. So a detection after a gap counts as one after a single frame, and the whole error goes into
#   the speed as if it had come about in that frame. With a detection each frame the filter is exact. With one in 15 the
#   track swings around an object that moves evenly, with one in 25 or 30 the swings grow without end: ten ids for one
#   object. After 20 hidden frames in which a walker stopped, the track is 47 pixels off the box that was just detected
#   (0.7 by the full equations), then runs back past it. FilterPyKalmanFilterFactory, the slower one, is right.
# Here: a tracker's filter is compared with the full equations before frames are left out.
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
from norfair.filter import FilterPyKalmanFilterFactory, OptimizedKalmanFilterFactory

print(" ".join(f"{name} {version(name)}" for name in ("norfair", "filterpy")))
STEP = np.array([[1.0, 1.0], [0.0, 1.0]])  # place and speed, one frame on


class Full:
    """The equations of the default filter with its numbers, the uncertainty carried on through each frame."""

    def __init__(self, place):
        self.state, self.spread = np.array([place, 0.0]), np.diag([10.0, 1.0])

    def frame(self, found):
        self.state, self.spread = STEP @ self.state, STEP @ self.spread @ STEP.T
        self.spread[0, 0] += 0.1
        if found is not None:
            gain = self.spread[:, 0] / (self.spread[0, 0] + 4.0)
            self.state = self.state + gain * (found - self.state[0])
            self.spread = self.spread - np.outer(gain, self.spread[0])
        self.spread[1, 1] += 0.1


def follow(factory, places, seen, period=1, far=np.inf):
    """How far off the track is, and the full equations; the number of ids. Detections are exact."""
    tracker = Tracker("euclidean", far, hit_counter_max=120, initialization_delay=0, filter_factory=factory)
    full, off, off_full, ids = Full(places[0]), [], [], set()
    for t, x in enumerate(places):
        if seen(t):
            objects = tracker.update([Detection(np.array([[x, 100.0], [x + 80, 180.0]]))], period=period)
        else:
            objects = tracker.update()
        if t:
            full.frame(x if seen(t) else None)
        ids |= {each.id for each in objects}
        off.append(objects[0].estimate[0, 0] - x)
        off_full.append(full.state[0] - x)
    return np.array(off), np.array(off_full), len(ids)


DEFAULT, SLOW = OptimizedKalmanFilterFactory(), FilterPyKalmanFilterFactory()
EVEN = 100 + 4.0 * np.arange(900)  # half a minute at 4 pixels per frame
worst = {}
for period in (1, 5, 10, 15, 20, 25, 30):
    runs = [follow(each, EVEN, lambda t: t % period == 0, period) for each in (DEFAULT, SLOW)]
    ids = [follow(each, EVEN, lambda t: t % period == 0, period, 200.0)[2] for each in (DEFAULT, SLOW)]
    late = slice(5 * period, None)  # after five detections
    rows = (runs[0][0], runs[1][0], runs[0][1])
    worst[period] = [float(np.abs(row[late]).max()) for row in rows] + ids
    print("a detection every {0} frames, up to: {1:.3g} px, FilterPy {2:.2f}, full equations {3:.2f}; "
          "ids {4}, FilterPy {5}".format(period, *worst[period]))
    if period == 1:  # the same numbers throughout
        assert np.abs(rows[0] - rows[2]).max() < 1e-9
assert worst[15][0] > 10 and worst[20][0] > 80 and worst[25][0] > 1e3 and worst[30][0] > 1e9
assert all(row[1] < 0.2 and row[4] == 1 for row in worst.values()) and worst[30][2] < 0.2
assert [worst[period][3] for period in (20, 25, 30)] == [1, 9, 10]

GAP, BACK = 20, 80  # seen for 60 frames, hidden for 20, in which it stops
walk = np.concatenate([100 + 4.0 * np.arange(60), np.full(60, 336.0)])
for name, factory in (("default", DEFAULT), ("FilterPy", SLOW)):
    off, off_full, _ = follow(factory, walk, lambda t: not BACK - GAP <= t < BACK)
    print(f"{name}, from the first detection after the gap on: {' '.join(f'{v:.1f}' for v in off[BACK:BACK + 8])}")
    assert (abs(off[BACK]) > 46) == (name == "default") and abs(off_full[BACK]) < 0.8
print(f"full equations: {' '.join(f'{v:.1f}' for v in off_full[BACK:BACK + 8])}")
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   norfair 2.3.0 filterpy 1.4.5
#   a detection every 1 frames, up to: 1.66 px, FilterPy 0.17, full equations 1.66; ids 1, FilterPy 1
#   a detection every 5 frames, up to: 3.07 px, FilterPy 0.01, full equations 0.10; ids 1, FilterPy 1
#   a detection every 10 frames, up to: 3.72 px, FilterPy 0.00, full equations 0.00; ids 1, FilterPy 1
#   a detection every 15 frames, up to: 10.2 px, FilterPy 0.00, full equations 0.00; ids 1, FilterPy 1
#   a detection every 20 frames, up to: 80.4 px, FilterPy 0.00, full equations 0.01; ids 1, FilterPy 1
#   a detection every 25 frames, up to: 3.4e+03 px, FilterPy 0.00, full equations 0.05; ids 9, FilterPy 1
#   a detection every 30 frames, up to: 4.1e+09 px, FilterPy 0.01, full equations 0.09; ids 10, FilterPy 1
#   default, from the first detection after the gap on: 46.7 22.7 6.6 -3.0 -8.1 -9.9 -9.8 -8.5
#   FilterPy, from the first detection after the gap on: 0.6 -0.1 -0.4 -0.5 -0.5 -0.4 -0.3 -0.3
#   full equations: 0.7 -0.2 -0.7 -0.8 -0.8 -0.6 -0.5 -0.3
