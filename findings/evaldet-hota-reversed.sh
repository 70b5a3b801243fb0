#!/usr/bin/env bash
# Guess: HOTA per alpha in evaldet is HOTA at an overlap (IoU) of at least alpha, as in the paper and in TrackEval.
# Really: it compares one minus the IoU with alpha, so that its alpha of 0.05 is an IoU above 0.95, and its 0.95 one
#   above 0.05. All numbers per alpha (HOTA, DetA, AssA, LocA, precision, recall, hits and misses) are in the reverse
#   order beside `alphas_HOTA`: right at 0.5 only, where both are the same, and hits grow with a stricter threshold.
#   The means over all alphas are right. Its text says that another matching is used, of this nothing.
# Here: judged by TrackEval and by hand.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet evaldet==0.4.3 numpy==2.4.6 scipy==1.17.1 numba==0.68.1 pyarrow==26.0.1
venv/bin/pip install --quiet --no-deps trackeval==1.3.0  # its other packages are for pictures and masks
venv/bin/python - <<'EOF'
import contextlib
import io
from importlib.metadata import version

import numpy as np
from evaldet import Tracks
from evaldet.mot import MOTMetrics

with contextlib.redirect_stdout(io.StringIO()):  # a reader of data that is not needed here lacks a package
    from trackeval.metrics import HOTA

print(*(f"{name} {version(name)}" for name in ("evaldet", "trackeval")))
FRAMES, SIDE = 20, 100
SHIFTS = 10, 20, 50  # of the box that is found, in pixels: IoU 0.82, 0.67 and 0.33
OVERLAPS = [(SIDE - s) / (SIDE + s) for s in SHIFTS]


def identity(i, t):
    return i if i or t < FRAMES / 2 else 3  # the first object is another one from half-time on


rows = [(t + 1, i, 300 * i, 50) for t in range(FRAMES) for i in range(3)]
with open("truth.txt", "w") as f:
    f.writelines(f"{t},{i},{x},{y},{SIDE},{SIDE},1,1,1\n" for t, i, x, y in rows)
with open("found.txt", "w") as f:
    f.writelines(f"{t},{identity(i, t - 1)},{x + SHIFTS[i]},{y},{SIDE},{SIDE},1,-1,-1,-1\n" for t, i, x, y in rows)
ours = MOTMetrics().compute(Tracks.from_mot_gt("truth.txt"), Tracks.from_mot("found.txt"))["hota"]

judge = HOTA().eval_sequence({
    "num_timesteps": FRAMES, "num_gt_dets": 3 * FRAMES, "num_tracker_dets": 3 * FRAMES,
    "num_gt_ids": 3, "num_tracker_ids": 4,
    "gt_ids": [np.arange(3)] * FRAMES,
    "tracker_ids": [np.array([identity(i, t) for i in range(3)]) for t in range(FRAMES)],
    "similarity_scores": [np.diag(OVERLAPS)] * FRAMES,
})
for i in (0, 4, 9, 14, 18):
    alpha = ours["alphas_HOTA"][i]
    hand = sum(FRAMES for v in OVERLAPS if v >= alpha)
    print(f"alpha {alpha:.2f}: hits {ours['DetTP_alpha'][i]:.0f}, HOTA {ours['HOTA_alpha'][i]:.2f}; "
          f"TrackEval {judge['HOTA_TP'][i]:.0f}, {judge['HOTA'][i]:.2f}; by hand {hand} hits")
    assert judge["HOTA_TP"][i] == hand
for mine, theirs in (("HOTA_alpha", "HOTA"), ("DetA_alpha", "DetA"), ("AssA_alpha", "AssA"), ("LocA_alpha", "LocA"),
                     ("DetPr_alpha", "DetPr"), ("DetRec_alpha", "DetRe"), ("DetTP_alpha", "HOTA_TP")):
    assert np.allclose(ours[mine][::-1], judge[theirs]) and not np.allclose(ours[mine], judge[theirs])
print("in reverse order all of them are TrackEval's")
print(f"mean HOTA {ours['HOTA']:.3f}, TrackEval {judge['HOTA'].mean():.3f}")
assert abs(ours["HOTA"] - judge["HOTA"].mean()) < 1e-6
EOF
# Seen (Python 3.11, Linux, x86-64):
#   evaldet 0.4.3 trackeval 1.3.0
#   alpha 0.05: hits 0, HOTA 0.00; TrackEval 60, 0.91; by hand 60 hits
#   alpha 0.25: hits 20, HOTA 0.32; TrackEval 60, 0.91; by hand 60 hits
#   alpha 0.50: hits 40, HOTA 0.61; TrackEval 40, 0.61; by hand 40 hits
#   alpha 0.75: hits 60, HOTA 0.91; TrackEval 20, 0.32; by hand 20 hits
#   alpha 0.95: hits 60, HOTA 0.91; TrackEval 0, 0.00; by hand 0 hits
#   in reverse order all of them are TrackEval's
#   mean HOTA 0.564, TrackEval 0.564
