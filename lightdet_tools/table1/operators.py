"""Where ONNX Runtime's time goes, by kind of node, as its own profiler says."""

import json
from collections import defaultdict
from pathlib import Path
from statistics import median

import onnxruntime

from lightdet_tools.deploy.runtime import onnx_session

CALLS = 40  # of each network, in turn


def by_operator(networks: dict[str, tuple[Path, object]], threads: int) -> list[dict]:
    """Milliseconds of a call by kind of node, in the order of the networks, longest first.

    A kind is a sum of its nodes' medians. What the runtime fuses counts where it went: ReLU6 and
    h-swish are part of a convolution, SiLU is a node of its own (QuickGelu).

    Args:
        networks: an ONNX file and its input, by the system's key.

    Returns:
        Rows of system, operator, nodes, ms.
    """
    sessions = {
        key: onnx_session(path, threads, path.with_name(f"{key}-profile"))
        for key, (path, _) in networks.items()
    }
    for _ in range(CALLS):
        for key, session in sessions.items():
            session.run(None, {"images": networks[key][1]})
    return [row for key, session in sessions.items() for row in _rows(key, session)]


def _rows(key: str, session: onnxruntime.InferenceSession) -> list[dict]:
    times = defaultdict(lambda: defaultdict(list))
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"]][event["name"]].append(event["dur"] / 1000)
    kinds = {kind: (len(nodes), sum(map(median, nodes.values()))) for kind, nodes in times.items()}
    ordered = sorted(kinds.items(), key=lambda kind: -kind[1][1])
    return [
        {"system": key, "operator": kind, "nodes": nodes, "ms": round(ms, 3)}
        for kind, (nodes, ms) in ordered
    ]
