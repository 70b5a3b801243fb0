"""What `make gpu` takes to a GPU machine that has no network: pictures, weights, wheels.

    lightdet gpu bundle

Pictures are shrunk to the largest input and stored as AVIF, boxes follow; the backbones' ImageNet
weights travel in half precision. There, `bash build/gpu/run OUT` installs the wheels beside what
the machine has and starts `lightdet gpu run`.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import save_file

from lightdet_core.config import Config, UserError, load_config, root
from lightdet_core.machinery import weights
from lightdet_core.machinery.files import split_paths, write_json, write_text
from lightdet_core.machinery.images import read_image
from lightdet_core.machinery.provenance import git_state
from lightdet_core.machinery.weights import load_imagenet
from lightdet_core.model import Backbone
from lightdet_tools.data.annotations import Annotations, read_annotations
from lightdet_tools.data.sources import prepare

PROFILES = ("bccd416", "minicoco416")  # the quicker one first
# of AVIF. What is evaluated must cost no AP (test_gpu_bundle.py): of a public NanoDet-m at
# 416 px it is 18.1 for the originals, 18.0 at 80, 17.7 at 70, 15.7 at 50; for WebP at 85, of nearly
# as many bytes, 17.8. What is trained on has what bytes are left.
QUALITY = {"train": 27, "val": 80}
QUICK = {"speed": 7, "max_threads": 1}  # half of the usual time, for 2 % more bytes
LIMIT = 60 * 2**20  # bytes of the folder
TREE_LIMIT = 64 * 2**20  # and of all that travels, the checkout's files with it
# what a machine with torch, torchvision and timm may lack, and what typer does not do without
WHEELS = ("pycocotools", "typer", "annotated-doc", "shellingham", "pydantic", "pydantic-core")
WHEELS += ("annotated-types", "typing-inspection", "typing-extensions", "ruamel-yaml")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
RUN = """\
#!/usr/bin/env bash
# bash build/gpu/run OUT [SECONDS]: every step of `lightdet gpu run`, results into the folder OUT.
set -euo pipefail
: "${1:?usage: bash build/gpu/run OUT [SECONDS]}"
here="$(cd "$(dirname "$0")" && pwd)"
python3 -c 'from PIL import features as f; exit(not f.check("avif"))' || {
  echo "error: Pillow reads no AVIF here; 11.3 or newer is needed"; exit 1; }
