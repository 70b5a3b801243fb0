"""How fast the systems of Table 1 are on this machine: one protocol for all of them.

    lightdet latency
    lightdet latency --profile demo    # what is trained there, at the sizes that the demo has

Batch 1, RGB images 0..255, normalisation inside. All systems are converted and checked first. Then
those of a group of runtimes are opened, and every one has its turn, again and again
(`timing.interleaved`). So a slow minute of the machine hits all of them alike, and ratios inside
one group are what may be compared. Each is called for --seconds, but some times at least: a row's
`calls` says how often. `network` is the call from prepared input to raw output; GFLv2's quality,
which the exported network leaves to the host, is none of it. `boxes` goes from a decoded image of
640 x 480 pixels to boxes on the canvas: letterbox, network, decoding, threshold, NMS, each system
with its own decoder (ours and NanoDet's look at the threshold first, `detector.exported_find`), in
one thread where the network is not torch's. Weights are random, batch norm is measured on drawn
scenes, class logits of ours and NanoDet's are spread as a trained network's, and thresholds let
about CANDIDATES pairs of cell and class through.
Written to results/speed/latency.json (with a profile: <profile>.json), until the end as .partial.
"""

import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lightdet_core.config import UserError, read_params, root
from lightdet_core.machinery.distributed import best_device
from lightdet_core.machinery.files import write_json
from lightdet_core.machinery.images import letterbox
from lightdet_core.machinery.provenance import git_state, hardware
from lightdet_core.model import LightDet
from lightdet_tools.data.scenes import draw_scene
from lightdet_tools.deploy import export, runtime
from lightdet_tools.deploy.detector import exported_find
from lightdet_tools.deploy.runtime import Exported
from lightdet_tools.table1 import comparators
from lightdet_tools.table1.operators import by_operator
from lightdet_tools.table1.runtimes import (
    GROUPS,
    RUNTIMES,
    Loaded,
    Runtime,
    trace_ncnn,
    write_ncnn,
    write_onnx,
)
from lightdet_tools.table1.systems import System, systems
from lightdet_tools.timing import interleaved

LEAST = 3  # calls of the slowest
REFERENCE = "yolov4_tiny"  # of the ratios
CANDIDATES = 200  # before NMS; a trained network leaves some hundreds at a score of 0.05
PROFILE_IN = "onnxruntime"
PROFILED = (REFERENCE, "g5", "c0", "+hswish")  # SiLU, ReLU6, h-swish of one network
LIBRARIES = (
    "torch", "torchvision", "timm", "transformers", "effdet", "onnxruntime", "ncnn", "openvino",
)  # fmt: skip


def rows_of(times: dict[tuple, list[float]]) -> list[dict]:
    """Median and the middle 80 % in milliseconds, by (runtime, base, system, part)."""
    rows = []
    for key, values in times.items():
        low, middle, high = 1000 * np.quantile(values, (0.1, 0.5, 0.9))
        found = {"median_ms": middle, "p10_ms": low, "p90_ms": high}
        about = dict(zip(("runtime", "base", "system", "part"), key, strict=True))
        rows.append(about | {"calls": len(values)} | {k: round(v, 3) for k, v in found.items()})
    return rows


def image_to_boxes(system: System, loaded: Loaded, threshold: float) -> Callable[[], object]:
    """From a decoded image to boxes on the canvas."""
    image = np.ascontiguousarray(letterbox(draw_scene(0, 0)[0], 640)[80:560])  # 640 x 480
    canvas = partial(letterbox, image, system.size, quick=True)
    if isinstance(system.model, LightDet):

        def run(canvases: np.ndarray) -> list[np.ndarray]:
            outputs = loaded.network(loaded.prepare(canvases[0]))
            return [_floats(x).numpy() for x in outputs]

        quality = export.quality_layers(system.model.head.quality)
        about = {"form": "raw", "input": {"size": system.size}, "quality": quality}
        find = exported_find(Exported(about, run))
        return lambda: find(canvas()[None], threshold, 0.6, 100)

    def detect() -> object:
        outputs = [_floats(x) for x in loaded.network(loaded.prepare(canvas()))]
        return system.model.postprocess(outputs, (system.size,) * 2, threshold, 0.6, 100)

    return detect


def _floats(output: np.ndarray | Tensor) -> Tensor:
    return torch.as_tensor(output).float().cpu()


def score_threshold(system: System, outputs: list[Tensor], candidates: int = CANDIDATES) -> float:
    """The score that so many (cell, class) pairs exceed, or 0 where there are fewer."""
    limits = 0.0, 1.0, 10**6  # 1.0: nothing is suppressed
    scores = system.model.postprocess(outputs, (system.size,) * 2, *limits)[0].scores
    few = len(scores) <= candidates
    return 0.0 if few else scores.topk(candidates + 1).values[-1].item()


