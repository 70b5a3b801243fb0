"""How fast the systems of Table 1 are on this machine: one protocol for all of them.

    python -m lightdet_core.latency

Batch 1, RGB images 0..255, normalisation inside. All systems of a runtime are loaded first; then in
each of ROUNDS rounds every one has its turn, in an order that is drawn anew: two calls that do not
count, then its share of the measured ones. So a slow minute of the machine hits all of them alike,
and ratios inside one runtime are what may be compared. `network` is the call from prepared input
to raw output; `boxes` starts at a decoded image of 640 x 480 pixels (letterbox, network, decoding,
thresholds, NMS). Times do not depend on the weights, so those are random; what NMS has to do does,
so ours are given biases that leave about as many candidates as a trained network has.
Written to results/speed/latency.json.
"""

import argparse
import copy
import os
import platform
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lightdet_core import comparators, export, runtime
from lightdet_core.config import ROOT, UserError, load_config, run_cli
from lightdet_core.datasets import write_json
from lightdet_core.detect import exported_find
from lightdet_core.model import LightDet
from lightdet_core.pack import letterbox
from lightdet_core.provenance import git_state, hardware
from lightdet_core.runtime import Exported
from lightdet_core.scenes import draw_scene

OURS = ("g5", "g1", "c0", "+mish", "+hswish", "+e4", "+e3")  # at the paper's sizes, 80 classes
COMPILED = ("yolov4_tiny", "g5")  # a minute each
QUANTIZED = ("c0", "g5")
REFERENCE = "yolov4_tiny"  # of the ratios
ROUNDS = 10
LEAST = 5  # calls of the slowest
# difference from torch in fp32 as a share of the largest output; 0.01 for the others
TOLERANCE = {"torch bf16": 0.2, "onnxruntime int8": 0.5, "cuda fp16": 0.05}
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "effdet", "onnxruntime", "ncnn")


class System(NamedTuple):
    """One detector."""

    key: str
    title: str
    size: int  # of its square input, pixels
    model: nn.Module  # forward: images (B, 3, S, S) -> tensors; detect: -> boxes
    deployed: nn.Module  # what is exported: the same outputs


def systems(names: list[str] | None = None) -> list[System]:
    """The comparators of Table 1 and our networks, with random weights.

    Args:
        names: of COMPARATORS and of experiments; None takes all comparators and OURS.
    """
    found = []
    for name in names or [*comparators.COMPARATORS, *OURS]:
        torch.manual_seed(0)
        if name in comparators.COMPARATORS:
            about = comparators.COMPARATORS[name]
            model = disturb(comparators.build(name))
            found.append(System(name, about.title, about.size, model, model))
            continue
        config = load_config(name, "coco").model
        model = disturb(LightDet(config).eval())
        title = f"LightDet {name}"
        deployed = export.deployable(model, config.input_size)
        found.append(System(name, title, config.input_size, model, deployed))
    return found


@torch.no_grad()
def disturb(model: nn.Module) -> nn.Module:
    """Every weight off its first value: exporters merge equal tensors, as no trained ones are."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and tensor.numel() > 1:
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.mul_(1 + 0.01 * noise).add_(1e-4 * noise)
    return model


class Loaded(NamedTuple):
    """A system in a runtime."""

    prepare: Callable[[np.ndarray], object]  # canvas (S, S, 3) uint8 -> the network's input
    network: Callable[[object], list]  # -> raw outputs, arrays or tensors with a batch axis
    size_bytes: int | None = None  # of the file that was loaded


def to_floats(canvas: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8 -> (1, 3, S, S) float32."""
    return canvas.transpose(2, 0, 1)[None].astype(np.float32, order="C")


def load_torch(system: System, threads: int, folder: Path) -> Loaded:
    model = system.model.to(memory_format=torch.channels_last)
    return Loaded(_tensor, torch.inference_mode()(lambda x: list(model(x))))


