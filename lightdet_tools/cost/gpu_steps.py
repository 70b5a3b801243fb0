"""What is measured on a GPU: checks against a CPU, speed of training, latency, 2:4 products.

Each step is a function that takes a `Job` and hands what it has found so far to `Job.keep`. gpu.py
runs them.
"""

import copy
import dataclasses
import gc
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from lightdet_core import engine, sparsity
from lightdet_core.augment import on_device, training_batch, training_batches
from lightdet_core.boxes import Batch, Logits
from lightdet_core.config import Config, UserError, load_config, read_params, root
from lightdet_core.machinery.files import read_result
from lightdet_core.machinery.packs import Pack, open_split, with_classes
from lightdet_core.machinery.precision import exact
from lightdet_core.model import LightDet, build
from lightdet_tools.cost.benchmark import learn, step_times, untrained
from lightdet_tools.data.pack import prepare_packs
from lightdet_tools.deploy.graph import fold_batch_norm
from lightdet_tools.report import zeros
from lightdet_tools.table1 import comparators
from lightdet_tools.timing import clock, cuda_graph, interleaved, milliseconds

RUNS = ("teacher", "g1", "g2", "g3", "g4", "g5")  # of a row; the last one needs the first
SYSTEMS = ("g5", "c0", "+hswish", "yolov4_tiny", "yolov3_tiny", "nanodet_m")
REFERENCE = "yolov4_tiny"
CLOSE = 1e-4  # relative difference of a GPU's float32 from a CPU's
WARM_UP, MEASURED = 10, 50  # steps: the first batch or two of these are made before
GPU_TESTS = ("core/test_train.py", "tools/cost/test_gpu.py")  # the files with the mark `gpu`
LIBRARIES = ("CUSPARSELT", "CUTLASS")  # that know the 2:4 form, as torch calls them


class Job(NamedTuple):
    """What a step is given."""

    bundle: Path
    out: Path
    device: torch.device
    small: bool  # a rehearsal: sizes at which only the code is tried
    seconds: float  # until it is ended
    keep: Callable[[dict], None]  # writes what is there so far


def params_of(folder: Path) -> dict:
    """params.yaml, and for each profile of the bundle one whose data are the bundle's."""
    params = read_params()
    for name in read_result(folder / "manifest.json", ("data",), "make gpu")["data"]:
        one = copy.deepcopy(params[name])
        data = {"source": "folder", "images": str(folder / name / "images" / "{split}")}
        for split in ("train", "val"):
            data[f"{split}_annotations"] = str(folder / name / "annotations" / f"{split}.json")
        one["data"] = data | {"pack_size": one["data"]["pack_size"]}
        params[f"{name}_gpu"] = one
    return params


def profiles_of(job: Job) -> list[str]:
    """The profiles of `params_of` that have the bundle's data."""
    return [name for name in params_of(job.bundle) if name.endswith("_gpu")]


def configs_of(job: Job, names: tuple[str, ...] = RUNS) -> dict[str, list[Config]]:
    """The runs of each profile of the bundle, seed 0, with the bundle's ImageNet weights."""
    params = params_of(job.bundle)
    return {
        profile_: [config_of(job.bundle, name, profile_, 0, params) for name in names]
        for profile_ in profiles_of(job)
    }


def measured_config(job: Job, run: str) -> Config:
    """A run of the bundle's last profile, the largest: its classes are COCO's."""
    return config_of(job.bundle, run, profiles_of(job)[-1], 0, params_of(job.bundle))


def config_of(folder: Path, run: str, profile: str, seed: int, params: dict) -> Config:
    """The settings of one run, from ImageNet by the weights in the bundle."""
    config = load_config(run, profile, seed, params)
    weights = folder / "imagenet" / f"{config.model.backbone}.safetensors"
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, pretrained=str(weights))
    )


# ---------------------------------------------------------------------------------------- checks


def data(job: Job) -> None:
    """Packs of all profiles."""
    for configs in configs_of(job).values():
        prepare_packs(configs, partial(print, flush=True))


