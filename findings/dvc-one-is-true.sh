#!/usr/bin/env bash
# Guess: a stage runs again when the value of one of its `params:` in params.yaml has changed.
# Really: DVC compares as Python does, and there 1 equals true and 0 equals false: from `freeze: 1` (one stage of the
#   backbone) to `freeze: true` (all of it), or from `[0, 1]` to `[false, true]`, nothing has changed. `dvc status`
#   says so, `dvc repro` runs nothing, dvc.lock keeps the old value, and the results are those of the old
#   setting. The text '0' is a change, and so is 1 to true where `cmd` names the value with ${...}.
# Here: settings have strict types: true is an error where a number belongs, so that no setting can be either.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet dvc==3.67.1 dvc-data==3.18.3 dvc-objects==5.2.0
export DVC_NO_ANALYTICS=true PATH="$room/venv/bin:$PATH"
mkdir project
cd project
dvc init --quiet --no-scm
cat > train.py <<'END'
from pathlib import Path

from ruamel.yaml import YAML  # DVC's own reader

value = YAML(typ="safe").load(Path("params.yaml"))["freeze"]
Path("frozen.txt").write_text("all stages" if value is True else "no stage" if value is False else f"{value!r}")
END
cat > dvc.yaml <<'END'
stages:
  reads:
    cmd: echo run >> reads.runs && python train.py
    deps: [train.py]
    params: [freeze]
    outs: [frozen.txt]
END
echo "dvc $(dvc --version)"
check() {  # setting, what status says, runs so far, what the output says
  echo "freeze: $1" > params.yaml
  local status runs frozen
  status="$(dvc status --json)"
  dvc repro --quiet
  runs="$(wc -l < reads.runs)"
  frozen="$(cat frozen.txt)"
  echo "freeze: $1: status $status, runs so far $runs, frozen: $frozen"
  if [ "$2" = same ]; then [ "$status" = "{}" ]; else [ "$status" != "{}" ]; fi
  [ "$runs" = "$3" ]
  [ "$frozen" = "$4" ]
}
check 1 changed 1 1
check true same 1 1
check 0 changed 2 0
check false same 2 0
check "'0'" changed 3 "'0'"
check "[0, 1]" changed 4 "[0, 1]"
check "[false, true]" same 4 "[0, 1]"
grep -A 3 'freeze:' dvc.lock
# the same settings, with the value in the command
cat > dvc.yaml <<'END'
stages:
  names:
    cmd: echo run >> names.runs && echo ${freeze} > named.txt
    outs: [named.txt]
END
for value in 1 true; do
  echo "freeze: $value" > params.yaml
  dvc repro --quiet
  echo "freeze: $value, named by cmd: runs so far $(wc -l < names.runs), output $(cat named.txt)"
done
[ "$(wc -l < names.runs)" = 2 ]
# Seen (Python 3.11, Linux, x86-64):
#   dvc 3.67.1
#   freeze: 1: status {"reads": [{"changed deps": {"train.py": "modified", "params.yaml": "new"}}, {"changed outs": {"frozen.txt": "deleted"}}]}, runs so far 1, frozen: 1
#   freeze: true: status {}, runs so far 1, frozen: 1
#   freeze: 0: status {"reads": [{"changed deps": {"params.yaml": {"freeze": "modified"}}}]}, runs so far 2, frozen: 0
#   freeze: false: status {}, runs so far 2, frozen: 0
#   freeze: '0': status {"reads": [{"changed deps": {"params.yaml": {"freeze": "modified"}}}]}, runs so far 3, frozen: '0'
#   freeze: [0, 1]: status {"reads": [{"changed deps": {"params.yaml": {"freeze": "modified"}}}]}, runs so far 4, frozen: [0, 1]
#   freeze: [false, true]: status {}, runs so far 4, frozen: [0, 1]
#           freeze:
#           - 0
#           - 1
#       outs:
#   freeze: 1, named by cmd: runs so far 1, output 1
#   freeze: true, named by cmd: runs so far 2, output true
