import pytest
import torch
import torch.nn.functional as F
from conftest import close, count_macs, network, raising, saw
from safetensors.torch import save_file
from torch import nn

from lightdet_core import boxes
from lightdet_core import model as m
from lightdet_core.config import UserError, load_config


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def identity_neck() -> m.PAN:
    """One channel, passed on as it is."""
    neck = m.PAN([1, 1, 1], 1)
    for conv in neck.lateral:
        nn.init.ones_(conv.weight)
    return neck


@pytest.mark.parametrize(
    ("experiment", "case"),
    [
        ("g1", "lite0_320_gflv1_c96_s2_r7"),
        ("c0", "lite1_416_gflv1_c128_s3_r10"),
        ("+gflv2", "lite1_416_gflv2_shared_dgqp"),
    ],
)
def test_counts_golden(golden, experiment, case):
    """Parameters to the unit, MACs of the convolutions, cells: as the reference has them."""
    expected = golden("model_counts")[1][case]
    config, net = load_config(experiment, "coco").model, network(experiment)
    assert count(net) == expected["params"]
    batch_norms = [x for x in net.modules() if isinstance(x, nn.BatchNorm2d)]
    folded = count(net) - sum(x.num_features for x in batch_norms)  # scale, shift -> one bias
    assert folded == expected["fused"]
    if "backbone" in expected:
        parts = (count(net.backbone), count(net.neck), count(net.head))
        assert parts == (expected["backbone"], expected["pan"], expected["head"])
    images = torch.zeros(1, 3, config.input_size, config.input_size)
    macs, (cls_logits, box_logits) = count_macs(net, images)
    if "conv_macs" in expected:
        assert macs == expected["conv_macs"]
        assert cls_logits.shape[1] == expected["points"]
    assert cls_logits.shape[2] == 80
    assert box_logits.shape[1:] == (cls_logits.shape[1], 4, config.reg_max + 1)


def test_taps_golden(golden):
    expected = golden("model_counts")[1]["backbone_taps"]
    for name in ("lite0", "lite1", "lite2"):
        backbone = m.Backbone(name, "silu")
        assert backbone.channels == expected[name]
        assert backbone.net.feature_info.reduction() == expected["strides"]
    backbone = m.Backbone("lite1", "relu6")
    norms = [x for x in backbone.modules() if isinstance(x, nn.BatchNorm2d)]
    assert len(norms) == expected["bn_layers"]["lite1"]
    assert {x.eps for x in norms} == {1e-3}


def test_narrow_blocks():
    """With the expansion of six it is timm's own network; three halves the 1x1 convolutions."""
    torch.manual_seed(0)
    ours = m.Backbone("lite1-e6", "relu6", 0.1, 0.03)
    torch.manual_seed(0)
    timms = m.Backbone("lite1", "relu6", 0.1, 0.03)
    assert str(ours) == str(timms)
    theirs = timms.state_dict()
    assert all(torch.equal(value, theirs.pop(key)) for key, value in ours.state_dict().items())
    assert not theirs
    narrow = m.Backbone("lite1-e3", "relu6")
    assert narrow.channels == timms.channels
    for one, other in zip(narrow.net.blocks[1:], timms.net.blocks[1:], strict=True):
        for a, b in zip(one, other, strict=True):
            assert 2 * a.conv_pw.out_channels == b.conv_pw.out_channels


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("relu6", nn.ReLU6),
        ("leakyrelu", nn.LeakyReLU),
        ("mish", m.Mish),
        ("silu", nn.SiLU),
        ("hswish", nn.Hardswish),
    ],
)
def test_activation_reaches_every_layer(golden, name, kind):
    """Called 42 times in the backbone and 18 times in the head, and no other one is called."""
    net, calls = network("c0", activation=name), []
    for module in net.modules():
        if type(module) in (nn.ReLU, nn.ReLU6, nn.LeakyReLU, m.Mish, nn.SiLU, nn.Hardswish):
            module.register_forward_hook(lambda x, *_: calls.append(type(x)))
    with torch.no_grad():
        net(torch.zeros(1, 3, 64, 64))
    backbone = golden("model_counts")[1]["backbone_taps"]["activations"]["lite1"]
    assert calls == [kind] * (backbone + 3 * 3 * 2)


def test_activation_values_golden(golden):
    inputs, expected = golden("silu_mish")
    x = torch.tensor(inputs["x"], dtype=torch.float32)
    for name in ("silu", "mish", "relu6"):
        close(m.ACTIVATIONS[name]()(x), expected[name])
    assert m.ACTIVATIONS["leakyrelu"]()(torch.tensor(-1.0)) == pytest.approx(-0.1)


