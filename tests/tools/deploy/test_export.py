import copy
import json
import os
import re
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import CATEGORIES, close, raising, read, small_run
from PIL import Image
from torch import nn

from lightdet_core import boxes, sparsity
from lightdet_core.config import UserError
from lightdet_core.evaluate import coco_metrics, detect_pack
from lightdet_core.machinery import packs
from lightdet_core.machinery.packs import read_truth
from lightdet_core.model import LightDet, save_weights
from lightdet_tools import cli
from lightdet_tools.data.pack import build
from lightdet_tools.deploy import convert, detector, export, graph, runtime
from lightdet_tools.deploy.export import deployable
from lightdet_tools.deploy.ncnn_files import read_ncnn
from lightdet_tools.deploy.runtime import KEY, open_exported

SIZE = 80  # 10, 5 and 3 cells per side: the neck cuts and fills up


def network(**changes) -> LightDet:
    """As if trained: nothing is at its initial value, and the outputs differ from cell to cell."""
    torch.manual_seed(0)
    net = LightDet(small_run(SIZE, **changes).model).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
        for tower in net.head.towers:
            tower[-1].weight.normal_(0, 0.5)
            tower[-1].bias.normal_(0, 0.5)
        for layer in (net.head.quality or [])[::2]:
            layer.weight.normal_(0, 0.5)
            layer.bias.normal_(0, 0.5)
    return net


@pytest.fixture(scope="module")
def net():
    """SiLU, GFLv2, 2:4."""
    model = network()
    sparsity.apply_masks(model.state_dict(), sparsity.make_masks(model))
    return model


