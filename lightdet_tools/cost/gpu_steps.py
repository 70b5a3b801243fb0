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
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from lightdet_core import engine
from lightdet_core.augment import on_device, training_batch, training_batches
from lightdet_core.boxes import Batch, Logits
from lightdet_core.config import Config, UserError, load_config, read_params, root
from lightdet_core.machinery.packs import Pack, open_split, with_classes
from lightdet_core.machinery.precision import exact
from lightdet_core.model import LightDet, build
from lightdet_tools.cost.benchmark import learn, step_times, untrained
from lightdet_tools.data.pack import prepare_packs
from lightdet_tools.report.results import read_result
from lightdet_tools.timing import clock

RUNS = ("teacher", "g1", "g2", "g3", "g4", "g5")  # of a row; the last one needs the first
CLOSE = 1e-4  # relative difference of a GPU's float32 from a CPU's
WARM_UP, MEASURED = 10, 50  # steps: the first batch or two of these are made before
GPU_TESTS = ("core/test_train.py", "tools/cost/test_gpu.py")  # the files with the mark `gpu`


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
    return config.with_model(pretrained=str(weights))


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
        logits = Logits(cls_logits, box_logits, net.head.quality_logits(box_logits.softmax(-1)))
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
            found["images/s"].setdefault(way.name, {})["error"] = in_short(error)
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
        teacher = LightDet(settings.with_model(num_classes=config.model.num_classes).model)
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


def in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