def test_fast_mish_is_mish():
    """Value and gradient, from where e^x vanishes to where it overflows."""
    x = torch.tensor([-200.0, -90, -20, -3, -0.1, 0, 0.1, 3, 19, 21, 45, 90, 200])
    pairs = [x.clone().requires_grad_() for _ in range(2)]
    values = m.Mish()(pairs[0]), torch.nn.functional.mish(pairs[1])
    torch.testing.assert_close(*values, atol=3e-7, rtol=3e-7)
    grads = [torch.autograd.grad(v.sum(), p)[0] for v, p in zip(values, pairs, strict=True)]
    torch.testing.assert_close(*grads, atol=3e-7, rtol=3e-7)


def test_drop_path_rates_golden(golden):
    expected = golden("drop_connect_rates")[1]["timm_lite1_rate0.2"]
    blocks = [b for stage in m.Backbone("lite1", "relu6", 0.2).net.blocks for b in stage]
    rates = [getattr(b.drop_path, "drop_prob", 0.0) or 0.0 for b in blocks]
    close(torch.tensor(rates), expected)


def test_neck_resampling_golden(golden):
    """With identity laterals the sums are the golden x2 and x0.5 maps."""
    inputs, expected = golden("pan_resample")
    neck = identity_neck()
    fine = torch.tensor(inputs["x4"])[None, None]
    coarse = torch.tensor(inputs["x2"])[None, None]
    zeros = [torch.zeros(1, 1, s, s) for s in (4, 2, 1)]
    close(neck([zeros[0], coarse, zeros[2]])[0][0, 0], expected["up2"])
    close(neck([fine, zeros[1], zeros[2]])[1][0, 0], expected["down2"])


def test_neck_on_odd_maps_stays_on_the_grid():
    """7 cells above 13: a constant map stays constant, and the bottom-up equals bilinear inside."""
    x = torch.rand(1, 1, 13, 13)
    maps = identity_neck()([torch.zeros(1, 1, 26, 26), x, torch.zeros(1, 1, 7, 7)])
    assert [tuple(y.shape[-2:]) for y in maps] == [(26, 26), (13, 13), (7, 7)]
    down = F.interpolate(maps[1][..., :12, :12], scale_factor=0.5, mode="bilinear")
    torch.testing.assert_close(maps[2][..., :6, :6], down)


def test_quality_predictor_golden(golden):
    expected = golden("dgqp")[1]
    net = network("+gflv2", num_classes=3)
    first, _, second = net.head.quality
    first.weight.data = saw(64, 20, lo=-0.8, hi=1.0)
    first.bias.data = torch.linspace(-0.2, 0.2, 64)
    second.weight.data = saw(1, 64, lo=-0.5, hi=0.6)
    second.bias.data = torch.tensor([0.1])
    box_logits = saw(1, 44, 2, 2, lo=-3, hi=3).flatten(2).transpose(1, 2).view(1, 4, 4, 11)
    edges = box_logits.softmax(-1)
    quality = net.head.quality_logits(edges)
    close(quality.sigmoid().view(2, 2), expected["quality"])
    cls_logits = torch.linspace(-2, 2, 12).view(1, 3, 4).transpose(1, 2)
    cells = torch.zeros(4, 2), torch.ones(4)
    scores, _ = boxes.scores_and_boxes(cls_logits, edges, quality, *cells)
    close(scores.transpose(1, 2).view(3, 2, 2), expected["joint_scores"])


def test_initial_scores():
    """Every class starts at 0.01, times the quality 0.5 in GFLv2."""
    for experiment, score in (("c0", 0.01), ("+gflv2", 0.005)):
        net = network(experiment)
        with torch.no_grad():
            found, _ = net.scores_and_boxes(*net(torch.zeros(1, 3, 64, 64)), (64, 64))
        assert found.mean().item() == pytest.approx(score, rel=0.05)


def test_normalisation_is_inside():
    """The network takes 0..255; the backbone sees (x - 127.5) / 127.5 as the tf_ weights expect."""
    backbone = m.Backbone("lite0", "relu6").eval()
    seen = []
    backbone.net.conv_stem.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    backbone(torch.tensor([0.0, 127.5, 255.0]).view(1, 3, 1, 1).expand(1, 3, 64, 64))
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor([-1.0, 0.0, 1.0]))


def test_detect_clips_and_batch_equals_single():
    torch.manual_seed(0)
    net = network("g1", num_classes=4)
    images = torch.rand(2, 3, 96, 128) * 255
    both = net.detect(images, score_threshold=0.005)
    assert all(len(d.boxes) for d in both)
    for image, detections in zip(images, both, strict=True):
        (alone,) = net.detect(image[None], score_threshold=0.005)
        torch.testing.assert_close(alone.scores, detections.scores, atol=1e-5, rtol=1e-4)
        assert detections.boxes[:, 0::2].max() <= 128 and detections.boxes[:, 1::2].max() <= 96
        assert detections.boxes.min() >= 0


