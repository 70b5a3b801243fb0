#!/usr/bin/env bash
# Guess: snc4onnx, which joins ONNX files (a detector and the steps behind it), gives a file that computes what the
#   two compute one after the other, or refuses them, as onnx.compose does.
# Really: it does not compare the opsets. The new file lists both for the same domain, and ONNX Runtime reads the
#   operators of both parts by the last one, the second file's. Up to opset 12 a Softmax over the classes runs over
#   classes and cells together, from 13 on over the classes: joined it is the other one, in both orders. The shape is
#   right, nothing is said, onnx's checker finds nothing. Of the names it compares those of nodes, inputs and outputs:
#   where both files have a stored tensor of one name, each with its own value, the second file's is used in both
#   parts; onnx-graphsurgeon logs it, snc4onnx goes on. Right are equal opsets, and prefixes for the names.
# Here: judged by ONNX Runtime on the two files, one after the other.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 snc4onnx==1.0.14 \
  onnx-graphsurgeon==0.6.1 onnxsim==0.8.1
venv/bin/python - <<'EOF'
import contextlib
import io
from importlib.metadata import version

import numpy as np
import onnx
import onnx.compose
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from snc4onnx import combine

print(*(f"{name} {version(name)}" for name in ("onnx", "onnxruntime", "snc4onnx", "onnx-graphsurgeon", "onnxsim")))
random = np.random.default_rng(0)
LOGITS = random.normal(0, 2, (1, 3, 5)).astype(np.float32)  # three classes, five cells


def net(name, opset, node, attributes, x, y, stored):
    node = helper.make_node(node, [f"{name}_in", *stored], [f"{name}_out"], f"{name}_{node}", **attributes)
    x = helper.make_tensor_value_info(f"{name}_in", TensorProto.FLOAT, x)
    y = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, y)
    graph = helper.make_graph([node], name, [x], [y], [numpy_helper.from_array(v, k) for k, v in stored.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return model


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def times(factor, shape, opset, name="factor", part="post"):
    return net(part, opset, "Mul", {}, shape, shape, {name: np.array([factor], np.float32)})


def joined(first, second, prefixes, **settings):
    """The joined model, and what was printed meanwhile."""
    settings |= {"srcop_destop": [["head_out", "post_in"]], "op_prefixes_after_merging": prefixes}
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        model = combine(onnx_graphs=[first, second], **settings)
    return model, out.getvalue()


SHAPE = LOGITS.shape
for versions in ((11, 11), (17, 17), (12, 13), (17, 11)):
    first = net("head", versions[0], "Softmax", {"axis": 1}, SHAPE, SHAPE, {})
    second, same = times(1, SHAPE, versions[1]), len(set(versions)) == 1
    right = run(second, run(first, LOGITS))
    for settings in ({}, {"disable_onnxsim": True}):
        model, log = joined(first, second, ["a", "b"], **settings)
        assert "WARN" not in log and "ERROR" not in log and "[W]" not in log.replace("[W] colored module", "")
        onnx.checker.check_model(model, full_check=True)
        found = run(model, LOGITS)
        assert found.shape == right.shape and np.allclose(found, right, atol=1e-6) == same
    try:
        onnx.compose.merge_models(first, second, [("head_out", "post_in")])
        other = "right"
    except ValueError:
        other = "refuses"
    assert (other == "right") == same
    right, found = (f"{v.sum(1).mean():.2f}" for v in (right, found))
    listed = [entry.version for entry in model.opset_import]
    assert listed == list(dict.fromkeys(versions))
    print(f"opsets {versions}, sum of a cell: right {right}, snc4onnx {found}, opsets {listed}; compose {other}")

print("both parts multiply by a stored tensor, 0.1 and 640, opset 17")
first, x = times(0.1, SHAPE, 17, "scale", "head"), np.full(SHAPE, 10, np.float32)
for text, name, prefixes in (("two names", "size", []), ("one name", "scale", []), ("prefixes", "scale", ["a", "b"])):
    second = times(640, SHAPE, 17, name)
    model, log = joined(first, second, prefixes)
    found = run(model, x)
    print(f"  {text}: right {run(second, run(first, x))[0, 0, 0]:.0f}, snc4onnx {found[0, 0, 0]:.0f}")
    assert ("tensors that share the same name" in log) == (text == "one name")
    assert abs(found - (10 * 640 * 640 if text == "one name" else 640)).max() < 1
EOF
# Seen (Python 3.11, Linux, x86-64):
#   onnx 1.23.2 onnxruntime 1.31.1 snc4onnx 1.0.14 onnx-graphsurgeon 0.6.1 onnxsim 0.8.1
#   opsets (11, 11), sum of a cell: right 0.20, snc4onnx 0.20, opsets [11]; compose right
#   opsets (17, 17), sum of a cell: right 1.00, snc4onnx 1.00, opsets [17]; compose right
#   opsets (12, 13), sum of a cell: right 0.20, snc4onnx 1.00, opsets [12, 13]; compose refuses
#   opsets (17, 11), sum of a cell: right 1.00, snc4onnx 0.20, opsets [17, 11]; compose refuses
#   both parts multiply by a stored tensor, 0.1 and 640, opset 17
#     two names: right 640, snc4onnx 640
#     one name: right 640, snc4onnx 4096000
#     prefixes: right 640, snc4onnx 640