def load_bf16(system: System, threads: int, folder: Path) -> Loaded:
    model = system.model.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def network(x: Tensor) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return list(model(x))

    return Loaded(_tensor, network)


def load_compiled(system: System, threads: int, folder: Path) -> Loaded:
    if not shutil.which("g++"):
        raise UserError("torch.compile needs g++ on the PATH")
    model = torch.compile(system.model.to(memory_format=torch.channels_last))
    return Loaded(_tensor, torch.inference_mode()(lambda x: list(model(x))))


def _tensor(canvas: np.ndarray) -> Tensor:
    images = torch.from_numpy(canvas)[None].permute(0, 3, 1, 2)
    return images.float().contiguous(memory_format=torch.channels_last)


def load_cuda(system: System, threads: int, folder: Path) -> Loaded:
    """fp16 on the GPU, as one CUDA graph, so that no time goes into launching kernels."""
    model = copy.deepcopy(system.model).to("cuda", torch.float16, memory_format=torch.channels_last)
    images = _tensor(np.zeros((system.size, system.size, 3), np.uint8)).to("cuda", torch.float16)
    with torch.inference_mode():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what is loaded lazily must not be captured
            for _ in range(3):
                model(images)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = list(model(images))

    def network(x: Tensor) -> list[Tensor]:
        images.copy_(x)
        graph.replay()
        return [output.float().cpu() for output in outputs]  # waits for the graph

    return Loaded(lambda canvas: _tensor(canvas).to("cuda", torch.float16), network)


def load_onnx(system: System, threads: int, folder: Path) -> Loaded:
    model = _onnx(system)
    return _session(model.SerializeToString(), threads)


def load_int8(system: System, threads: int, folder: Path) -> Loaded:
    images = export.example_images(system.size)
    model = export.quantize(_onnx(system), [to_floats(image) for image in images])
    return _session(model.SerializeToString(), threads)


def _onnx(system: System) -> object:
    example = torch.zeros(1, 3, system.size, system.size)
    with torch.inference_mode():
        count = len(system.deployed(example))
    names = [f"out{i}" for i in range(count)]
    return export.convert_onnx(system.deployed, example, names)["fp32"]


def _session(content: bytes, threads: int) -> Loaded:
    session = runtime.onnx_session(content, threads)
    return Loaded(to_floats, lambda x: session.run(None, {"images": x}), len(content))


def load_ncnn(system: System, threads: int, folder: Path) -> Loaded:
    example = torch.zeros(1, 3, system.size, system.size)
    deployed = system.deployed
    with torch.inference_mode():
        count = len(deployed(example))
    if system.key not in comparators.COMPARATORS:  # ncnn has a Mish of its own
        deployed = export.deployable(system.model, system.size, mish=nn.Mish)
    param, values = export.convert_ncnn(deployed, example)["fp32"]
    path = folder / f"{system.key}.param"
    path.write_text(param)
    path.with_suffix(".bin").write_bytes(values)
    network = runtime.ncnn_network(path, count, threads)
    batch = lambda pixels: [output[None] for output in network(pixels)]  # noqa: E731
    return Loaded(runtime.ncnn_pixels, batch, len(values))


RUNTIMES = {  # name: how to load, which systems (None: all)
    "torch": (load_torch, None),
    "torch bf16": (load_bf16, QUANTIZED),
    "torch.compile": (load_compiled, COMPILED),
    "onnxruntime": (load_onnx, None),
    "onnxruntime int8": (load_int8, QUANTIZED),
    "ncnn": (load_ncnn, None),
    "cuda fp16": (load_cuda, None),  # where there is a GPU
}


# ------------------------------------------------------------------------------------ measuring