def measure(
    names: list[str] | None,
    runtimes: list[str],
    seconds: float,
    threads: int,
    progress: Callable[[str], None] = print,
    keep: Callable[[dict], None] = lambda found: None,
    profile: str = "coco",
) -> dict:
    """Times of all systems in all runtimes.

    Args:
        names, profile: of `systems`.
        runtimes: of RUNTIMES.
        keep: is given what is there, after loading and after each group of runtimes.

    Returns:
        systems (key, title, size, parameters, gmac, in_paper and bytes by runtime), latency
        (`rows_of`), not_possible (runtime, system, reason) and, with onnxruntime, operators
        (`by_operator`) of the reference and of what PROFILED names.
    """
    torch.set_num_threads(threads)
    progress("building the networks")
    found = {"systems": [], "latency": [], "not_possible": [], "operators": []}
    with tempfile.TemporaryDirectory() as place:
        folder, ready, chosen = Path(place), [], []
        with _aside() as submit:
            files = []
            for s in systems(names, profile):
                chosen.append(s)
                counts = {k: round(v, 4) for k, v in comparators.count(s.model, s.size).items()}
                about = {"key": s.key, "title": s.title, "size": s.size, "in_paper": s.in_paper}
                found["systems"].append(about | counts | {"bytes": {}})
                if "ncnn" in runtimes:
                    with suppress(Exception):  # `load_ncnn` tries again, and says why
                        files.append(submit(write_ncnn, trace_ncnn(s, folder), s, folder))
            for group in sorted(GROUPS, key=lambda group: "ncnn" in group):
                torch.set_num_threads(threads)
                pairs = [(name, s) for name in group if name in runtimes for s in chosen]
                if "ncnn" in group and files:
                    progress("ncnn: until pnnx has written its files")
                    wait(files)
                usable, sizes, problems = _usable(group, pairs, threads, folder, progress)
                for row in found["systems"]:
                    row["bytes"] |= sizes.get(row["key"], {})
                found["not_possible"] += problems
                ready += [(group, usable)] if usable else []
        keep(found)
        for group, usable in ready:
            title = " and ".join(dict.fromkeys(name for name, _ in usable))
            progress(f"{title}: timing {len(usable)} networks")
            found["latency"] += rows_of(_times(group, usable, threads, folder, seconds))
            keep(found)
            if PROFILE_IN in group:
                found["operators"] = _operators(usable, threads, folder)
                keep(found)
    return found


@contextmanager
def _aside() -> Iterator[Callable[..., Future]]:
    """What is submitted runs in another thread: pnnx takes minutes, on one core."""
    with ThreadPoolExecutor(1) as thread:
        try:
            yield thread.submit
        finally:  # of a stop, too
            thread.shutdown(cancel_futures=True)


def _usable(
    group: dict[str, Runtime],
    pairs: list[tuple[str, System]],
    threads: int,
    folder: Path,
    progress: Callable[[str], None],
) -> tuple[dict[tuple[str, System], float | None], dict[str, dict[str, int]], list[dict]]:
    """The score threshold of each (runtime, system) that runs (None: only its network does), the
    bytes of their files by system and runtime, and what does not run."""
    usable, sizes, problems = {}, {}, []
    for name, system in pairs:
        if group[name].keys is not None and system.key not in group[name].keys:
            continue
        progress(f"{name}: loading {system.title}")
        part = "network"
        try:
            loaded = group[name].load(system, threads, folder)
            outputs = list(map(_floats, loaded.network(loaded.prepare(system.canvas))))
            _check_same(outputs, system.wanted, group[name].tolerance)
            if loaded.size_bytes is not None:
                sizes.setdefault(system.key, {})[name] = loaded.size_bytes
            usable[name, system], part = None, "boxes"
            with torch.inference_mode():
                threshold = score_threshold(system, outputs)
                image_to_boxes(system, loaded, threshold)()
            usable[name, system] = threshold
        except Exception as error:  # of six libraries: no common class
            row = {"runtime": name, "system": system.title, "part": part}
            problems.append(row | {"reason": runtime.first_line(error)})
            progress(f"{name}: no {part} of {system.title}: {problems[-1]['reason']}")
    return usable, sizes, problems


