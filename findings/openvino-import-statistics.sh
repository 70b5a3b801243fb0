#!/usr/bin/env bash
# Guess: importing a runtime sends nothing; openvino-telemetry calls itself "for sending statistics
#   with user's consent" and says that without a file of consent no data are sent.
# Really: `import openvino` makes an identity for Google Analytics (~/intel/openvino_ga_cid), counts its
#   uses and gives a message to a thread that sends it, without a file and without asking. With
#   openvino_telemetry made impossible to import, openvino takes its own stand-in and sends nothing.
# Here: that stand-in is asked for before each import.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet openvino==2026.4.1 openvino-telemetry==2025.2.0
cat > check.py <<'EOF'
"""(Where it would be sent, it is kept instead.)"""
import sys
from importlib.metadata import metadata, version
from pathlib import Path

if sys.argv[1] == "blocked":
    sys.modules["openvino_telemetry"] = None
else:
    from openvino_telemetry.utils.sender import TelemetrySender

    sent = []
    TelemetrySender.send = lambda self, backend, message: sent.append((backend, message))
import openvino

files = sorted(path.name for path in Path.home().glob("intel/*"))
if sys.argv[1] == "blocked":
    print("blocked: files", files, "devices", openvino.Core().available_devices[:1])
    assert files == []
else:
    ((backend, message),) = sent
    host = backend.backend_url.split("/")[2]
    events = [event["name"] for event in message["events"]]
    print("openvino", version("openvino"), "openvino-telemetry", version("openvino-telemetry"))
    print("its summary:", metadata("openvino-telemetry")["Summary"])
    print("as it is: files", files, "host", host, "events", events)
    assert files == ["openvino_ga_cid", "stats"]
EOF
mkdir one two
run() { env -i PATH="$PATH" HOME="$room/$1" venv/bin/python check.py "$2"; }
run one as-it-is
run two blocked
# Seen (Python 3.11, Linux, x86-64):
#   openvino 2026.4.1 openvino-telemetry 2025.2.0
#   its summary: OpenVINO™ Telemetry package for sending statistics with user's consent, used in combination with other OpenVINO™ packages.
#   as it is: files ['openvino_ga_cid', 'stats'] host www.google-analytics.com events ['import']
#   blocked: files [] devices ['CPU']