def interleaved(
    calls: dict[object, Callable[[], object]], seconds: float, rounds: int = ROUNDS
) -> dict[object, list[float]]:
    """Seconds of each call, measured in turns.

    Args:
        calls: what to time, by name.
        seconds: for each of them; the slowest get LEAST calls, whatever these take.
        rounds: turns that the calls of each are spread over.
    """
    times, wanted, draw = {name: [] for name in calls}, {}, random.Random(0)
    for name, call in calls.items():
        call()
        wanted[name] = max(LEAST, int(seconds / _time(call)))
    for number in range(1, rounds + 1):
        for name in draw.sample(list(calls), len(calls)):
            due = wanted[name] * number // rounds - len(times[name])
            if due:
                calls[name]()
                calls[name]()
            times[name] += [_time(calls[name]) for _ in range(due)]
    return times


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def rows_of(times: dict[tuple, list[float]]) -> list[dict]:
    """Median and the middle 80 % in milliseconds, by (runtime, system, part)."""
    rows = []
    for (runtime_name, system, part), values in times.items():
        low, middle, high = 1000 * np.quantile(values, (0.1, 0.5, 0.9))
        rows.append(
            {
                "runtime": runtime_name,
                "system": system,
                "part": part,
                "calls": len(values),
                "median_ms": round(middle, 3),
                "p10_ms": round(low, 3),
                "p90_ms": round(high, 3),
            }
        )
    return rows


def image_to_boxes(system: System, loaded: Loaded, threshold: float) -> Callable | None:
    """From a decoded image to boxes, or None where the network's own decoder cannot be used."""
    image = draw_scene(0, 0)[0]
    image = np.ascontiguousarray(letterbox(image, 640)[80:560])  # 640 x 480
    if system.key not in comparators.COMPARATORS:
        about = {"form": "raw", "input": {"size": system.size}}

        def run(canvases: np.ndarray) -> list[np.ndarray]:
            return [np.asarray(x) for x in loaded.network(loaded.prepare(canvases[0]))]

        find = exported_find(Exported(about, run))
        return lambda: find(letterbox(image, system.size), threshold, 0.6, 100)
    if isinstance(system.model, comparators.Torchvision):
        if loaded.size_bytes is not None:
            return None  # the library decodes what its own network gives
        canvas = lambda: loaded.prepare(letterbox(image, system.size))  # noqa: E731
        return lambda: system.model.detect(canvas(), threshold)
    shape = torch.empty(1, 3, system.size, system.size)

    def detect() -> object:
        outputs = loaded.network(loaded.prepare(letterbox(image, system.size)))
        outputs = [torch.as_tensor(x) for x in outputs]
        with answering(system.model, outputs):
            return system.model.detect(shape, threshold)

    return detect


@contextmanager
def answering(model: nn.Module, outputs: list[Tensor]) -> Iterator[None]:
    """The model's forward pass gives these outputs, whatever the images."""
    model.forward = lambda images: outputs
    try:
        yield
    finally:
        del model.forward


def threshold_for(system: System, outputs: list[Tensor], candidates: int = 200) -> float:
    """The score that about so many (cell, class) pairs exceed."""
    if isinstance(system.model, comparators.Torchvision):  # its `detect` takes images only
        logits = outputs[0].flatten(0, 1)
        scores = logits.softmax(-1)[:, 1:] if system.key == "ssd" else logits.sigmoid()
        return scores.flatten().topk(candidates).values[-1].item()
    shape = torch.empty(1, 3, system.size, system.size)
    low, high = -12.0, 12.0  # logits; the interval is halved
    with answering(system.model, outputs):
        for _ in range(12):
            middle = (low + high) / 2
            score = torch.tensor(middle).sigmoid().item()
            found = system.model.detect(shape, score, 1.0, 10**6)[0]  # 1.0: nothing is suppressed
            low, high = (middle, high) if len(found.scores) > candidates else (low, middle)
    return torch.tensor(high).sigmoid().item()


