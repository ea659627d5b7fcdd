"""Empty samples: judged as others are, and a refusal is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.func import grad

import export


def drawn(*shape: int) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


WEIGHT = drawn(6, 4)
FUNCTIONS: dict[str, tuple[Callable[..., Any], Tensor]] = {
    "mean": (lambda x: x.mean(), drawn(5, 6)),
    "product": (lambda x: x @ WEIGHT, drawn(5, 6)),
    "gradient of max pooling": (grad(lambda x: F.max_pool2d(x, 2).square().sum()), drawn(5, 3, 8, 8)),
    "group norm": (lambda x: F.group_norm(x, 3), drawn(5, 6, 4)),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), drawn(5, 2, 7, 4)),
    "loss": (lambda x: F.cross_entropy(x, torch.zeros(x.shape[0], dtype=torch.long)), drawn(5, 6)),
    "rows added": (lambda x: torch.zeros(3, 6).index_add(0, (x[:, 0] > 0).long(), x), drawn(5, 6)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_empty_batch_is_judged(name: str, tmp_path: Path) -> None:
    fn, x = FUNCTIONS[name]
    export.to_onnx(fn, (x,), tmp_path / "empty.onnx", dynamic=({0: "batch"},))
    verdict = export.verify(fn, (x,), tmp_path / "empty.onnx", samples=[(x[:0],)])
    assert verdict
    assert {row.status for row in verdict.rows if row.case == "sample 1"} == {"pass"}


def test_an_empty_sample_that_eager_refuses_is_its_error(tmp_path: Path) -> None:
    export.to_onnx(lambda x: x.amax(0), (drawn(5, 6),), tmp_path / "empty.onnx", dynamic=({0: "batch"},))
    with pytest.raises(IndexError, match="amax"):
        export.verify(lambda x: x.amax(0), (drawn(5, 6),), tmp_path / "empty.onnx", samples=[(drawn(0, 6),)])


def test_a_file_that_refuses_empty_inputs_fails(tmp_path: Path) -> None:
    """A reshape to (0, −1), as exporters write it for a fixed batch axis, has no answer for an empty tensor."""
    shape = numpy_helper.from_array(np.array([0, -1]), "shape")
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "reshape",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 6])],
        [shape],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "f.onnx")
    verdict = export.verify(lambda x: x.flatten(1), (drawn(4, 2, 3),), tmp_path / "f.onnx", samples=[(drawn(0, 2, 3),)])
    (row,) = (row for row in verdict.rows if row.status == "fail")
    assert row.case == "sample 1"
    assert "the file refuses" in row.reason
