#!/usr/bin/env bash
# Guess: `cache: false` on one small output of a DVC stage only says where that file lives (in git);
#   going back to earlier settings still brings the stage back from the run cache, as for its neighbours.
# Really: one plain output with `cache: false` keeps the whole stage out of the run cache: `dvc repro`
#   runs it again, though its big output lies in the cache. The very same file with `cache: false`
#   under `metrics:` or `plots:` lets the stage be restored, that file included.
# Here: known and used: a training's record is a plain output, so that an old training's metrics never come
#   back without it; the train stages pay with a second training.
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
stage() {  # name, the lines that say what small.json is
  printf '  %s:\n' "$1"
  printf '    cmd: mkdir -p %s && echo run >> %s.runs && cp size %s/big && cp size %s/small.json\n' "$1" "$1" "$1" "$1"
  printf '    deps: [size]\n    outs:\n      - %s/big\n' "$1"
  shift
  printf '%s\n' "$@"
}
{
  echo "stages:"
  stage output   "      - output/small.json: {cache: false}"
  stage metric   "    metrics:" "      - metric/small.json: {cache: false}"
  stage plot     "    plots:" "      - plot/small.json: {cache: false}"
  stage all_kept "      - all_kept/small.json"
} > dvc.yaml
cat dvc.yaml
echo "dvc $(dvc --version)"
for size in 320 416 320; do
  echo "$size" > size
  dvc repro --quiet
  echo "settings $size:"
  for name in output metric plot all_kept; do
    echo "  $name ran $(wc -l < "$name.runs") times, has $(cat "$name/big") and $(cat "$name/small.json")"
    cmp size "$name/big"
    cmp size "$name/small.json"
  done
done
[ "$(wc -l < output.runs)" = 3 ]
for name in metric plot all_kept; do
  [ "$(wc -l < "$name.runs")" = 2 ]
done
# Seen (Python 3.11, Linux, x86-64):
#   stages:
#     output:
#       cmd: mkdir -p output && echo run >> output.runs && cp size output/big && cp size output/small.json
#       deps: [size]
#       outs:
#         - output/big
#         - output/small.json: {cache: false}
#     metric:
#       cmd: mkdir -p metric && echo run >> metric.runs && cp size metric/big && cp size metric/small.json
#       deps: [size]
#       outs:
#         - metric/big
#       metrics:
#         - metric/small.json: {cache: false}
#     plot:
#       cmd: mkdir -p plot && echo run >> plot.runs && cp size plot/big && cp size plot/small.json
#       deps: [size]
#       outs:
#         - plot/big
#       plots:
#         - plot/small.json: {cache: false}
#     all_kept:
#       cmd: mkdir -p all_kept && echo run >> all_kept.runs && cp size all_kept/big && cp size all_kept/small.json
#       deps: [size]
#       outs:
#         - all_kept/big
#         - all_kept/small.json
#   dvc 3.67.1
#   settings 320:
#     output ran 1 times, has 320 and 320
#     metric ran 1 times, has 320 and 320
#     plot ran 1 times, has 320 and 320
#     all_kept ran 1 times, has 320 and 320
#   settings 416:
#     output ran 2 times, has 416 and 416
#     metric ran 2 times, has 416 and 416
#     plot ran 2 times, has 416 and 416
#     all_kept ran 2 times, has 416 and 416
#   settings 320:
#     output ran 3 times, has 320 and 320
#     metric ran 2 times, has 320 and 320
#     plot ran 2 times, has 320 and 320
#     all_kept ran 2 times, has 320 and 320
