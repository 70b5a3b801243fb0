"""runtime.py, on files made by hand."""

import json
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lightdet_core.config import UserError
from lightdet_tools.deploy.convert import convert_openvino
from lightdet_tools.deploy.runtime import (
    KEY,
    onnx_session,
    open_exported,
    openvino_network,
    read_openvino,
)

SIZE = 3
DESCRIPTION = {
    "form": "raw",
    "input": {"name": "images", "dtype": "float32", "layout": "NCHW", "size": SIZE},
    "outputs": {"same": [3, SIZE, SIZE], "negative": [3, SIZE, SIZE]},
    "quality": None,
    "categories": [{"id": 3, "name": "ü"}],
    "config": {"experiment": "g1", "profile": "demo", "seed": 4, "model": {}},
}
WEIGHTS = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)


def write_onnx(path, dtype="float32", about=DESCRIPTION):
    """Two outputs of the pixels, which the file has in another order than the description."""
    kind = TensorProto.FLOAT if dtype == "float32" else TensorProto.UINT8
    shape = ["B", SIZE, SIZE, 3] if dtype == "uint8" else ["B", 3, SIZE, SIZE]
    nodes = [
        helper.make_node("Cast", ["images"], ["same"], to=TensorProto.FLOAT),
        helper.make_node("Neg", ["same"], ["negative"]),
    ]
    inputs = [helper.make_tensor_value_info("images", kind, shape)]
    outputs = [helper.make_tensor_value_info(x, 1, shape) for x in ("negative", "same")]
    graph = helper.make_graph(nodes, "net", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if about:
        helper.set_model_props(model, {KEY: json.dumps(about)})
    onnx.save(model, path)
    return path


def write_ncnn(folder, **changes):
    """A convolution that doubles red, trebles green and drops blue, and its negative."""
    weights = np.float32([[2, 0, 0], [0, 3, 0], [0, 0, 0]])
    (folder / "x.param").write_text(
        "7767517\n4 5\nInput in0 0 1 in0\nConvolution c 1 1 in0 a 0=3 1=1 5=0 6=9\n"
        "Split s 1 2 a out0 b\nUnaryOp n 1 1 b out1 0=1\n"
    )
    (folder / "x.bin").write_bytes(bytes(4) + weights.tobytes())
    about = DESCRIPTION | {"input": DESCRIPTION["input"] | {"name": "in0"}} | changes
    (folder / "x.json").write_text(json.dumps(about))
    return folder / "x.param"


def write_openvino(folder, **changes):
    path = folder / "x.xml"
    text, values = convert_openvino(onnx.load(write_onnx(folder / "x.onnx", **changes)))
    path.write_bytes(text)
    path.with_suffix(".bin").write_bytes(values)
    return path


def test_a_session_leaves_the_cores_between_calls(tmp_path):
    """By default its second thread looks for work for some 0.04 s."""
    weights = onnx.numpy_helper.from_array(WEIGHTS, "weights")
    values = [helper.make_tensor_value_info(x, 1, [64, 64]) for x in "xy"]
    node = helper.make_node("MatMul", ["x", "weights"], ["y"])
    graph = helper.make_graph([node], "net", values[:1], values[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "x.onnx")
    session, used = onnx_session(tmp_path / "x.onnx", threads=2), []
    for _ in range(5):
        session.run(None, {"x": WEIGHTS})
        before = time.process_time()
        time.sleep(0.03)
        used.append(time.process_time() - before)
    assert np.median(used) < 0.01


def test_onnx_gets_its_pixels_in_its_layout(tmp_path):
    """Outputs come in the order of the description."""
    exported = open_exported(write_onnx(tmp_path / "x.onnx"), threads=2)
    assert exported.about == DESCRIPTION
    same, negative = exported.run(IMAGES)
    np.testing.assert_array_equal(same, IMAGES.transpose(0, 3, 1, 2).astype(np.float32))
    np.testing.assert_array_equal(negative, -same)
    about = DESCRIPTION | {"outputs": {"same": [SIZE, SIZE, 3]}}
    about["input"] = DESCRIPTION["input"] | {"dtype": "uint8", "layout": "NHWC"}
    (same,) = open_exported(write_onnx(tmp_path / "y.onnx", "uint8", about)).run(IMAGES[1:])
    np.testing.assert_array_equal(same, IMAGES[1:].astype(np.float32))


def test_ncnn_gets_rgb_image_by_image(tmp_path):
    exported = open_exported(write_ncnn(tmp_path))
    assert exported.about["categories"] == DESCRIPTION["categories"]
    for images in (IMAGES, IMAGES[:, ::-1]):  # also when they are not contiguous
        same, negative = exported.run(images)
        np.testing.assert_array_equal(same[:, 0], 2.0 * images[..., 0])
        np.testing.assert_array_equal(same[:, 1], 3.0 * images[..., 1])
        np.testing.assert_array_equal(negative, -same)
        assert not same[:, 2].any()


def test_openvino_gets_its_pixels_image_by_image(tmp_path):
    """Outputs come in the order of the description; the file stands alone."""
    exported = open_exported(write_openvino(tmp_path), threads=2)
    assert exported.about == DESCRIPTION
    for images in (IMAGES, IMAGES[:, ::-1]):  # also when they are not contiguous
        same, negative = exported.run(images)
        np.testing.assert_array_equal(same, images.transpose(0, 3, 1, 2).astype(np.float32))
        np.testing.assert_array_equal(negative, -same)
    about = DESCRIPTION | {"outputs": {x: [SIZE, SIZE, 3] for x in ("same", "negative")}}
    about["input"] = DESCRIPTION["input"] | {"dtype": "uint8", "layout": "NHWC"}
    same, _ = open_exported(write_openvino(tmp_path, dtype="uint8", about=about)).run(IMAGES[1:])
    np.testing.assert_array_equal(same, IMAGES[1:].astype(np.float32))


def test_openvino_sends_no_statistics():
    """Its import would, from a package that is then loaded."""
    code = (
        "from lightdet_tools.deploy.runtime import openvino_library as o; o().Core(); import sys; "
    )
    code += "print(*(n for n, m in sys.modules.items() if m and n.startswith('openvino_tele')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_openvino_computes_in_what_is_asked_for(tmp_path):
    """Left alone it would take bf16, 8 bits of mantissa, wherever the CPU has it."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", 1, ["B", 64])],
        [helper.make_tensor_value_info("y", 1, ["B", 64])],
        [onnx.numpy_helper.from_array(WEIGHTS, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    text, values = convert_openvino(model)
    for suffix, content in ((".xml", text), (".bin", values)):
        (tmp_path / f"m{suffix}").write_bytes(content)
    x = np.random.default_rng(2).normal(size=(1, 64)).astype(np.float32)
    errors = {}
    for bf16 in (False, True):
        try:
            (y,) = openvino_network(read_openvino(tmp_path / "m.xml"), 1, bf16)(x)
        except UserError as error:
            assert bf16 and "this CPU does not compute in bf16" in str(error)
            return
        errors[bf16] = np.abs(y - x @ WEIGHTS).max()
    assert errors[False] < 1e-4 < 1e-3 < errors[True] < 1


def test_other_images_are_refused(tmp_path):
    run = open_exported(write_onnx(tmp_path / "x.onnx")).run
    for images in (IMAGES[:, 1:], IMAGES.astype(np.float32), IMAGES[0]):
        with pytest.raises(UserError, match=r"x\.onnx: images are .*uint8 \(B, \(3, 3, 3\)"):
            run(images)


def test_damaged_onnx_files_are_named(tmp_path):
    path = tmp_path / "x.onnx"
    with pytest.raises(UserError, match=r"x\.onnx: not found"):
        open_exported(path)
    whole = write_onnx(path).read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"a picture"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.onnx: not a usable ONNX file"):
            open_exported(path)
    older = {key: value for key, value in DESCRIPTION.items() if key != "quality"}
    write_onnx(path, about=older)
    with pytest.raises(UserError, match=r"x\.onnx: .* lacks quality; export the run again"):
        open_exported(path)
    for about in (None, {}, ["form", "input"]):
        write_onnx(path, about=about)
        with pytest.raises(UserError, match=r"x\.onnx: has no LightDet description"):
            open_exported(path)
    with pytest.raises(UserError, match=r"x\.pt: an \.onnx, ncnn's \.param or OpenVINO's \.xml"):
        open_exported(tmp_path / "x.pt")


def test_damaged_ncnn_files_are_named(tmp_path):
    entry = write_ncnn(tmp_path)
    for suffix in (".param", ".bin", ".json"):
        file = entry.with_suffix(suffix)
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(UserError, match=rf"x\{suffix}: not found; ncnn needs"):
            open_exported(entry)
        file.write_bytes(content[: len(content) // 2])
        message = r"json: has no LightDet" if suffix == ".json" else r"param: ncnn cannot load it"
        with pytest.raises(UserError, match=rf"x\.{message}"):
            open_exported(entry)
        file.write_bytes(content)
    open_exported(entry).run(IMAGES)


def test_damaged_openvino_files_are_named(tmp_path):
    entry = write_openvino(tmp_path)
    for suffix in (".xml", ".bin"):
        file = entry.with_suffix(suffix)
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(UserError, match=rf"x\{suffix}: not found; OpenVINO needs"):
            open_exported(entry)
        file.write_bytes(content)
    text = entry.read_bytes()
    for wrong in (text[: len(text) // 2], b"", b"a picture"):
        entry.write_bytes(wrong)
        with pytest.raises(UserError, match=r"x\.xml: OpenVINO cannot read it: \w"):
            open_exported(entry)
    outputs = {"same": [3, SIZE, SIZE], "other": [3, SIZE, SIZE]}
    for about, message in (
        (None, "has no LightDet description"),
        ({key: value for key, value in DESCRIPTION.items() if key != "quality"}, "lacks quality"),
        (
            DESCRIPTION | {"config": {"profile": "demo"}},
            r"lacks config\.experiment, config\.model;",
        ),
        (DESCRIPTION | {"config": 3}, r"lacks config\.experiment, config\.profile, config\.model;"),
        (DESCRIPTION | {"outputs": outputs}, "has other outputs than its description says"),
    ):
        with pytest.raises(UserError, match=rf"x\.xml: .*{message}"):
            open_exported(write_openvino(tmp_path, about=about))


def test_another_networks_description_is_noticed(tmp_path):
    outputs = DESCRIPTION["outputs"]
    entry = write_ncnn(tmp_path, outputs=outputs | {"third": [1, 1]})
    with pytest.raises(UserError, match=r"x\.param: does not have \d outputs"):
        open_exported(entry).run(IMAGES)
    entry = write_ncnn(tmp_path, outputs=outputs | {"negative": [3, 4, 4]})
    with pytest.raises(UserError, match=r"gives .*but its description says .*\(3, 4, 4\)"):
        open_exported(entry).run(IMAGES)