mkdir -p "$1" && out="$(cd "$1" && pwd)"
cd "$here/../.."
export PYTHONUNBUFFERED=1
if ! python3 -c 'import pycocotools, typer, pydantic' 2> /dev/null; then
  site="$(mktemp -d)"
  trap 'rm -rf "$site"' EXIT
  options="--quiet --no-index --no-deps --no-compile"
  python3 -m pip install $options --target "$site" "$here"/wheels/*.whl || {
    echo "error: the wheels are for Python 3.12 on Linux, x86-64;" \
      "elsewhere install pycocotools, typer and pydantic first"; exit 1; }
  export PYTHONPATH="$site"
fi
python3 -m lightdet_tools gpu run --bundle "$here" --out "$out" ${2:+--budget "$2"}
"""


def bundle(
    out: Path,
    profiles: tuple[str, ...] = PROFILES,
    wheels: bool = True,
    progress: Callable[[str], None] = print,
) -> Path:
    """The folder that travels; what was there before goes.

    Args:
        out: made anew.
        profiles: of the data.
        wheels: fetched from PyPI; without them the machine must have the packages.

    Returns:
        `out`, with manifest.json, imagenet/, wheels/, run and a folder per profile.

    Raises:
        UserError: no wheels to be had, or more than LIMIT bytes.
        DataError: the data of a profile cannot be had.
    """
    shutil.rmtree(out, ignore_errors=True)
    (out / "imagenet").mkdir(parents=True)
    manifest = {**git_state(), "quality": QUALITY, "data": {}}
    for profile in profiles:
        config = load_config("g3", profile)
        prepare(config, progress)
        manifest["data"][profile] = {
            split: pack_split(config, split, out / profile, progress) for split in ("train", "val")
        }
    for backbone in weights.FILES:
        net = Backbone(backbone, "relu6").net
        state = load_imagenet(backbone, True, net.state_dict())
        halves = {k: (v.half() if v.is_floating_point() else v) for k, v in state.items()}
        halves = {k: v.contiguous() for k, v in halves.items()}  # TensorFlow's order of axes
        save_file(halves, out / "imagenet" / f"{backbone}.safetensors")
    if wheels:
        fetch_wheels(out / "wheels")
    write_text(out / "run", RUN)
    write_json(out / "manifest.json", manifest, indent=1)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    tree = size + checkout_bytes()
    progress(f"{out.name}: {size / 2**20:.1f} MiB, with the checkout {tree / 2**20:.1f} MiB")
    if size > LIMIT or tree > TREE_LIMIT:
        raise UserError(
            f"{out}: {size / 2**20:.1f} MiB, with the checkout {tree / 2**20:.1f} MiB; at most "
            f"{LIMIT / 2**20:.0f} and {TREE_LIMIT / 2**20:.0f} MiB may travel; lower QUALITY in "
            "gpu_bundle.py, or take fewer images"
        )
    return out


def checkout_bytes() -> int:
    """Of the files that git knows; 0 outside of a checkout."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=root(), capture_output=True, text=True)
    files = [root() / name for name in done.stdout.split("\0") if name]
    return sum(file.stat().st_size for file in files if file.is_file())


def pack_split(config: Config, split: str, out: Path, progress: Callable[[str], None]) -> dict:
    """The pictures of a split as AVIF, long side at most `pack_size`, and their COCO file.

    Returns:
        How many images and boxes.
    """
    annotations, folder = split_paths(config, split)
    truth = read_annotations(annotations, True, config.data.classes)
    target = out / "images" / split
    target.mkdir(parents=True)

    def work(row: int) -> tuple[int, int]:
        width, height = truth.sizes[row].tolist()
        image = Image.fromarray(read_image(folder / truth.file_names[row], width, height))
        scale = min(1, config.data.pack_size / max(width, height))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        name = f"{truth.image_ids[row]}.avif"
        image = image.resize(size, Image.Resampling.BILINEAR)
        image.save(target / name, quality=QUALITY[split], **QUICK)
        return size

    with ThreadPoolExecutor() as pool:  # coding and resizing release the GIL
        sizes = np.array(list(pool.map(work, range(len(truth.sizes)))))
    write_json(out / "annotations" / f"{split}.json", _shrunk(truth, sizes))
    progress(f"{config.profile} {split}: {len(sizes)} images")
    return {"images": len(sizes), "boxes": len(truth.boxes)}


def _shrunk(truth: Annotations, sizes: np.ndarray) -> dict:
    """A COCO dict of the shrunken pictures, sizes (N, 2)."""
    rows = np.repeat(np.arange(len(sizes)), truth.counts)
    scale = np.tile(sizes / truth.sizes, 2)[rows]
    corners = (truth.boxes * scale).round(3)
    xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).round(3)
    annotations = [
        {
            "id": number,
            "image_id": int(truth.image_ids[row]),
            "category_id": truth.categories[label]["id"],
            "bbox": box,
            "iscrowd": int(crowd),
        }
        for number, (row, label, box, crowd) in enumerate(
            zip(rows, truth.labels, xywh.tolist(), truth.crowd, strict=True), start=1
        )
    ]
    images = [
        {"id": int(i), "file_name": f"{i}.avif", "width": int(w), "height": int(h)}
        for i, (w, h) in zip(truth.image_ids, sizes, strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": truth.categories}


def fetch_wheels(folder: Path) -> None:
    """The locked versions of WHEELS for Python 3.12 on Linux, x86-64."""
    lines = (root() / "requirements.txt").read_text().split()
    pinned = [line for line in lines if line.partition("==")[0] in WHEELS]
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    options = ["--no-deps", "--only-binary=:all:", "--python-version", "3.12", "--dest", folder]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *options, *platforms, *pinned]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:]
        raise UserError(f"{folder}: no wheels of {', '.join(pinned)}: {' '.join(reason)}")