def test_weights_round_trip(tmp_path):
    config = load_config("g1", "smoke", seed=3)
    net = m.build(config).eval()
    path = tmp_path / "weights.safetensors"
    m.save_weights(path, net.state_dict(), config, [{"id": 3, "name": "car"}])
    again, stored, categories = m.load_weights(path)
    assert stored["model"]["backbone"] == "lite0" and stored["seed"] == 3
    assert categories == [{"id": 3, "name": "car"}]
    x = torch.rand(1, 3, 64, 64) * 255
    torch.testing.assert_close(again(x)[0], net(x)[0])


def learned(tmp_path, **changes):
    """Weights of a detector of three classes that a run begins with; its state."""
    torch.manual_seed(1)
    config = load_config("g4", "smoke").with_model(num_classes=3, **changes)
    net, file = m.LightDet(config.model), tmp_path / "other.safetensors"
    m.save_weights(file, net.state_dict(), config, [{"id": i, "name": str(i)} for i in range(3)])
    return str(file), net.state_dict()


@pytest.mark.parametrize("classes", [5, 3])
def test_a_detector_of_other_classes_gives_all_but_their_scores(tmp_path, classes):
    file, theirs = learned(tmp_path)
    config = load_config("g4", "smoke").with_model(num_classes=classes, pretrained=file)
    torch.manual_seed(2)
    fresh = m.LightDet(config.model).state_dict()
    torch.manual_seed(2)
    ours = m.build(config).state_dict()
    last = [name for name in ours if name.startswith("head.towers.") and ours[name].ndim != 0
            and len(ours[name]) == classes + 4 * 11]  # fmt: skip
    assert len(last) == 6  # weight and bias of three levels
    for name, tensor in ours.items():
        if name in last:
            assert torch.equal(tensor[classes:], theirs[name][3:])  # bins of the four edges
            assert torch.equal(tensor[:classes], fresh[name][:classes])
        else:
            assert torch.equal(tensor, theirs[name])


def test_a_detector_with_another_network_is_refused_and_wide_blocks_are_cut(tmp_path):
    file, theirs = learned(tmp_path, backbone="lite1")
    usual = load_config("g4", "smoke").with_model(num_classes=5, pretrained=file)
    for change, words in (
        ({"backbone": "lite0"}, "backbone lite1, not lite0"),
        ({"reg_max": 7, "head": "gflv1"}, "head gflv2, not gflv1, reg_max 10, not 7"),
        ({"channels": 96}, "channels 128, not 96"),
    ):
        said = rf"model.pretrained .*other.safetensors: another network \({words}\): \d+ tensors "
        said += r"differ, first [a-z_]+\.[\w.]+: \(.*\) and (\(.*\)|not there)$"
        with pytest.raises(UserError, match=said):
            m.build(usual.with_model(**change))
    narrow = m.build(usual.with_model(backbone="lite1-e3")).state_dict()
    name = "backbone.net.blocks.2.1.conv_pwl.weight"
    assert narrow[name].shape[1] == theirs[name].shape[1] // 2
    kept = [c for c in theirs[name].unbind(1) if (narrow[name] == c[:, None]).all((0, 2, 3)).any()]
    assert len(kept) == narrow[name].shape[1]
    learned(tmp_path, backbone="lite1", inner=(16,) * 20)
    with pytest.raises(UserError, match=r"another network \(inner \[16, .*\], not \[\]\): "):
        m.build(usual)


def test_damaged_weights_are_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(m.UserError, match=r"weights\.safetensors: no trained run .*lightdet train"):
        m.load_weights(path)
    with pytest.raises(m.UserError, match=r"net\.onnx: exported; `lightdet detect` takes it"):
        m.load_weights(tmp_path / "net.onnx")
    path.write_bytes(b"not a tensor file")
    with pytest.raises(m.UserError, match=r"is a folder; the weights are .*weights\.safetensors"):
        m.load_weights(tmp_path)
    with pytest.raises(m.UserError, match="not a readable"):
        m.load_weights(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(m.UserError, match="has no LightDet config"):
        m.load_weights(path)
    m.save_weights(path, network("c0").state_dict(), load_config("g1", "smoke"), [])
    with pytest.raises(m.UserError, match="does not fit its own config"):
        m.load_weights(path)


def test_classes_must_be_known():
    with pytest.raises(ValueError, match="num_classes is null"):
        m.build(load_config("g1", "custom"))


def test_a_full_disk_names_the_weights_that_it_cannot_take(tmp_path, monkeypatch):
    full = raising(OSError(28, "No space left on device"))
    monkeypatch.setattr(type(tmp_path), "write_bytes", full)
    message = r"w\.safetensors: cannot be written .*No space left"
    with pytest.raises(UserError, match=message):
        m.save_weights(tmp_path / "w.safetensors", {}, load_config("g1", "demo"), [])
