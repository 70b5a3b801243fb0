#!/usr/bin/env bash
# Guess: a Ctrl-C while DVC notes a finished stage leaves dvc.lock as it was, or as it will be.
# Really: DVC opens the file itself for writing, which empties it, and then fills it in small steps. Stopped meanwhile
#   (here the stage has 8,000 parameters, so that there is time), the file is cut: DVC refuses it. Without it DVC
#   knows nothing of the stages that had finished: one with a plain `cache: false` output loses its outputs and runs
#   again. `dvc commit --force STAGE` before that keeps them.
# Here: `make repro` runs DVC with a writer that writes aside and renames; docs/faq.md has the way out.
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
python3 - << 'END'
lines = ["grid:", *(f"  setting_{i}: {i}" for i in range(8000))]
open("params.yaml", "w").write("\n".join(lines) + "\n")
END
cat > dvc.yaml << 'END'
stages:
  train:
    cmd: echo trained >> ../trained && cp code weights && cp code record
    deps: [code]
    outs:
      - weights
      - record: {cache: false}
  table:
    cmd: cp code table
    deps: [code, other]
    params: [grid]
    outs: [table]
END
echo "dvc $(dvc --version)"
echo 1 > code
echo 1 > other
dvc repro --quiet
echo 2 > other
before=$(wc -l < dvc.lock)
echo "trained once, dvc.lock has $((before / 1000)),000 lines; now the table is due"
cp dvc.lock ../whole
python3 - << 'END'
import os, signal, subprocess, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
run = subprocess.Popen(["dvc", "repro", "--quiet", "table"], stderr=subprocess.DEVNULL)
size = os.path.getsize("dvc.lock")
while run.poll() is None and os.path.getsize("dvc.lock") >= size:
    time.sleep(0.005)
run.send_signal(signal.SIGINT)
run.wait()
END
after=$(wc -l < dvc.lock)
[ "$after" -lt "$before" ]
if dvc status > ../said 2>&1; then exit 1; fi
grep -qE "dvc.lock' (validation failed|is invalid)" ../said
echo "dvc.lock is shorter, and DVC refuses it"
rm dvc.lock
: > ../trained
dvc repro --quiet train
echo "without it: trained $(wc -l < ../trained) time more"
[ "$(wc -l < ../trained)" = 1 ]
rm dvc.lock
dvc commit --quiet --force train
dvc repro --quiet train
echo "with dvc commit --force: trained $(($(wc -l < ../trained) - 1)) times more"
[ "$(wc -l < ../trained)" = 1 ]
# Seen (Python 3.11, Linux, x86-64):
#   dvc 3.67.1
#   trained once, dvc.lock has 8,000 lines; now the table is due
#   dvc.lock is shorter, and DVC refuses it
#   without it: trained 1 time more
#   with dvc commit --force: trained 0 times more