@pytest.fixture(scope="module")
def weights(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "weights.safetensors"
    save_weights(path, net.state_dict(), small_run(SIZE), CATEGORIES)
    return path


@pytest.fixture(scope="module")
def onnx_export(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "new" / "folder"
    return export.export("onnx", weights, folder, uint8=True), folder


@pytest.fixture(scope="module")
def ncnn_export(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    return export.export("ncnn", weights, folder, decoded=True), folder


@pytest.fixture(scope="module")
def openvino_export(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    return export.export("openvino", weights, folder, decoded=True, uint8=True), folder


def openvino_file(model, folder):
    (folder / "x.xml").write_bytes((pair := convert.convert_openvino(model))[0])
    (folder / "x.bin").write_bytes(pair[1])
    return folder / "x.xml"


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def to_onnx(module, images):
    """(images: of any number and type, NCHW)"""
    return convert.convert_onnx(module, images[:1], list(module.outputs))


def run_onnx(model, images, as_written=False):
    """With `as_written` each operator by itself: int8 is rounded to, but multiplied in fp32."""
    options = onnxruntime.SessionOptions()
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"images": images.numpy()})


def planes(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def all_layers(net):
    """What is said of a pattern that no layer has lost."""
    count = len(sparsity.make_masks(net))
    return {"eligible": count, "trained": count, "exported": count}


# ------------------------------------------------------------------------------------ network


def test_sigmoid_mish_is_mish(golden):
    """In torch and in ONNX Runtime, from where t is 1 to where it vanishes."""
    inputs, expected = golden("silu_mish")
    form = graph.SigmoidMish()
    close(form(torch.tensor(inputs["x"], dtype=torch.float32)), expected["mish"])
    x = torch.tensor([[-1e4, -200, -88, -20, -8, -3, -0.1, 0, 0.1, 3, 19, 45, 90, 200, 1e4]])
    model = convert.convert_onnx(form, x, ["y"])
    assert {node.op_type for node in model.graph.node} & {"Softplus", "Tanh", "Exp"} == set()
    (found,) = run_onnx(model, x)
    for y in (form(x), torch.from_numpy(found)):
        torch.testing.assert_close(y, F.mish(x), atol=1e-6, rtol=1e-6)


def test_largest_is_topk_with_ties():
    torch.manual_seed(0)
    values = torch.randint(0, 5, (300, 11)).float()  # every row has ties
    values[0] = 1 / 11
    for k in (1, 4, 11):
        found = torch.cat(graph.largest(values, k), -1)
        assert torch.equal(found, values.topk(k, -1).values)


def test_folding_keeps_the_function_and_the_pattern(net):
    before = copy.deepcopy(net.state_dict())
    folded = deployable(net, SIZE)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    count = sum(p.numel() for p in net.parameters()) - sum(m.num_features for m in norms)
    assert sum(p.numel() for p in folded.parameters()) == count  # scale and shift -> a bias
    eligible = {n: w for n, w in folded.state_dict().items() if sparsity.eligible(n, w)}
    assert len(eligible) > 20 and sparsity.check_2to4(folded.state_dict()) == []
    after = net.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize(
    "changes",
    [{"tf_padding": True}, {"activation": "mish", "head": "gflv1"}, {"activation": "leakyrelu"}],
)
def test_deployable_is_the_same_function(changes):
    """With odd and even maps, both outputs and both inputs."""
    net = network(**changes)
    for size, decoded, uint8 in ((SIZE, False, True), (SIZE, True, False), (96, True, True)):
        images = export.example_images(size)
        wanted = export.expected(net, images, decoded)
        module = deployable(net, size, decoded, uint8)
        assert not any(isinstance(x, nn.Mish) for x in module.modules())
        found = module(torch.from_numpy(images) if uint8 else planes(images))
        assert [tuple(x.shape[1:]) for x in found] == list(module.outputs.values())
        for a, b in zip(found, map(torch.from_numpy, wanted), strict=True):
            assert b.std() > 0.05
            torch.testing.assert_close(a, b, atol=1e-5 * max(1, float(b.abs().max())), rtol=1e-4)


# --------------------------------------------------------------------------------------- ONNX


def test_onnx_report(onnx_export, net):
    report, folder = onnx_export
    assert names(folder) == ["g5-s4-uint8.onnx"] and report["files"] == [*folder.iterdir()]
    assert report["precision"] == "fp32"
    assert report["sizes"]["fp32"] == os.path.getsize(report["files"][0])
    parameters = sum(p.numel() for p in deployable(net, SIZE).parameters())
    assert 4 * parameters < report["sizes"]["fp32"] < 4 * parameters + 90_000
    assert report["sizes"]["fp16"] < 0.52 * report["sizes"]["fp32"]
    assert list(report["parity"]) == ["cls_logits", "box_logits"]
    assert all(0 < value < 1e-4 for value in report["parity"].values())
    assert report["sparsity"] == all_layers(net)
    text = "\n".join(export.summary(report))
    size, masks = report["sizes"]["fp32"], report["sparsity"]["trained"]
    assert f"{size:,} B = {size / 1e6:.2f} MB = {size / 1048576:.2f} MiB (written)" in text
    assert f"in {masks} of {masks}" in text and "g5-s4-uint8.onnx" in text


def test_onnx_needs_nothing_else(onnx_export, net):
    """By the file alone: classes, sizes, and scores and boxes from raw outputs of any batch."""
    report, _ = onnx_export
    exported = open_exported(report["files"][0])
    about = exported.about
    assert about["categories"] == CATEGORIES and about["config"]["seed"] == 4
    assert about["input"] == {"name": "images", "dtype": "uint8", "layout": "NHWC", "size": SIZE}
    assert (about["form"], about["precision"]) == ("raw", "fp32")
    images = export.example_images(SIZE)
    cls_logits, box_logits = map(torch.from_numpy, exported.run(images))
    quality = detector._quality(about["quality"])(box_logits.softmax(-1))
    points, strides, _ = boxes.level_grid(SIZE, SIZE)
    scores, decoded = map(torch.from_numpy, export.expected(net, images, True))
    torch.testing.assert_close(cls_logits.sigmoid() * quality.sigmoid(), scores, atol=1e-5, rtol=0)
    found = boxes.decode(box_logits, points, strides).clamp(0, SIZE)
    torch.testing.assert_close(found, decoded, atol=1e-3, rtol=0)
    for one, row in zip(exported.run(images[1:2]), exported.run(images), strict=True):
        np.testing.assert_allclose(one[0], row[1], atol=1e-5)


def test_onnx_pads_as_tensorflow_does():
    module = deployable(network(tf_padding=True), SIZE)
    images = planes(export.example_images(SIZE))
    found = run_onnx(to_onnx(module, images), images)
    for ours, theirs in zip(found, module(images), strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), theirs, atol=1e-3, rtol=1e-4)


def test_onnx_in_half_precision(net):
    """Only the weights are rounded: the file computes what the rounded network does."""
    module = deployable(net, SIZE)
    images = planes(export.example_images(SIZE))
    found = run_onnx(convert.store_half(to_onnx(module, images)), images)
    exact = [x.numpy() for x in module(images)]
    for convolution in (m for m in module.modules() if isinstance(m, nn.Conv2d)):
        convolution.weight.data = convolution.weight.half().float()
    for a, b, c in zip(found, module(images), exact, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
        assert np.abs(a - c).max() > 2e-4  # it makes a difference


# ------------------------------------------------------------------------------------ OpenVINO


def test_openvino_report(openvino_export, net):
    report, folder = openvino_export
    stem = "g5-s4-openvino-decoded-uint8"
    assert names(folder) == [f"{stem}.bin", f"{stem}.xml"]
    assert report["sparsity"] == all_layers(net)
    assert list(report["parity"]) == ["scores", "boxes"]
    assert report["parity"]["scores"] < 1e-5 and report["parity"]["boxes"] < 1e-3
    assert report["sizes"]["fp32"] == os.path.getsize(folder / f"{stem}.bin")
    assert report["sizes"]["fp16"] < 0.55 * report["sizes"]["fp32"]


def test_openvino_needs_nothing_else(openvino_export, net):
    _, folder = openvino_export
    (folder / "other").mkdir()
    for file in folder.glob("*.*"):  # anywhere, by these two
        copy_to = folder / "other" / file.name
        copy_to.write_bytes(file.read_bytes())
    exported = open_exported(folder / "other/g5-s4-openvino-decoded-uint8.xml")
    assert exported.about["categories"] == CATEGORIES and exported.about["precision"] == "fp32"
    assert exported.about["input"]["dtype"] == "uint8"
    images = export.example_images(SIZE)[::-1]
    for a, b in zip(exported.run(images), export.expected(net, images.copy(), True), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_openvino_in_half_precision(net, tmp_path):
    """Weights as rounded and stored as in ONNX; the pattern is found again."""
    images = planes(export.example_images(SIZE)[:1])
    half = convert.store_half(to_onnx(deployable(net, SIZE), images))
    path = openvino_file(half, tmp_path)
    stored = export.stored_weights(path)
    assert all(torch.equal(w, w.half().float()) for w in stored.values())
    assert export.check_pattern(net.state_dict(), stored) == all_layers(net)
    found = runtime.openvino_network(runtime.read_openvino(path), 1)(images.numpy())
    for a, b in zip(found, run_onnx(half, images), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("activation", ["relu6", "silu"])
def test_openvino_computes_every_convolution_in_8_bits(activation, tmp_path):
    """What it really executes: each with its activation inside."""
    net = LightDet(small_run(SIZE, activation=activation).model).eval()
    sparsity.apply_masks(net.state_dict(), sparsity.make_masks(net))
    images = planes(export.example_images(SIZE))[:1]
    full = to_onnx(deployable(net, SIZE), images)
    small = convert.quantize(full, images[None].numpy(), openvino=True)
    path = openvino_file(small, tmp_path)
    assert export.check_pattern(net.state_dict(), export.stored_weights(path)) == all_layers(net)
    core = runtime.openvino_library().Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(runtime.read_openvino(path), "CPU", settings)
    executed = [
        [node.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision")]
        for node in compiled.get_runtime_model().get_ops()
    ]
    precisions = [bits for kind, bits in executed if kind == "Convolution"]
    convolutions = sum(isinstance(m, nn.Conv2d) for m in deployable(net, SIZE).modules())
    assert len(precisions) == convolutions and set(precisions) <= {"u8", "i8"}
    elementwise = [kind for kind, _ in executed if kind in ("Subgraph", "Eltwise", "Math")]
    assert len(elementwise) < convolutions / 2  # of the neck and the skips; activations are inside
    found = list(compiled(images.numpy()).values())
    for a, b in zip(found, run_onnx(full, images), strict=True):
        off = np.abs(a - b).max()
        assert 0 < off < 0.2 * np.abs(b).max()


# --------------------------------------------------------------------------------------- ncnn


def test_ncnn_report(ncnn_export, net):
    report, folder = ncnn_export
    stem = "g5-s4-decoded"
    assert names(folder) == [f"{stem}.bin", f"{stem}.json", f"{stem}.param"]
    assert report["sparsity"] == all_layers(net)
    assert list(report["parity"]) == ["scores", "boxes"]
    assert report["parity"]["scores"] < 1e-5 and report["parity"]["boxes"] < 1e-3
    module = deployable(net, SIZE, decoded=True)
    floats = sum(p.numel() for p in module.parameters()) + 3 + 3 * module.num_cells  # mean, cells
    convolutions = sum(isinstance(m, nn.Conv2d) for m in module.modules())
    # a tag of 4 bytes per convolution; weight and bias of three products, one without a bias
    assert report["sizes"]["fp32"] == 4 * (floats + convolutions + 5 + module.num_bins)
    assert report["sizes"]["fp32"] == os.path.getsize(folder / f"{stem}.bin")
    assert report["sizes"]["fp16"] < 0.55 * report["sizes"]["fp32"]


def test_ncnn_needs_nothing_else(ncnn_export, net):
    _, folder = ncnn_export
    exported = open_exported(folder / "g5-s4-decoded.param")
    assert exported.about["categories"] == CATEGORIES
    assert exported.about["input"]["name"] == "in0" and exported.about["form"] == "decoded"
    # its description can be read by a program that knows nothing of this one
    about = read(folder / "g5-s4-decoded.json")
    cells = 100 + 25 + 9
    assert about["outputs"] == {"scores": [cells, 3], "boxes": [cells, 4]}
    assert about["config"]["model"]["input_size"] == SIZE
    images = export.example_images(SIZE)[::-1]
    for a, b in zip(exported.run(images), export.expected(net, images.copy(), True), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_ncnn_weights_are_read_back(ncnn_export, net):
    """Every convolution, in the order of the network, bit for bit."""
    _, folder = ncnn_export
    stored = list(export.stored_weights(folder / "g5-s4-decoded.param").values())
    module = deployable(net, SIZE)
    wanted = [m.weight for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert len(stored) == len(wanted)
    digest = sorted((tuple(w.shape), w.double().sum().item()) for w in stored)
    assert digest == sorted((tuple(w.shape), w.double().sum().item()) for w in wanted)


def test_ncnn_in_half_precision(net, tmp_path):
    """The pattern survives ncnn's own rounding, and its layers are found behind fp16 ones."""
    module = deployable(net, SIZE, mish=nn.Mish)
    param, values = convert.convert_ncnn(module, planes(export.example_images(SIZE)[:1]))["fp16"]
    (tmp_path / "x.param").write_text(param)
    (tmp_path / "x.bin").write_bytes(values)
    stored = export.stored_weights(tmp_path / "x.param")
    assert all(torch.equal(w, w.half().float()) for w in stored.values())
    assert export.check_pattern(net.state_dict(), stored) == all_layers(net)


def test_no_activation_but_silu_is_a_layer_of_its_own_in_ncnn(tmp_path):
    """pnnx folds them, `fold_hardswish` the one that it leaves; SiLU has no number in ncnn."""
    images = export.example_images(SIZE)[:1]
    for activation, name in (("hswish", "HardSwish"), ("mish", "Mish"), ("silu", "Swish")):
        net = network(activation=activation, head="gflv1")
        module = deployable(net, SIZE, mish=nn.Mish)
        ((param, values),) = convert.convert_ncnn(module, planes(images), ("fp32",)).values()
        path = tmp_path / f"{activation}.param"
        path.write_text(param)
        path.with_suffix(".bin").write_bytes(values)
        layers = read_ncnn(path, path.with_suffix(".bin"))
        assert any(layer.kind == name for layer in layers) == (activation == "silu")
        blobs = sum(len(layer.outputs) for layer in layers)
        assert param.splitlines()[1] == f"{len(layers)} {blobs}"
        run = runtime.ncnn_network(path, 2, threads=1)
        wanted = export.expected(net, images, decoded=False)
        for a, b in zip(run(runtime.ncnn_pixels(images[0])), wanted, strict=True):
            np.testing.assert_allclose(a, b[0], atol=1e-4)


# ------------------------------------------------------------------------------------- checks


def test_a_lost_pattern_is_an_error(net):
    state = dict(net.state_dict())
    counts = export.check_pattern(state, state)
    name = next(n for n, w in state.items() if sparsity.eligible(n, w))
    filled = state | {name: torch.ones_like(state[name])}
    assert export.check_pattern(filled, state)["trained"] == counts["trained"] - 1
    with pytest.raises(UserError, match=f"trained in {counts['trained']} layers, exported in"):
        export.check_pattern(state, filled)


def test_a_difference_is_an_error():
    a = np.linspace(-10, 10, 50, dtype=np.float32)
    assert export.compare([a + 0.0005], [a], ["x"], "fp32")["x"] == pytest.approx(5e-4, rel=0.01)
    with pytest.raises(UserError, match=r"x: .* differs from torch by 0\.01"):
        export.compare([a + 0.01], [a], ["x"], "fp32")
    assert export.compare([a + 0.01], [a], ["x"], "fp16")["x"] == pytest.approx(0.01, rel=0.01)
    with pytest.raises(UserError, match=r"nothing was written; train longer, take .* ReLU6"):
        export.compare([a + 20], [a], ["x"], "int8")
    with pytest.raises(UserError, match="differs from torch by nan"):
        export.compare([a * np.nan], [a], ["x"], "fp16")


def test_operations_that_a_format_lacks():
    class TopK(nn.Module):
        def forward(self, x):
            return x.topk(4, -1).values

    class Bessel(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    with pytest.raises(UserError, match=r"ncnn: has no layer for .*topk"):
        convert.convert_ncnn(TopK(), torch.rand(1, 3, 8, 8))
    with pytest.raises(UserError, match=r"ONNX: cannot be converted: .*bessel"):
        convert.convert_onnx(Bessel(), torch.rand(1, 3), ["y"])


@pytest.fixture
def finish(onnx_export, weights, tmp_path):
    """`finish()` checks a file that is there already and puts it into place."""
    job, _ = export._prepare(weights, tmp_path, False, "fp32", str, (".onnx",), uint8=True)
    content = onnx_export[0]["files"][0].read_bytes()
    return lambda **changes: export._finish(
        job._replace(**changes), {key: {".onnx": content} for key in ("fp32", "fp16")}
    )


def test_what_was_checked_is_put_into_place(finish, tmp_path, net):
    old = finish()["files"][0].read_bytes()
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.head.towers[0][-1].bias[0] += 0.1
    with pytest.raises(UserError, match=r"cls_logits: .* differs from torch by 0\.1"):
        finish(model=other)
    assert names(tmp_path) == ["g5-s4-uint8.onnx"]
    assert (tmp_path / "g5-s4-uint8.onnx").read_bytes() == old
    assert finish()["files"] == [tmp_path / "g5-s4-uint8.onnx"]
    assert names(tmp_path) == ["g5-s4-uint8.onnx"]
    assert open_exported(tmp_path / "g5-s4-uint8.onnx").about["categories"] == CATEGORIES


def test_a_file_of_another_data_set_is_not_replaced(finish, weights, tmp_path):
    finish()
    target = tmp_path / "g5-s4-uint8.onnx"
    model = onnx.load(target)
    about = json.loads(model.metadata_props[0].value)
    about["config"]["profile"] = "bccd"
    onnx.helper.set_model_props(model, {KEY: json.dumps(about)})
    onnx.save(model, target)
    before = target.read_bytes()
    with pytest.raises(UserError, match=r"uint8\.onnx: profile bccd, not .*; delete what"):
        export.export("onnx", weights, tmp_path, uint8=True)
    assert target.read_bytes() == before


@pytest.mark.parametrize(
    ("form", "name", "content"),
    [
        ("onnx", "g5-s4.onnx", b"somebody's"),
        ("ncnn", "g5-s4.bin", b"of a .param that is gone"),
        ("ncnn", "g5-s4.json", b"{}"),
        ("openvino", "g5-s4-openvino.bin", b"of an .xml that is gone"),
    ],
)
def test_a_file_that_is_no_export_is_not_replaced(weights, tmp_path, form, name, content):
    (tmp_path / name).write_bytes(content)
    message = rf"{re.escape(name)}: no usable export \([^;]*\); delete what is there, or take"
    with pytest.raises(UserError, match=message):
        export.export(form, weights, tmp_path)
    assert names(tmp_path) == [name] and (tmp_path / name).read_bytes() == content


def test_a_link_to_nothing_is_not_replaced(weights, tmp_path):
    (tmp_path / "g5-s4.onnx").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"g5-s4\.onnx: no usable export .*not found"):
        export.export("onnx", weights, tmp_path)
    assert (tmp_path / "g5-s4.onnx").is_symlink()


def test_a_failed_write_leaves_what_was_there(finish, tmp_path, monkeypatch):
    old = tmp_path / "g5-s4-uint8.onnx"
    old.write_bytes(b"old")
    monkeypatch.setattr(export.os, "replace", raising(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        finish()
    assert names(tmp_path) == [old.name] and old.read_bytes() == b"old"


def test_user_errors_come_before_the_work(tmp_path, weights, monkeypatch):
    monkeypatch.setattr(graph, "deployable", None)
    with pytest.raises(UserError, match="no trained run there"):
        export.export("onnx", tmp_path / "none.safetensors", tmp_path)
    with pytest.raises(UserError, match="no trained run there"):
        export.export("ncnn", tmp_path / "none.safetensors", tmp_path)
    with pytest.raises(UserError, match=f"is a folder; the weights are {weights}"):
        export.export("onnx", weights.parent, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: cannot be written to"):
        export.export("onnx", weights, tmp_path / "file")


def test_accuracy_of_a_file_is_that_of_the_run(net, weights, onnx_export, tmp_path, monkeypatch):
    """The objects are what the network sees itself, so that its AP is far from 0 and 1."""
    config = small_run(SIZE)
    images = export.example_images(SIZE)[:1]
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    (seen,) = net.detect(planes(images), 0.05)
    boxes_seen = seen.boxes[:6] + torch.tensor([0.0, 0, 4, 4])
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "width": SIZE, "height": SIZE}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": CATEGORIES[label]["id"],
             "bbox": [*box[:2], box[2] - box[0], box[3] - box[1]]}
            for i, (box, label) in enumerate(
                zip(boxes_seen.clamp(max=SIZE).tolist(), seen.labels[:6].tolist(), strict=True), 1
            )
        ],
        "categories": CATEGORIES,
    }  # fmt: skip
    (tmp_path / "val.json").write_text(json.dumps(truth))
    pack = build(tmp_path / "val.json", tmp_path, tmp_path / "val", SIZE)
    monkeypatch.setattr(export, "open_split", lambda *_: packs.open_pack(tmp_path / "val"))
    expected = coco_metrics(read_truth(pack), detect_pack(net, pack))
    file = onnx_export[0]["files"][0]
    found = export.accuracy(file, config)
    assert 0.05 < expected["AP"] < 0.95
    monkeypatch.setattr(export, "load_config", lambda *_: config)
    told = {name: f"{100 * found[name]:.2f} (torch {100 * expected[name]:.2f})"
            for name in ("AP", "AP50")}  # fmt: skip
    line = f"on 1 val images of {config.profile}: AP {told['AP']}, AP50 {told['AP50']}"
    assert export.compared(file, *export.judged(weights)) == line
    truth["categories"] = [c | {"name": f"{c['name']}s"} for c in CATEGORIES]
    (tmp_path / "val.json").write_text(json.dumps(truth))
    build(tmp_path / "val.json", tmp_path, tmp_path / "val", SIZE)
    with pytest.raises(UserError, match=r"\.onnx: label 0 .* there, but .*s'\) in the data"):
        export.accuracy(onnx_export[0]["files"][0], config)
    with pytest.raises(UserError, match=r"safetensors: label 0 .* there, but .*s'\) in the data"):
        export.judged(weights)
    assert found["AP"] == pytest.approx(expected["AP"], abs=0.02)


@pytest.mark.parametrize("activation", ["relu6", "silu", "mish"])
@pytest.mark.parametrize("decoded", [False, True])
def test_int8_holds_what_it_should(activation, decoded):
    """ReLU6 and SiLU between the convolutions, neither the last ones nor what follows, no Mish."""
    model = LightDet(small_run(SIZE, activation=activation).model).eval()
    images = planes(export.example_images(SIZE))
    full = to_onnx(deployable(model, SIZE, decoded), images)
    small = convert.quantize(full, images[:1, None].numpy())
    made = {name: node.op_type for node in small.graph.node for name in node.output}
    full_precision, seen = set(convert._in_full(small, True)), {True: 0, False: 0}
    for node in small.graph.node:
        if node.op_type in ("Clip", "Sigmoid", "Mul"):
            sources = {made[name] for name in node.input if name in made} - {"Constant"}
            inside = sources == {"DequantizeLinear"}
            assert inside == (node.name not in full_precision), node.name
            seen[inside] += 1
    assert (seen[True] > 20) == (activation == "silu")  # ReLU6 is gone: it is a range
    assert (seen[False] > 0) == (decoded or activation == "mish")
    weights = {True: [], False: []}  # by whether the convolution is the last of its level
    for node in small.graph.node:
        if node.op_type == "Conv":
            weights[node.name in full_precision].append(made.get(node.input[1]))
    assert weights[True] == [None] * 3  # as stored, in fp32
    assert set(weights[False]) == {"DequantizeLinear"} and len(weights[False]) > 50


@pytest.mark.parametrize(
    ("activation", "kind", "floor"), [("silu", "Sigmoid", -6), ("hswish", "HardSwish", -3)]
)
def test_int8_has_no_steps_where_the_activation_is_zero(activation, kind, floor):
    """The range of what it reads is from there to the mean of the images' highest values."""
    model = LightDet(small_run(SIZE, activation=activation).model).eval()
    with torch.no_grad():
        next(model.parameters()).mul_(50)  # the first convolution reaches far
    images = planes(export.example_images(SIZE))[:2, None]
    full = to_onnx(deployable(model, SIZE), images[0])
    small = convert.quantize(full, images.numpy())
    read = next(node.input[0] for node in full.graph.node if node.op_type == kind)
    probe = onnx.ModelProto()
    probe.CopyFrom(full)
    probe.graph.output.append(onnx.helper.make_empty_tensor_value_info(read))
    reached = [run_onnx(probe, image)[-1] for image in images]
    assert min(x.min() for x in reached) < -9
    stored = {x.name: onnx.numpy_helper.to_array(x) for x in small.graph.initializer}
    step = float(stored[f"{read}_scale"])
    assert step == pytest.approx((np.mean([x.max() for x in reached]) - floor) / 255, rel=1e-3)
    assert -step * int(stored[f"{read}_zero_point"]) == pytest.approx(floor, abs=step)


def test_int8_is_close_and_keeps_the_pattern(net, tmp_path):
    """Calibrated on the very images that it is compared on; 8 bits give two good digits."""
    images = planes(export.example_images(SIZE))[:, None]
    full = to_onnx(deployable(net, SIZE), images[0])
    small = convert.quantize(full, images.numpy())
    kinds = [node.op_type for node in small.graph.node]
    assert kinds.count("QuantizeLinear") > 20
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in small.graph.initializer]
    widest = max(np.abs(w.astype(int)).max() for w in arrays if w.dtype == np.int8 and w.ndim == 4)
    assert widest == 64  # of 127: 2 * 255 * 64 is below 2**15, a sum's limit without VNNI
    assert len(small.SerializeToString()) < 0.4 * len(full.SerializeToString())
    onnx.save(small, tmp_path / "x.onnx")
    counts = export.check_pattern(net.state_dict(), export.stored_weights(tmp_path / "x.onnx"))
    assert counts == all_layers(net) and counts["trained"] > 0
    for image in images:
        for as_written in (True, False):
            results = run_onnx(full, image), run_onnx(small, image, as_written)
            for a, b in zip(*results, strict=True):
                assert 0 < np.abs(a - b).max() < 0.2 * np.abs(a).max()


def test_rounded_weights_shift_no_channel(monkeypatch):
    """Whole numbers from 0 to 255 are exact in 8 bits: what is left is the weights' error, and the
    rounding of the bias. Zeros around the picture count, too."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 5, padding=2, groups=6))
    images = planes(export.example_images(SIZE))[2:, None]  # noise: has 0 and 255
    full, whole = (convert.convert_onnx(x, images[0], ["y"]) for x in (net[:1], net))

    def shifts(module, openvino=True):
        small = convert.quantize(module, images.numpy(), openvino)
        both = (np.concatenate([run_onnx(x, i)[0] for i in images]) for x in (small, module))
        stored = {x.name: onnx.numpy_helper.to_array(x) for x in small.graph.initializer}
        steps = [x for name, x in stored.items() if name.endswith("bias_quantized_scale")]
        return np.abs(np.subtract(*both).mean((0, 2, 3))), steps[-1]

    shift, step = shifts(full)
    assert (shift < 0.6 * step).all()
    deep, of_runtime = shifts(whole)[0], shifts(whole, openvino=False)[0]
    monkeypatch.setattr(convert, "_recentre", lambda small, *_: small)
    assert (shifts(full)[0] > 5 * step).any()
    assert deep.mean() < 0.3 * shifts(whole)[0].mean()
    assert of_runtime.mean() < 0.3 * shifts(whole, openvino=False)[0].mean()
    bare = convert.convert_onnx(nn.Conv2d(3, 6, 3, bias=False), images[0], ["y"])
    monkeypatch.undo()
    for openvino in (False, True):  # nothing to correct
        assert convert.quantize(bare, images.numpy(), openvino).graph.node


def test_each_runtime_gets_its_own_int8(net, weights, tmp_path, monkeypatch):
    """In both ranges are the mean of the images' extremes, not the farthest of all."""
    one, two = planes(export.example_images(SIZE))[[0, 2], None].numpy()
    full = to_onnx(deployable(net, SIZE), torch.from_numpy(one))

    def steps(images, openvino):
        stored = convert.quantize(full, images, openvino).graph.initializer
        arrays = {x.name: onnx.numpy_helper.to_array(x) for x in stored if "_scale" in x.name}
        inputs = {name: x for name, x in arrays.items() if x.ndim == 0 and "Clip" not in name}
        return pd.Series(inputs).astype(float)

    for openvino in (False, True):
        alone = pd.concat([steps([x], openvino) for x in (one, two)], axis=1)
        both = steps([one, two], openvino)
        assert len(both) > 20 and (alone[0] != alone[1]).sum() > 10
        mean = np.isclose(both, alone.mean(axis=1), rtol=1e-4).mean()
        assert mean > 0.9, mean
    flags = []
    monkeypatch.setattr(export, "calibration_images", lambda *_: iter(export.example_images(SIZE)))
    made = lambda model, inputs, openvino: flags.append(openvino) or model  # noqa: E731
    monkeypatch.setattr(convert, "quantize", made)
    for form in ("onnx", "openvino"):
        export.export(form, weights, tmp_path, precision="int8")
    assert flags == [False, True]


def test_int8_needs_the_training_images(weights, tmp_path, monkeypatch):
    lines = []
    for precision in ("int8", "bf16"):
        with pytest.raises(UserError, match=f"{precision}: not for ncnn"):
            export.export("ncnn", weights, tmp_path, precision=precision)
    with pytest.raises(UserError, match="bf16: not for onnx"):
        export.export("onnx", weights, tmp_path, precision="bf16")
    (tmp_path / "train.json").write_text("{}")
    monkeypatch.setattr(packs, "split_paths", lambda *_: (tmp_path / "train.json", tmp_path))
    monkeypatch.setattr(packs, "pack_path", lambda *_: tmp_path / "train-64")
    with pytest.raises(FileNotFoundError, match=r"train-64: no pack here; run lightdet pack --p"):
        export.export("onnx", weights, tmp_path, precision="int8", progress=lines.append)
    other = SimpleNamespace(categories=[{"id": 1, "name": "other"}])
    monkeypatch.setattr(export, "open_split", lambda *_: other)
    with pytest.raises(
        UserError, match=r"label 0 \(id, name\) is .* but \(1, 'other'\) in the data"
    ):
        export.export("onnx", weights, tmp_path, precision="int8", progress=lines.append)
    assert lines == []  # before anything is converted
    assert not list(tmp_path.glob("*.onnx"))


def test_command_line(tmp_path, weights, capsys, monkeypatch):
    found = []
    report = {"parity": {"x": 1e-6}, "sizes": {"fp32": 8}, "precision": "fp32"}
    report["files"] = ["f.bin", "f.xml"]
    report["sparsity"] = {"eligible": 3, "trained": 2, "exported": 2}
    monkeypatch.setattr(export, "export", lambda *a: found.append(a[:-1]) or report)
    common = ["export", str(weights), "--out", str(tmp_path)]
    cli.run(*common, "--format", "onnx", "--uint8")
    cli.run(*common, "--format", "ncnn", "--precision", "fp16", "--decoded")
    cli.run(*common, "--format", "openvino", "--precision", "bf16")
    monkeypatch.setattr(export, "compared", lambda file, run: f"{run} as {file}: AP 61.63")
    monkeypatch.setattr(export, "judged", lambda run: [run])
    assert "AP 61.63" not in capsys.readouterr().out
    cli.run(*common, "--format", "onnx", "--precision", "int8", "--accuracy")
    assert f"{weights} as f.xml: AP 61.63" in capsys.readouterr().out
    cli.run(*common, "--format", "onnx")
    assert found == [
        ("onnx", weights, tmp_path, False, True, "fp32"),
        ("ncnn", weights, tmp_path, True, False, "fp16"),
        ("openvino", weights, tmp_path, False, False, "bf16"),
        ("onnx", weights, tmp_path, False, False, "int8"),
        ("onnx", weights, tmp_path, False, False, "fp32"),
    ]
    out = capsys.readouterr().out
    assert "torch: x 1e-06" in out and "in 2 of 3 eligible layers, trained: in 2" in out


def test_ncnn_has_no_bytes_as_input(tmp_path, weights):
    with pytest.raises(UserError, match=r"--uint8: .*from_pixels"):
        cli.run("export", str(weights), "--out", str(tmp_path), "--format", "ncnn", "--uint8")