def checks(job: Job) -> None:
    """The tests that need a GPU; losses and gradients of one batch against a CPU.

    The device may err by CLOSE, or by five times what float32 on the CPU errs.

    Raises:
        UserError: a test has failed or was skipped, or the device computes something else.
    """
    config = measured_config(job, "g4")
    pack = open_split(config, "train")
    config = with_classes(config, pack)
    with exact():
        found = {"one batch": compare_devices(config, pack, job.device)}
    job.keep(found)
    code, found["tests"] = run_tests()
    job.keep(found)
    wanted = "passed" if job.device.type == "cuda" else "skipped"
    if (
        code
        or wanted not in found["tests"]
        or len(re.findall("passed|skipped", found["tests"])) > 1
    ):
        raise UserError(f"tests: exit code {code}, {found['tests']}")
    device, cpu = found["one batch"]["device"], found["one batch"]["cpu"]
    if wrong := [key for key, off in device.items() if not off <= max(CLOSE, 5 * cpu[key])]:
        raise UserError(f"{', '.join(wrong)} differ too much from float64: {found['one batch']}")


def run_tests() -> tuple[int, str]:
    """The exit code and the last line of pytest over the tests with the mark `gpu`."""
    files = [str(root() / "tests" / name) for name in GPU_TESTS]
    command = [sys.executable, "-m", "pytest", "--override-ini", "addopts=--strict-markers"]
    command += ["-m", "gpu", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=root(), capture_output=True, text=True)
    print(done.stdout[-4000:], done.stderr[-2000:], sep="\n")
    return done.returncode, (done.stdout.strip().splitlines() or [""])[-1].strip("= ")


def compare_devices(
    config: Config, pack: Pack, device: torch.device, images: int = 2
) -> dict[str, dict[str, float]]:
    """Relative differences of one batch's losses and of its whole gradient from float64 on a CPU.

    Returns:
        `device`: float32 on the device, without TF32; `cpu`: float32 on the CPU. Each with every
        loss and `gradient`, the norm of the difference over the norm.
    """
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=images))
    batch = training_batch(pack, config, config.seed, 0, "cpu")
    torch.manual_seed(config.seed)
    model = build(config).train()

    def losses(where: torch.device, dtype: torch.dtype) -> tuple[dict[str, float], Tensor]:
        net = copy.deepcopy(model).to(where, dtype)
        own = [x.to(where, dtype if x.is_floating_point() else None) for x in batch]
        cls_logits, box_logits = net(own[0])
        logits = Logits(cls_logits, box_logits, net.head.quality_logits(box_logits))
        terms = engine.batch_loss(logits, Batch(*own), config)
        engine.total_loss(terms).backward()
        gradient = torch.cat([p.grad.double().cpu().flatten() for p in net.parameters()])
        return {k: v.item() for k, v in terms.items() if k.startswith("loss")}, gradient

    cpu = torch.device("cpu")
    wanted, slope = losses(cpu, torch.float64)
    found = {}
    for name, where in (("device", device), ("cpu", cpu)):
        terms, gradient = losses(where, torch.float32)
        found[name] = {k: abs(v - wanted[k]) / abs(wanted[k]) for k, v in terms.items()}
        found[name]["gradient"] = float((gradient - slope).norm() / slope.norm())
    return found


# ----------------------------------------------------------------------------------------- speed


class Way(NamedTuple):
    """One way to take training steps."""

    name: str
    precision: str = "fp16"
    tf32: bool = False
    tuned: bool = False  # cuDNN tries its algorithms in the first steps and takes the fastest
    graph: bool = False  # the network's two passes as CUDA graphs
    compiled: str = ""  # mode of torch.compile
    batch: int = 128
    run: str = "g3"


WAYS = (
    Way("fp16"),
    Way("fp16, tuned", tuned=True),
    Way("fp16, tuned, CUDA graphs", tuned=True, graph=True),
    Way("bf16, tuned", "bf16", tuned=True),
    Way("TF32, tuned", "fp32", tf32=True, tuned=True),
    Way("fp32, tuned", "fp32", tuned=True),
    Way("fp16-pure, tuned", "fp16-pure", tuned=True),
    Way("fp16, tuned, batch 32", tuned=True, batch=32),
    Way("fp16, tuned, batch 256", tuned=True, batch=256),
    Way("group 5 with its teacher, fp16, tuned", tuned=True, run="g5"),
)
COMPILED = (
    Way("fp16, tuned, compiled", tuned=True, compiled="default"),
    Way("fp16, tuned, compiled, CUDA graphs", tuned=True, compiled="reduce-overhead"),
)


