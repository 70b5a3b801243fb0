#!/usr/bin/env bash
# Guess: evaluate_mot_sequence of trackers compares the tracks of any ground truth in the MOT format, whatever is
#   followed: results that are the truth have MOTA, HOTA and IDF1 1.
# Really: it counts only rows with a 1 in the class column, MOT17's pedestrians, and there is no setting. With -1, as in
#   the files of MOT15 and SoccerNet, or any other class, perfect results have 0 in all three: 60 of 60 boxes are false
#   ones, none is missed, nothing is said. Results without a single right box have the same 0, so that tuning has
#   nothing to go by. Of three classes 1, 2 and 3 the first counts; boxes on the second, as on 7, 8 and 12, are neither
#   right nor wrong (MOT17's distractors), those on the third are false: MOTA 0, HOTA 0.71. With 1 everywhere or without
#   the column it is right. TrackEval, which it follows, does so for MOT17, but refuses -1 there; as MOT15, or with
#   DO_PREPROC off, it has 1 for all files with a class column.
# Here: tracks are not evaluated in this project; where they are, perfect results are put in first.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 scipy==1.17.1 supervision==0.31.2 trackers==2.6.1 trackeval==1.3.0
cat > check.py <<'EOF'
import contextlib
import io
from importlib.metadata import version
from pathlib import Path

import trackeval
from trackers.eval import evaluate_mot_sequence
from trackeval.utils import TrackEvalException

print(*(f"{name} {version(name)}" for name in ("trackers", "trackeval")))
FRAMES, ROOM = 20, Path("mot")
(ROOM / "gt/a/gt").mkdir(parents=True)
(ROOM / "results/one/data").mkdir(parents=True)
TRUTH, RESULTS = ROOM / "gt/a/gt/gt.txt", ROOM / "results/one/data/a.txt"


def write(path, tail, down=200):
    """Three things that move to the right side by side; `tail(i)` ends the rows of thing i."""
    rows = [(frame, i, 100 + 150 * i + 3 * frame) for frame in range(1, FRAMES + 1) for i in range(3)]
    path.write_text("".join(f"{frame},{i + 1},{x},{down},60,120,{tail(i)}\n" for frame, i, x in rows))


def ours():
    result = evaluate_mot_sequence(TRUTH, RESULTS, metrics=["CLEAR", "HOTA", "Identity"])
    clear = result.CLEAR
    scores = [clear.MOTA, result.HOTA.HOTA, result.Identity.IDF1]
    return [round(score, 2) for score in scores], [clear.CLR_TP, clear.CLR_FN, clear.CLR_FP]


def judge(prepare, benchmark="MOT17"):
    """The same three scores of TrackEval itself; None where it refuses the file."""
    data = trackeval.datasets.MotChallenge2DBox({
        "GT_FOLDER": str(ROOM / "gt"), "TRACKERS_FOLDER": str(ROOM / "results"), "SEQ_INFO": {"a": FRAMES},
        "SKIP_SPLIT_FOL": True, "DO_PREPROC": prepare, "BENCHMARK": benchmark, "PRINT_CONFIG": False,
    })
    metrics = trackeval.metrics.CLEAR({"PRINT_CONFIG": False}), trackeval.metrics.HOTA(), trackeval.metrics.Identity()
    try:
        ready = data.get_preprocessed_seq_data(data.get_raw_seq_data("one", "a"), "pedestrian")
    except TrackEvalException:
        return None
    clear, hota, identity = (metric.eval_sequence(ready) for metric in metrics)
    return [round(float(score), 2) for score in (clear["MOTA"], hota["HOTA"].mean(), identity["IDF1"])]


seen = {}
write(RESULTS, lambda i: "0.9,-1,-1,-1")
for name, tail in {
    "class 1": lambda i: "1,1,1.0",
    "no class column": lambda i: "1",
    "class -1 (MOT15, SoccerNet)": lambda i: "1,-1,-1,-1",
    "class 3": lambda i: "1,3,1.0",
    "classes 1, 2, 3": lambda i: f"1,{i + 1},1.0",
}.items():
    write(TRUTH, tail)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = judge(False), judge(True, "MOT15"), judge(True, "MOT17")
    seen[name] = *ours(), *theirs
    scores, counts, *theirs = seen[name]
    print(f"{name}: MOTA, HOTA, IDF1 {scores}, right, missed, false {counts}")
    print(f"  TrackEval: not prepared {theirs[0]}, as MOT15 {theirs[1]}, as MOT17 {theirs[2]}")
write(TRUTH, lambda i: "1,-1,-1,-1")
write(RESULTS, lambda i: "0.9,-1,-1,-1", down=600)
with contextlib.redirect_stdout(io.StringIO()):
    seen["nothing right"] = *ours(), judge(False)
print("class -1, results with no right box:", *seen["nothing right"][:2], "TrackEval", seen["nothing right"][2])

RIGHT = [1, 1, 1]
assert seen["class 1"] == (RIGHT, [60, 0, 0], RIGHT, RIGHT, RIGHT)
assert seen["no class column"][:2] == (RIGHT, [60, 0, 0])
assert seen["class -1 (MOT15, SoccerNet)"] == ([0, 0, 0], [0, 0, 60], RIGHT, RIGHT, None)
assert seen["class 3"] == ([0, 0, 0], [0, 0, 60], RIGHT, RIGHT, [0, 0, 0])
assert seen["classes 1, 2, 3"] == ([0, 0.71, 0.67], [20, 0, 20], RIGHT, RIGHT, [0, 0.71, 0.67])
assert seen["nothing right"] == ([0, 0, 0], [0, 0, 60], [-1, 0, 0])
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   trackers 2.6.1 trackeval 1.3.0
#   class 1: MOTA, HOTA, IDF1 [1.0, 1.0, 1.0], right, missed, false [60, 0, 0]
#     TrackEval: not prepared [1.0, 1.0, 1.0], as MOT15 [1.0, 1.0, 1.0], as MOT17 [1.0, 1.0, 1.0]
#   no class column: MOTA, HOTA, IDF1 [1.0, 1.0, 1.0], right, missed, false [60, 0, 0]
#     TrackEval: not prepared None, as MOT15 None, as MOT17 None
#   class -1 (MOT15, SoccerNet): MOTA, HOTA, IDF1 [0.0, 0.0, 0.0], right, missed, false [0, 0, 60]
#     TrackEval: not prepared [1.0, 1.0, 1.0], as MOT15 [1.0, 1.0, 1.0], as MOT17 None
#   class 3: MOTA, HOTA, IDF1 [0.0, 0.0, 0.0], right, missed, false [0, 0, 60]
#     TrackEval: not prepared [1.0, 1.0, 1.0], as MOT15 [1.0, 1.0, 1.0], as MOT17 [0.0, 0.0, 0.0]
#   classes 1, 2, 3: MOTA, HOTA, IDF1 [0.0, 0.71, 0.67], right, missed, false [20, 0, 20]
#     TrackEval: not prepared [1.0, 1.0, 1.0], as MOT15 [1.0, 1.0, 1.0], as MOT17 [0.0, 0.71, 0.67]
#   class -1, results with no right box: [0.0, 0.0, 0.0] [0, 0, 60] TrackEval [-1.0, 0.0, 0.0]