def measure(
    names: list[str] | None,
    runtimes: list[str],
    seconds: float,
    threads: int,
    progress: Callable[[str], None] = print,
) -> dict:
    """Times of all systems in all runtimes.

    Returns:
        systems (key, title, size, parameters, gmac and bytes by runtime), latency (`rows_of`) and
        not_possible (runtime, system, reason).
    """
    torch.set_num_threads(threads)
    chosen, rows, failed = systems(names), [], []
    facts = {
        s.key: {"key": s.key, "title": s.title, "size": s.size}
        | {k: round(v, 4) for k, v in comparators.count(s.model, s.size).items()}
        | {"bytes": {}}
        for s in chosen
    }
    canvases = {s.key: letterbox(draw_scene(0, 0)[0], s.size) for s in chosen}
    with torch.inference_mode():
        wanted = {s.key: list(s.model(_tensor(canvases[s.key]))) for s in chosen}
    thresholds = {s.key: threshold_for(s, wanted[s.key]) for s in chosen}
    with tempfile.TemporaryDirectory() as folder:
        for name in runtimes:
            load, keys = RUNTIMES[name]
            calls = {}
            for system in (s for s in chosen if keys is None or s.key in keys):
                progress(f"{name}: loading {system.title}")
                try:
                    loaded = load(system, threads, Path(folder))
                    x = loaded.prepare(canvases[system.key])
                    _check_same(loaded.network(x), wanted[system.key], TOLERANCE.get(name, 1e-2))
                except (UserError, RuntimeError, ValueError) as error:
                    reason = runtime.first_line(error)
                    failed.append({"runtime": name, "system": system.key, "reason": reason})
                    progress(f"{name}: not {system.title}: {reason}")
                    continue
                if loaded.size_bytes is not None:
                    facts[system.key]["bytes"][name] = loaded.size_bytes
                calls[name, system.key, "network"] = partial(loaded.network, x)
                boxes = image_to_boxes(system, loaded, thresholds[system.key])
                if boxes is not None:
                    calls[name, system.key, "boxes"] = boxes
            progress(f"{name}: timing {len(calls)} calls")
            with torch.inference_mode():
                rows += rows_of(interleaved(calls, seconds))
    return {"systems": list(facts.values()), "latency": rows, "not_possible": failed}


def _check_same(found: list, wanted: list[Tensor], limit: float) -> None:
    for a, b in zip((torch.as_tensor(x).float() for x in found), wanted, strict=True):
        difference = float((a - b).abs().max() / b.abs().max())
        if a.shape != b.shape or not difference <= limit:
            raise UserError(f"its outputs differ from torch's by {difference:.2g} of the largest")


def clock() -> list[float]:
    """MHz of each core as the kernel states it now; [] where it does not."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time every system of Table 1 on this machine.")
    parser.add_argument("--systems", nargs="+", help="comparators, experiments; default: all")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, help="default: all")
    parser.add_argument("--seconds", type=float, default=2.0, help="per system, runtime and part")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "speed" / "latency.json")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    args = parser.parse_args()
    if args.seconds <= 0 or args.threads < 1:
        parser.error("--seconds must be above 0 and --threads at least 1")
    start, before = time.monotonic(), clock()
    progress = lambda line: print(f"{time.monotonic() - start:5.0f} s  {line}", flush=True)  # noqa: E731
    usable = [name for name in RUNTIMES if "cuda" not in name or torch.cuda.is_available()]
    found = measure(args.systems, args.runtimes or usable, args.seconds, args.threads, progress)
    about = {
        "command": f"python -m lightdet_core.latency --seconds {args.seconds:g} "
        f"--threads {args.threads}",
        **git_state(),
        "hardware": hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "threads": args.threads,
        "clock_mhz": {"before": before, "after": clock()},
        "versions": {"python": platform.python_version(), **{k: version(k) for k in LIBRARIES}},
        "image": "640 x 480",
        "reference": REFERENCE,
        "took_s": round(time.monotonic() - start),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, about | found, indent=1)
    print(f"written to {args.out}")


if __name__ == "__main__":
    run_cli(main)
