"""Steps of a GPU machine that time networks: latency, and products with 2:4 weights."""

import copy
import dataclasses
import statistics
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightdet_core import sparsity
from lightdet_core.config import load_config
from lightdet_core.model import LightDet
from lightdet_tools.cost.gpu_steps import Job, in_short
from lightdet_tools.deploy.graph import fold_batch_norm
from lightdet_tools.report import zeros
from lightdet_tools.table1 import comparators
from lightdet_tools.timing import cuda_graph, interleaved, milliseconds

SYSTEMS = ("g5", "c0", "+hswish", "yolov4_tiny", "yolov3_tiny", "nanodet_m")
REFERENCE = "yolov4_tiny"
LIBRARIES = ("CUSPARSELT", "CUTLASS")  # that know the 2:4 form, as torch calls them


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
                found["systems"][name][kind] = {"error": in_short(error)}
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
            errors[library] = in_short(error)
    wanted, found = x.double() @ weight.double().t(), {}
    for name, way in ways.items():
        try:
            off = float((way().double() - wanted).abs().max() / wanted.abs().max())
            found[name] = {"ms": round(milliseconds(way, device), 5), "differs by": round(off, 6)}
        except Exception as error:  # shapes and processors that a library does not take
            errors[name] = in_short(error)
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
