import struct

import pytest
import torch
import torch.nn.functional as F
from ncnn_networks import run_ncnn, three_convs, write_ncnn

from lightdet_core.config import UserError
from lightdet_tools.deploy.ncnn_files import fold_hardswish, read_ncnn


@pytest.mark.parametrize("half", [False, True])
def test_reader_agrees_with_the_ncnn_runtime(tmp_path, half):
    convs = three_convs()
    param, weights = write_ncnn(tmp_path, convs, half)
    image, *layers = read_ncnn(param, weights)
    assert (image.kind, image.name, image.outputs, image.weight) == ("Input", "in", ["x0"], None)
    x = torch.rand(1, 1, 9, 7)
    (expected,) = run_ncnn(param, weights, x[0].numpy(), "x0", ["x3"])
    for i, (layer, conv) in enumerate(zip(layers, convs, strict=True)):
        assert (layer.inputs, layer.outputs) == ([f"x{i}"], [f"x{i + 1}"])
        assert layer.params[10] == [0.1] and (layer.bias is None) == (conv.bias is None)
        tolerance = 1e-3 if half else 0
        torch.testing.assert_close(layer.weight, conv.weight.data, rtol=tolerance, atol=tolerance)
        stride, padding, groups = (layer.params[key] for key in (3, 4, 7))
        x = F.conv2d(x, layer.weight, layer.bias, stride, padding, groups=groups)
        x = F.leaky_relu(x, layer.params[10][0])
    torch.testing.assert_close(x[0], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("half", [False, True])
def test_linear_layers_and_constants_agree_with_the_ncnn_runtime(tmp_path, half):
    """As pnnx writes them; an odd number of weights, which 16 bits have to fill up."""
    param, weights = tmp_path / "net.param", tmp_path / "net.bin"
    linear = "10=4 2=0 3=1 4=0 5=1 6=1 7=2 8=5 9=3"
    param.write_text(
        "7767517\n4 4\nInput in 0 1 x\nMemoryData m 0 1 y 0=3 1=2\n"
        f"Gemm a 1 1 x z {linear}\nGemm b 1 1 y w {linear.replace('10=4', '10=-1')}\n"
    )
    torch.manual_seed(3)
    constant, *factors = torch.rand(2, 3), torch.rand(5, 3), torch.rand(5), torch.rand(5, 3)
    data = constant.numpy().tobytes()
    for values in factors:
        raw = values.numpy().astype("<f2" if half else "<f4").tobytes()
        data += struct.pack("<I", 0x01306B47 if half else 0) + raw + b"\0" * (-len(raw) % 4)
    weights.write_bytes(data)
    _, m, a, b = read_ncnn(param, weights)
    assert torch.equal(m.weight, constant) and m.bias is None and b.bias is None
    for found, wanted in zip((a.weight, a.bias, b.weight), factors, strict=True):
        assert torch.equal(found, wanted.half().float() if half else wanted)
    x = torch.rand(2, 3)
    z, w = run_ncnn(param, weights, x.numpy(), "x", ["z", "w"])
    torch.testing.assert_close(z, F.linear(x, a.weight, a.bias), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(w, F.linear(constant, b.weight), atol=1e-6, rtol=1e-5)
    param.write_text(param.read_text().replace("8=5", "8=-5"))
    with pytest.raises(UserError, match=r"net\.param: damaged: a has shapes \[\(-5, 3\)"):
        read_ncnn(param, weights)


def test_damaged_files_are_named(tmp_path):
    param, weights = write_ncnn(tmp_path, three_convs(), half=False)
    text, data = param.read_text(), weights.read_bytes()
    size = len(data)
    longer = rf"{size + 4} bytes, but the layers of .*net\.param have {size}"
    for wrong, message in [
        (data[:-4], "ends within the weights of conv2: 16 bytes left, 20 expected"),
        (b"", "ends within the weights of conv0: 0 bytes left, 4 expected"),
        (data + b"1234", longer),
        (b"\x01" + data[1:], "conv0 is stored as 0x00000001, expected 0 .* 0x01306b47"),
    ]:
        weights.write_bytes(wrong)
        with pytest.raises(UserError, match=rf"net\.bin: {message}"):
            read_ncnn(param, weights)
    weights.write_bytes(data)
    for wrong, message in [
        (data.decode("latin-1"), "begins with .*, expected 7767517"),
        ("", "begins with ''"),
        ("7767517", "damaged: 0 layers, expected some"),
        (text.replace("4 4", "5 4", 1), "damaged: 4 layers, expected 5"),
        (text.replace("Input    ", "Input x  "), "damaged: line 3 is 'Input x"),
        (text.replace("6=27", "6=26"), r"damaged: conv0 has 26 weights, .* \(3, 3, 3\)"),
        (text.replace("0=3 1=3", "0=0 1=3"), r"damaged: conv0 has 27 weights, .* \(0, 3, 3\)"),
        (text.replace("0=3 1=3", "0=3.0 1=3"), r"damaged: conv0 .* \(3\.0, 3, 3\)"),
    ]:
        param.write_text(wrong)
        with pytest.raises(UserError, match=rf"net\.param: {message}"):
            read_ncnn(param, weights)
    with pytest.raises(UserError, match=r"none\.param: cannot be read .*No such file"):
        read_ncnn(tmp_path / "none.param", weights)


HEAD = "7767517\n{}\nInput in0 0 1 in0\n"


def test_hardswish_goes_into_the_convolution_before_it():
    """With its two numbers, or ncnn's where it has none; layers and blobs are counted anew."""
    text = HEAD.format("6 6") + (
        "Convolution a 1 1 in0 1 0=4 1=1 5=1 6=12\nHardSwish s 1 1 1 2 0=0.166666672 1=0.5\n"
        "ConvolutionDepthWise b 1 1 2 3 0=4 1=3 5=0 6=36 7=4\nHardSwish t 1 1 3 4\n"
        "Pooling p 1 1 4 out0 0=1\n"
    )
    magic, counts, *layers = fold_hardswish(text).splitlines()
    assert (magic, counts) == ("7767517", "4 4")
    assert [" ".join(layer.split()) for layer in layers] == [
        "Input in0 0 1 in0",
        "Convolution a 1 1 in0 2 0=4 1=1 5=1 6=12 9=6 -23310=2,0.166666672,0.5",
        "ConvolutionDepthWise b 1 1 2 4 0=4 1=3 5=0 6=36 7=4 9=6 -23310=2,0.2,0.5",
        "Pooling p 1 1 4 out0 0=1",
    ]


@pytest.mark.parametrize(
    "layers",
    [
        "4 4|Pooling p 1 1 in0 1 0=1|HardSwish s 1 1 1 2 0=0.2 1=0.5|Pooling q 1 1 2 out0 0=1",
        "3 3|Convolution c 1 1 in0 1 0=4 1=1 6=12 9=1|HardSwish s 1 1 1 out0",  # ReLU is in it
        "5 5|Convolution c 1 1 in0 1 0=4 1=1 6=12|HardSwish s 1 1 1 2|Pooling p 1 1 1 3 0=1|"
        "BinaryOp b 2 1 2 3 out0 0=0",  # its output is needed by itself, too
        "3 3|Convolution c 1 1 in0 1 0=4 1=1 6=12|Swish s 1 1 1 out0",  # has no number in ncnn
    ],
)
def test_what_cannot_be_folded_stays(layers):
    counts, *lines = layers.split("|")
    text = HEAD.format(counts) + "\n".join(lines) + "\n"
    assert fold_hardswish(text) == text


def test_folded_hardswish_is_the_same_in_the_ncnn_runtime(tmp_path):
    """Dense and depthwise; numbers other than the usual ones would show."""
    param, weights = write_ncnn(tmp_path, three_convs(), half=False)
    _, _, image, *lines = param.read_text().splitlines()
    layers = []
    for i, line in enumerate(lines):
        plain = line.split(" 9=2")[0].replace(f" x{i} x{i + 1} ", f" y{i} x{i + 1} ")
        layers += [plain, f"HardSwish s{i} 1 1 x{i + 1} y{i + 1} 0=0.3 1=0.4"]
    text = "\n".join(["7767517", "7 7", image.replace("x0", "y0"), *layers]) + "\n"
    x = 4 * torch.rand(1, 9, 7) - 2
    outputs = []
    for form in (text, fold_hardswish(text)):
        param.write_text(form)
        outputs += run_ncnn(param, weights, x.numpy(), "y0", ["y3"])
    assert [layer.kind for layer in read_ncnn(param, weights)].count("HardSwish") == 0
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-6, rtol=1e-5)
    param.write_text(text.replace("0=0.3", "0=0.1666"))
    (usual,) = run_ncnn(param, weights, x.numpy(), "y0", ["y3"])
    assert (usual - outputs[0]).abs().max() > 1e-3