def speed(job: Job, ways: tuple[Way, ...] = WAYS) -> None:
    """Images/s of training from packed images on the device, and where the time of a step goes.

    No way is begun when three quarters of the time are over.
    """
    began = time.monotonic()
    pack, _ = on_device(open_split(measured_config(job, "g3"), "train"), job.device)
    found = {"network": "Lite1, SGD, Mosaic in every second image, packs on the device"}
    found["images/s"] = {}
    for way in ways:
        if time.monotonic() - began > 0.75 * job.seconds:
            found["images/s"][way.name] = {"error": "no time was left"}
            continue
        own = _timed_config(job, way)
        try:
            found["images/s"][way.name] = images_per_second(own, pack, job, way)
            if way is WAYS[0]:
                found["where the time of this goes"] = way.name
                found |= anatomy(own, pack, job)
        except Exception as error:  # out of memory, a kernel that is not there: the next way
            found["images/s"].setdefault(way.name, {})["error"] = _in_short(error)
        print(way.name, found["images/s"][way.name], flush=True)
        job.keep(found)


def anatomy(config: Config, pack: Pack, job: Job) -> dict:
    """Augmentation alone, the parts of a step, the operations that take most of it."""
    with exact():  # as in training
        alone = augmentation_per_second(config, pack, job)
        times = step_times(config, job.device, 2 if job.small else 20)
        operations = kernels(config, pack, job)
    parts = {part: 1000 * statistics.median(t[len(t) // 2 :]) for part, t in times.items()}
    return {
        "augmentation alone": alone,
        "parts, ms, each waiting for the one before": {k: round(v, 3) for k, v in parts.items()},
        "operations": operations,
    }


def compiled(job: Job) -> None:
    """The same with torch.compile, which takes a minute first."""
    if job.device.type == "cuda":
        speed(job, COMPILED)


def _timed_config(job: Job, way: Way) -> Config:
    """Group 3 (or another) with COCO's SGD and no moving average, and Mosaic half of the time.

    (On COCO itself the packs are larger and lie in files.) A rehearsal takes small batches, and
    float32, for which CPUs are made.
    """
    config = measured_config(job, way.run)
    changes = {"optimizer": "sgd", "lr": 0.01, "warmup_lr": 0.0, "ema_decay": 0.0, "grad_clip": 0.0}
    changes |= {"batch_size": 2 if job.small else way.batch, "epochs": 10**4}
    changes |= {"precision": "fp32" if job.small else way.precision}
    return dataclasses.replace(
        with_classes(config, open_split(config, "train")),
        augment=dataclasses.replace(config.augment, mosaic=0.5, mosaic_off_epochs=0),
        train=dataclasses.replace(config.train, **changes),
    )


def images_per_second(config: Config, pack: Pack, job: Job, way: Way) -> dict:
    """End to end: augmentation, both passes, loss, optimizer; and the memory of it."""
    device, (warm, measured) = job.device, (1, 1) if job.small else (WARM_UP, MEASURED)
    on_gpu = device.type == "cuda"
    before = 0
    if on_gpu:
        gc.collect()  # graphs of the way before hold their memory in a cycle
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    state, teacher = untrained(config, device), None
    if config.distill.teacher:
        settings = configs_of(job, (config.distill.teacher,))[config.profile][0]
        teacher = LightDet(settings.with_classes(config.model.num_classes).model)
        teacher = teacher.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    with torch.backends.cudnn.flags(enabled=True, benchmark=way.tuned, allow_tf32=way.tf32):
        if way.compiled:
            state.model.compile(mode=way.compiled)
        if way.graph and on_gpu:
            _graph_network(state.model, config, device)
        for step, batch in enumerate(
            training_batches(pack, config, 0, range(warm + measured), device)
        ):
            if step == warm:
                start = clock(device)
            learn(state, batch, config, step, teacher)
        seconds = clock(device) - start
    return {
        "images/s": round(measured * config.train.batch_size / seconds, 1),
        "ms per step": round(1000 * seconds / measured, 2),
        "batch": config.train.batch_size,
        "GiB": round((torch.cuda.max_memory_allocated(device) - before) / 2**30, 2)
        if on_gpu
        else None,
    }


def _graph_network(model: LightDet, config: Config, device: torch.device) -> None:
    """Both passes of the network become CUDA graphs, in place."""
    size = config.model.input_size
    images = torch.rand(config.train.batch_size, 3, size, size, device=device) * 255
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.float16, cache_enabled=False):
        torch.cuda.make_graphed_callables(model, (images,))


def augmentation_per_second(config: Config, pack: Pack, job: Job) -> dict:
    """Images/s of batches alone, without a network that takes them."""
    warm, measured = (1, 1) if job.small else (WARM_UP, MEASURED)
    batches = training_batches(pack, config, 0, range(warm + measured), job.device)
    for step, _ in enumerate(batches):
        if step + 1 == warm:
            start = clock(job.device)
    seconds = clock(job.device) - start
    return {"images/s": round(measured * config.train.batch_size / seconds, 1)}


def kernels(config: Config, pack: Pack, job: Job, most: int = 15) -> list[dict]:
    """The operations that take most of the device's time in three steps with their batches.

    The batches are made in this thread: torch's profiler sees no other.
    """
    state, device = untrained(config, job.device), job.device
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    for step in range(6):
        if step == 3:
            clock(device)
            recording = profile(activities=activities, acc_events=True)
            recording.start()
        batch = training_batch(pack, config, config.seed, step, device)
        learn(state, batch, config, step)
    clock(device)
    recording.stop()
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = [e for e in recording.key_averages() if e.device_type == DeviceType.CPU]
    rows = sorted(rows, key=lambda e: -getattr(e, key))
    total = sum(getattr(e, key) for e in rows) or 1
    return [
        {
            "operation": e.key,
            "calls per step": round(e.count / 3, 1),
            "ms per step": round(getattr(e, key) / 3000, 3),
            "share": round(getattr(e, key) / total, 4),
        }
        for e in rows[:most]
    ]


# --------------------------------------------------------------------------------------- latency


def latency(job: Job) -> None:
    """Milliseconds per image of networks alone, batch 1, batch norm folded, as CUDA graphs.

    With the copy of the image into the graph's input and one wait for the device.
    """
    # a graph holds the kernels of its capture: without TF32, and the fastest that cuDNN finds
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
        _latency(job)


def _latency(job: Job) -> None:
    calls, found = {}, {"systems": {}, "reference": REFERENCE}
    on_gpu = job.device.type == "cuda"
    for name in SYSTEMS:
        model, images = system(name)
        found["systems"][name] = {"size": images.shape[-1]}
        with torch.inference_mode():
            wanted = model(images)
        for kind in ("fp32", "fp16") if on_gpu else ("fp32",):
            dtype = torch.float16 if kind == "fp16" else torch.float32
            place = {"device": job.device, "dtype": dtype, "memory_format": torch.channels_last}
            try:
                net, x = folded(model).to(**place), images.to(**place)
                network = cuda_graph(net, x) if on_gpu else net
                with torch.inference_mode():
                    off = max(map(difference, network(x), wanted))
                calls[name, kind] = partial(network, x)
                found["systems"][name][kind] = {"differs by": float(f"{off:.2g}")}
            except Exception as error:  # the other systems are still worth their time
                found["systems"][name][kind] = {"error": _in_short(error)}
        print(name, found["systems"][name], flush=True)
        job.keep(found)
    with torch.inference_mode():
        times = interleaved(calls, 0.01 if job.small else 0.8)
    medians = {key: 1000 * statistics.median(values) for key, values in times.items()}
    for (name, kind), middle in medians.items():
        found["systems"][name][kind] |= {"ms": round(middle, 4), "calls": len(times[name, kind])}
        if (REFERENCE, kind) in medians:
            ratio = middle / medians[REFERENCE, kind]
            found["systems"][name][kind]["ratio"] = round(ratio, 3)
    job.keep(found)


def system(name: str) -> tuple[nn.Module, Tensor]:
    """A comparator or an experiment of COCO's profile with random weights, and an image for it.

    Batch norm is measured on noise: else nothing of an image reaches the end of a deep network.
    """
    torch.manual_seed(0)
    if name in comparators.COMPARATORS:
        model, size = comparators.build(name), comparators.COMPARATORS[name].size
    else:
        settings = load_config(name, "coco").model
        model, size = LightDet(settings), settings.input_size
    images = torch.randint(256, (2, 3, size, size)).float()
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        zeros.measure_batch_norm(model, [images])
    return model.eval().requires_grad_(False), images[:1]


def folded(model: nn.Module) -> nn.Module:
    """A copy without batch norms."""
    model = copy.deepcopy(model)
    fold_batch_norm(model)
    return model


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest one, in standard deviations of what is wanted."""
    return float((found.float().cpu() - wanted).abs().max() / wanted.std())


# ---------------------------------------------------------------------------------------- sparse


class Product(NamedTuple):
    """A pruned 1x1 convolution as the matrix product that it is: (N, C) times (C, K)."""

    out_channels: int  # K
    in_channels: int  # C
    pixels: int  # N of one image
    layers: int  # how many of the network have this shape


def products(size: int = 416) -> list[Product]:
    """The pruned layers of group 4 by shape, in the order of the network."""
    settings = dataclasses.replace(load_config("g4", "coco").model, input_size=size)
    model, pixels, counts = LightDet(settings).eval(), {}, {}
    names = {f"{n}.weight": m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    pruned = [m for n, m in names.items() if sparsity.eligible(n, m.weight)]
    for layer in pruned:
        layer.register_forward_hook(
            lambda m, _, y: pixels.__setitem__(m, y.shape[-1] * y.shape[-2])
        )
    with torch.inference_mode():
        model(torch.zeros(1, 3, size, size))
    for layer in pruned:
        key = (*layer.weight.shape[:2], pixels[layer])
        counts[key] = counts.get(key, 0) + 1
    return [Product(*key, layers) for key, layers in counts.items()]


def sparse(job: Job) -> None:
    """Each pruned layer dense and in 2:4 form, in the libraries that know it."""
    shapes = products(64 if job.small else 416)
    found = {"products": []}
    for images in (1,) if job.small else (1, 128):
        for shape in shapes[:2] if job.small else shapes:
            for kind in ("fp16", "int8") if job.device.type == "cuda" else ("fp32",):
                row = {**shape._asdict(), "images": images, "kind": kind}
                found["products"].append(row | time_product(shape, images, kind, job.device))
            found["sums"] = sums_of(found["products"])
            job.keep(found)


def time_product(shape: Product, images: int, kind: str, device: torch.device) -> dict:
    """Milliseconds dense and sparse; a library that cannot is named with its reason.

    Pixels are filled up to a multiple of 32, which the libraries ask for.
    """
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.int8}[kind]
    random = {"generator": torch.Generator(device).manual_seed(0), "device": device}
    rows = -(-shape.pixels * images // 32) * 32
    weight, x = (
        torch.randint(-8, 8, (n, shape.in_channels), **random).to(dtype)
        for n in (shape.out_channels, rows)
    )
    weight *= sparsity.mask_2to4(weight.float())
    ways: dict[str, Callable[[], Tensor]] = {}
    errors = {}
    if kind == "int8":
        ways["dense"] = lambda: torch._int_mm(x, weight.t())
    else:
        ways["dense"] = lambda: F.linear(x, weight)
    for library in LIBRARIES if device.type == "cuda" else ():
        if kind == "int8" and library == "CUTLASS":
            continue  # it would give int8, the others int32
        try:
            packed = getattr(torch.sparse, f"SparseSemiStructuredTensor{library}").from_dense(
                weight
            )
            if kind == "int8":
                ways[library] = lambda p=packed.packed: torch._cslt_sparse_mm(
                    p, x.t(), out_dtype=torch.int32
                ).t()
            else:
                ways[library] = lambda w=packed: F.linear(x, w)
        except Exception as error:
            errors[library] = _in_short(error)
    wanted, found = x.double() @ weight.double().t(), {}
    for name, way in ways.items():
        try:
            off = float((way().double() - wanted).abs().max() / wanted.abs().max())
            found[name] = {"ms": round(milliseconds(way, device), 5), "differs by": round(off, 6)}
        except Exception as error:  # shapes and processors that a library does not take
            errors[name] = _in_short(error)
    for name in found.keys() - {"dense"} if "dense" in found else ():
        found[name]["ratio"] = round(found[name]["ms"] / found["dense"]["ms"], 3)
    return found | ({"not possible": errors} if errors else {})


def sums_of(rows: list[dict]) -> list[dict]:
    """All pruned layers of the network together; a layer that a library does not take is dense.

    Returns:
        Per number of images and kind: milliseconds `dense`, and of each library with the number of
        layers that it takes.
    """
    found = []
    for images, kind in dict.fromkeys((row["images"], row["kind"]) for row in rows):
        own = [r for r in rows if (r["images"], r["kind"]) == (images, kind) and "dense" in r]
        total = {"images": images, "kind": kind, "layers": sum(row["layers"] for row in own)}
        total["dense"] = round(sum(row["layers"] * row["dense"]["ms"] for row in own), 4)
        for library in LIBRARIES:
            taken = [row for row in own if library in row]
            if taken:
                times = (row["layers"] * row.get(library, row["dense"])["ms"] for row in own)
                total[library] = round(sum(times), 4)
                total[f"{library} layers"] = sum(row["layers"] for row in taken)
        found.append(total)
    return found


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
