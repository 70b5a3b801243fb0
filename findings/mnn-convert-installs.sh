#!/usr/bin/env bash
# Guess: a converter reads one file and writes another.
# Really: mnnconvert (mnnquant has the same lines) first runs `pip install -U aliyun-log-python-sdk` with the pip that
#   PATH has first, so into another Python where its own environment is not activated: there it puts the newest
#   version and all that it needs, and replaces what stands in their way. MNN's requirements do not have it, nor
#   has its description on PyPI a word of it; there is no question and no switch. Once that package is there, each
#   conversion asks a server of the vendor for a key; with it, so the code, the machine's id, the model's id and size and
#   the command's arguments are reported. The report itself fails, unseen: the wheel lacks a module of its own.
# Here: MNN is not among our exports; where it is tried, the function below the command is called, which does neither.
# (In this script pip, the package and the server are stand-ins that write down what they are asked for.)
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 mnn==3.6.1
mkdir -p bin stand-in/aliyun
printf '#!/bin/sh\necho "$@" >>"%s/pip.txt"\n' "$room" >bin/pip
chmod +x bin/pip
cat >stand-in/aliyun/__init__.py <<'END'
"""Stands for aliyun-log-python-sdk and for the server that gives the key."""
import io
import json
import urllib.request


def urlopen(request):
    with open("asked.txt", "a") as file:
        print(request.host, file=file)
    key = dict.fromkeys(("AccessKeyId", "AccessKeySecret", "SecurityToken"), "")
    return io.BytesIO(json.dumps({"Credentials": {**key, "Expiration": "2100-01-01T00:00:00Z"}}).encode())


urllib.request.urlopen = urlopen
END
mkdir stand-in/aliyun/log
cat >stand-in/aliyun/log/__init__.py <<'END'
class PutLogsRequest:
    def __init__(self, *parts):
        open("report.txt", "w").close()


class LogClient:
    def __init__(self, endpoint, *key):
        pass
END
printf 'class LogItem:\n    pass\n' >stand-in/aliyun/log/logitem.py
venv/bin/python - <<'END'
import importlib.util
import os
import subprocess
import sys
from importlib.metadata import metadata, requires, version
from pathlib import Path

import onnx
from onnx import TensorProto, helper

print(*(f"{name} {version(name)}" for name in ("onnx", "mnn")), "requires", requires("mnn"))
assert "aliyun" not in str(metadata("mnn").json)
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", ends[:1], ends[1:])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), "net.onnx")
ARGUMENTS = ["mnnconvert", "-f", "ONNX", "--modelFile", "net.onnx", "--MNNModel", "net.mnn", "--bizCode", "net"]
ROOM = Path.cwd()
PACKAGE = {"PYTHONPATH": str(ROOM / "stand-in")}


def convert(title, command, **more):
    """What pip and the server were asked for by a command that writes the file."""
    paths = [Path(name) for name in ("pip.txt", "asked.txt", "report.txt", "net.mnn")]
    for path in paths:
        path.unlink(missing_ok=True)
    room = {**os.environ, "PATH": f"{ROOM / 'bin'}:{os.environ['PATH']}", **more}
    done = subprocess.run(command, env=room, capture_output=True, text=True)
    assert done.returncode == 0 and paths[3].exists()
    pip, server = (sorted(set(path.read_text().splitlines())) if path.exists() else [] for path in paths[:2])
    print(f"{title}: pip was asked {pip}, a key at {server}, a report {paths[2].exists()}")
    return pip, server, paths[2].exists()


command = [str(ROOM / "venv/bin/mnnconvert"), *ARGUMENTS[1:]]
pip, server, report = convert("mnnconvert", command)
assert pip == ["install -U aliyun-log-python-sdk"] and server == [] and not report

pip, (server,), report = convert("mnnconvert, with that package", command, **PACKAGE)
assert pip == [] and server.endswith(".aliyuncs.com") and not report
folder = Path(importlib.util.find_spec("MNN").origin).parent
print("MNN/version.py, which the report imports, is there:", (folder / "version.py").exists())

direct = f"import MNN, _tools; _tools.mnnconvert({ARGUMENTS!r})"
assert convert("_tools.mnnconvert, with it", [sys.executable, "-c", direct], **PACKAGE) == ([], [], False)
END
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 mnn 3.6.1 requires ['numpy']
#   mnnconvert: pip was asked ['install -U aliyun-log-python-sdk'], a key at [], a report False
#   mnnconvert, with that package: pip was asked [], a key at ['1032277949409193.cn-hangzhou.fc.aliyuncs.com'], a report False
#   MNN/version.py, which the report imports, is there: False
#   _tools.mnnconvert, with it: pip was asked [], a key at [], a report False