def _times(
    group: dict[str, Runtime], usable: dict, threads: int, folder: Path, seconds: float
) -> dict[tuple, list[float]]:
    """Seconds of calls, by (runtime, base, system, part)."""
    torch.set_num_threads(threads)
    calls = {}
    for (name, system), threshold in usable.items():
        loaded = group[name].load(system, threads, folder)
        key = name, group[name].base, system.key
        calls[*key, "network"] = partial(loaded.network, loaded.prepare(system.canvas))
        if threshold is not None:
            calls[*key, "boxes"] = image_to_boxes(system, loaded, threshold)
    with torch.inference_mode():
        for (*_, part), call in calls.items():
            if part == "network":  # it is in the other call, too
                call()
        if "torch" not in group:  # a second thread of it would wait for the runtime's
            torch.set_num_threads(1)
        return interleaved(calls, seconds, least=LEAST)


def _operators(usable: dict, threads: int, folder: Path) -> list[dict]:
    chosen = {
        system.key: (write_onnx(system, folder), runtime.to_floats(system.canvas[None]))
        for name, system in usable
        if name == PROFILE_IN and system.key in PROFILED
    }
    return by_operator(chosen, threads)


def _check_same(found: list[Tensor], wanted: list[Tensor], limit: float) -> None:
    for a, b in zip(found, wanted, strict=True):
        if a.shape != b.shape:
            raise UserError(f"an output is {tuple(a.shape)}, torch's {tuple(b.shape)}")
        difference = float((a - b).abs().max() / b.std())
        if not difference <= limit:
            raise UserError(
                f"its outputs differ from torch's by {difference:.2g} of their deviation"
            )


def write_table(
    systems: list[str] | None,
    runtimes: list[str] | None,
    seconds: float,
    threads: int,
    out: Path | None,
    progress: Callable[[str], None] = print,
    profile: str = "coco",
) -> Path:
    """`measure` into a file, with what it was measured with.

    Args:
        out: None is results/speed/latency.json for `coco`, <profile>.json for another.

    Raises:
        UserError: impossible values.
    """
    if seconds <= 0 or threads < 1:
        raise UserError(
            f"--seconds {seconds:g}, --threads {threads}: above 0 and at least 1 are needed"
        )
    if unknown := set(runtimes or ()) - set(RUNTIMES):
        raise UserError(
            f"--runtimes {', '.join(sorted(unknown))}: choose from {', '.join(RUNTIMES)}"
        )
    for wanted in systems or ():
        if wanted not in comparators.COMPARATORS and wanted not in read_params()["experiments"]:
            known = ", ".join(comparators.COMPARATORS)
            raise UserError(
                f"--systems {wanted}: no experiment of params.yaml, and none of the comparators, "
                f"which are {known}"
            )
    if out and out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file")
    if (systems or runtimes) and not out:
        raise UserError("a part of the table does not replace the whole: add --out FILE")
    name = "latency" if profile == "coco" else profile
    out = out or root() / "results" / "speed" / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    usable = [name for name in RUNTIMES if "cuda" not in name or torch.cuda.is_available()]
    start = time.monotonic()

    def timed(line: str) -> None:
        progress(f"{time.monotonic() - start:5.0f} s  {line}")

    options = [f"--seconds {seconds:g} --threads {threads}"]
    options += [f"--profile {profile}"] if profile != "coco" else []
    options += [f"--systems {name}" for name in systems or ()]
    options += [f"--runtimes {name!r}" for name in runtimes or ()]
    device = best_device()
    about = {
        "command": f"lightdet latency {' '.join(options)}",
        **git_state(),
        "hardware": hardware(device),
        "threads": threads,
        "versions": {"python": platform.python_version(), **{k: version(k) for k in LIBRARIES}},
        "reference": REFERENCE,
    }

    unfinished = out.with_suffix(".partial")  # a stop leaves the times of before in their place

    def keep(found: dict) -> None:
        took = {"took_s": round(time.monotonic() - start)}
        write_json(unfinished, about | took | found, indent=1)

    keep({})  # it can be written, then
    measure(systems, runtimes or usable, seconds, threads, timed, keep, profile)
    unfinished.replace(out)
    return out


def medians(path: Path) -> str:
    """What `write_table` wrote as a table for a terminal: the networks, by runtime."""
    found = json.loads(path.read_text())
    titles = {system["key"]: system["title"] for system in found["systems"]}
    rows = [row for row in found["latency"] if row["part"] == "network"]
    table = pd.DataFrame(rows, columns=["system", "runtime", "median_ms"])
    table = table.pivot(index="system", columns="runtime", values="median_ms").round(1)
    table = table.reindex(index=titles, columns=dict.fromkeys(row["runtime"] for row in rows))
    table.index = pd.Index(titles.values(), name="network, ms")
    return table.to_string(na_rep="-")
