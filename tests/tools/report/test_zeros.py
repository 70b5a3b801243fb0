import pandas as pd
import torch
from conftest import close, network
from torch import nn

from lightdet_core import sparsity
from lightdet_tools.report import zeros


def test_report_names_the_obstacles():
    net = network("+gflv2")
    sparsity.apply_masks(net.state_dict(), sparsity.make_masks(net))
    table = pd.DataFrame(zeros.report(net.state_dict())[0]).set_index("name")
    assert table.obstacle["backbone.net.conv_stem"] == "input channels"
    assert table.obstacle["neck.lateral.0"] == "input channels"  # 40 channels
    assert table.obstacle["head.towers.0.0"] == "depthwise"
    assert table.obstacle["head.towers.0.18"] == "output channels"  # 124 of them
    of_quality = table.obstacle[table.index.str.startswith("head.quality")]
    assert list(of_quality) == ["input channels", "output channels"]  # 20; 1
    lateral = table.loc["neck.lateral.1"]
    assert lateral["shape"] == (128, 112, 1, 1) and lateral["weights"] == 128 * 112
    assert lateral["share"] == 0.5 and lateral["zeros"] == 64 * 112


def test_storage_golden(golden):
    inputs, expected = golden("sparse_storage")
    weight = torch.ones(8, inputs["n"] // 8)
    dense = {"layer.weight": weight}
    assert zeros.stored_bytes(dense, 32) == expected["fp32_dense"]
    weight.mul_(sparsity.mask_2to4(weight))
    assert zeros.stored_bytes(dense, 32) == expected["fp32_2to4"]
    assert zeros.stored_bytes(dense, 16) == expected["fp16_2to4"]
    assert zeros.stored_bytes(dense, 8) == expected["ratio_int8"] * inputs["n"]


def test_storage_of_a_network(golden):
    """Lite1 with batch norm folded into one bias: what is not eligible stays dense."""
    sizes = golden("model_counts")[1]["lite1_416_gflv1_c128_s3_r10"]
    ours = golden("asp_eligibility")[1]["lite1_416_gflv1_c128_s3_r10"]
    net = network("c0")
    sparsity.apply_masks(net.state_dict(), sparsity.make_masks(net))
    norms = {n for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    folded = {
        name: tensor
        for name, tensor in net.state_dict().items()
        if name.rpartition(".")[0] not in norms or name.endswith((".bias", ".num_batches_tracked"))
    }
    rest = sizes["fused"] - ours["eligible_weights"]
    packed = golden("sparse_storage")[1]
    assert zeros.stored_bytes(folded, 32) == packed["fp32_2to4"] + 4 * rest
    assert zeros.stored_bytes(folded, 16) == packed["fp16_2to4"] + 2 * rest


def test_batch_norm_is_measured_anew():
    """The plain mean over batches of their means and (unbiased) variances; then eval mode."""
    net = nn.Sequential(nn.BatchNorm2d(1, momentum=0.1))
    net[0].running_mean.fill_(9.0)
    batches = [torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), torch.tensor([4.0, 8.0]).view(2, 1, 1, 1)]
    zeros.measure_batch_norm(net, batches)
    assert not net.training and net[0].momentum == 0.1
    close(net[0].running_mean, [4.0])  # (2 + 6) / 2
    close(net[0].running_var, [5.0])  # (2 + 8) / 2
