#!/usr/bin/env bash
# onnx's inliner writes out a LayerNormalization only if its inputs are the graph's: not with a stored scale, not inside a Loop.
#
# Guess: inline_selected_functions(…, inline_schema_functions=True) replaces a LayerNormalization by its definition wherever it stands: the
#        checker, shape inference included, accepts the models, and every value involved has a type in the file.
# Seen: with the scale as an input of the graph it does. With the scale as an initializer, and in a Loop's body at the body's own input, it
#       ends in RuntimeError "Type unknown for" that name.
#
# Versions: onnx 1.23.2, CPU, Python 3.11. Seen on 2026-11-30.
# Exits 0 while this holds, 1 when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet onnx==1.23.2
"$folder/venv/bin/python" - <<'PYTHON'
from onnx import TensorProto, checker, helper, inliner

SHAPE = [2, 4]


def value(name, kind=TensorProto.FLOAT, shape=SHAPE):
    return helper.make_tensor_value_info(name, kind, shape)


def inlined(node, inputs, constants):
    """Return the operators of a model of one node after LayerNormalization is replaced by its definition, or what failed."""
    graph = helper.make_graph([node], "g", [value("x"), *inputs], [value("y")], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model, full_check=True)
    try:
        found = inliner.inline_selected_functions(model, [("", "LayerNormalization")], inline_schema_functions=True)
    except RuntimeError as error:
        return str(error).rsplit(": ", 1)[-1]
    checker.check_model(found, full_check=True)
    return sorted({node.op_type for node in found.graph.node})


def norm(x, y):
    return helper.make_node("LayerNormalization", [x, "scale"], [y])


given = value("scale", shape=[4])
stored = helper.make_tensor("scale", TensorProto.FLOAT, [4], [1.0] * 4)
times = helper.make_tensor("times", TensorProto.INT64, [], [3])
body = helper.make_graph(
    [norm("state", "normed"), helper.make_node("Identity", ["go"], ["on"])],
    "body",
    [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("state")],
    [value("on", TensorProto.BOOL, []), value("normed")],
)
loop = helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)

as_input = inlined(norm("x", "y"), [given], [])
print("scale is an input:", as_input)
assert isinstance(as_input, list) and "LayerNormalization" not in as_input
as_initializer = inlined(norm("x", "y"), [], [stored])
print("scale is an initializer:", as_initializer)
assert as_initializer == "Type unknown for scale"
in_loop = inlined(loop, [given], [times])
print("in the body of a Loop:", in_loop)
assert in_loop == "Type unknown for state"
PYTHON
