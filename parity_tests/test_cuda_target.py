"""Files for CUDA: refusals before anything is written, forms of derivatives, what depends on more than sizes."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper

import export
from export.devices import cuda_check, cuda_kernels, size_flow
from export.errors import ArgumentError, UnsupportedOpError

REFUSED = {
    "no kernel in any dtype": (torch.linalg.det, (torch.ones(3, 3),), "Det", "float32"),
    "no kernel for int16": (lambda x: torch.maximum(x, x.flip(0)), (torch.arange(4).short(),), "Max", "int16"),
    "a flag": (lambda x: torch.bitwise_and(x, 3), (torch.arange(4),), "BitwiseAnd", "int64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_for_cuda_nothing_is_written_that_would_run_on_the_cpu(name: str, tmp_path: Path) -> None:
    fn, args, op, dtype = REFUSED[name]
    with pytest.raises(
        UnsupportedOpError, match=r"target='cuda', but node .* would run on the CPU.*Way out: "
    ) as caught:
        export.to_onnx(fn, args, tmp_path / "f.onnx", target="cuda")
    assert (caught.value.op, caught.value.dtype) == (op, dtype)
    assert not list(tmp_path.iterdir())
    export.to_onnx(fn, args, tmp_path / "f.onnx")


def test_another_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="target must be 'cpu', 'cuda' or None, got 'gpu'"):
        export.to_onnx(torch.relu, (torch.ones(3),), tmp_path / "f.onnx", target="gpu")


def strided(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.conv2d(x, w, stride=2, padding=1).cos().sum()


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_weight_gradient_has_the_form_of_its_device(target: str, tmp_path: Path) -> None:
    args = torch.randn(16, 16, 3, 3), torch.randn(2, 16, 9, 9)
    path = export.to_onnx(torch.func.grad(strided, (0, 1)), args, tmp_path / "f.onnx", target=target).path
    model = onnx.load(path)
    kinds = [node.op_type for node in model.graph.node]
    assert {entry.key: entry.value for entry in model.metadata_props}["pure_export.target"] == target
    if target == "cuda":
        assert kinds.count("Conv") == 2
        assert kinds.count("ConvTranspose") == 1
        assert "Gemm" not in kinds
    else:
        assert "Gemm" in kinds
    assert export.verify(torch.func.grad(strided, (0, 1)), args, path, device="cpu").passed


def convolved(**options: Any) -> Any:
    return lambda w, x: torch.nn.functional.conv2d(x, w, **options).cos().sum()


SHAPES: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...]]] = {
    "one place": (convolved(), (16, 8, 1, 1), (3, 8, 7, 5)),
    "one place, a step of two": (convolved(stride=2), (16, 8, 1, 1), (3, 8, 7, 5)),
    "one place, more weights than values": (convolved(), (32, 32, 1, 1), (2, 32, 2, 2)),
    "padded": (convolved(padding=1), (16, 8, 3, 3), (3, 8, 7, 5)),
    "dilated, few positions": (convolved(dilation=2), (16, 8, 3, 3), (3, 8, 7, 6)),
    "groups": (convolved(groups=2, stride=2, padding=1), (16, 8, 3, 3), (3, 16, 7, 5)),
    "transposed": (
        lambda w, x: torch.nn.functional.conv_transpose2d(x, w, stride=2, padding=1).cos().sum(),
        (8, 16, 3, 3),
        (3, 8, 7, 5),
    ),
    "transposed, one place": (
        lambda w, x: torch.nn.functional.conv_transpose2d(x, w).cos().sum(),
        (8, 16, 1, 1),
        (3, 8, 7, 5),
    ),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_the_forms_for_cuda_compute_the_derivative(name: str, dynamic: bool, tmp_path: Path) -> None:
    """Their values are judged on the CPU, which runs them as well."""
    fn, weight, image = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    args = torch.randn(weight, generator=generator), torch.randn(image, generator=generator)
    free = (None, {0: "batch"}) if dynamic else None
    slopes = torch.func.grad(fn, (0, 1))
    path = export.to_onnx(slopes, args, tmp_path / "f.onnx", dynamic=free, target="cuda").path
    verdict = export.verify(slopes, args, path, device="cpu", dynamic=free)
    assert verdict.passed, verdict.table()


@pytest.mark.parametrize("dtype", [torch.int16, torch.int8, torch.uint8])
def test_comparisons_without_a_kernel_are_made_in_a_wider_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    x = torch.arange(12).to(dtype)
    exported = export.to_onnx(lambda x: x.flip(0) > x, (x,), tmp_path / "f.onnx", target="cuda")
    assert torch.equal(exported.load(device="cpu")(x), x.flip(0) > x)


def test_the_derivative_of_relu_in_bfloat16_is_for_cuda(tmp_path: Path) -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    slope = torch.func.grad(lambda x: torch.relu(x).sum())
    assert export.to_onnx(slope, (x,), tmp_path / "f.onnx", target="cuda", opset=22).nodes


def flow_of(*nodes: onnx.NodeProto, constants: tuple[onnx.TensorProto, ...] = ()) -> dict[str, str]:
    """What the nodes of a graph with the input x depend on."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(list(nodes), "g", [x], [], list(constants))
    flow = size_flow.data_sources(helper.make_model(graph))
    return {name: seen.source for (name, _), seen in flow.items()}


def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    made: onnx.NodeProto = helper.make_node(kind, inputs.split(), [output], name=output, **attributes)
    return made


def test_what_depends_on_more_than_sizes_is_followed_through_the_graph() -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    two = helper.make_tensor("two", TensorProto.INT64, [1], [2])
    found = flow_of(
        node("Shape", "x", "shape"),
        node("Mul", "shape two", "twice"),
        node("Mul", "x x", "square"),
        node("Shape", "square", "again"),
        node("Add", "twice again", "sum"),
        node("Mul", "w two", "scaled"),
        node("RandomNormalLike", "shape", "drawn"),
        constants=(weight, two),
    )
    assert found == {
        "shape": "",
        "twice": "",
        "square": "x",
        "again": "",
        "sum": "",
        "scaled": "the constant w",
        "drawn": "random numbers",
    }


@pytest.mark.parametrize("start", ["shape", "x"])
def test_what_a_loop_carries_is_data_as_soon_as_any_step_makes_it_so(start: str) -> None:
    carried = helper.make_tensor_value_info("c", TensorProto.FLOAT, None)
    body = helper.make_graph(
        [node("Identity", "go", "still"), node("Add", "c outer", "c2")],
        "body",
        [*(helper.make_tensor_value_info(n, TensorProto.INT64, []) for n in ("i", "go")), carried],
        [*(helper.make_tensor_value_info(n, TensorProto.INT64, []) for n in ("still", "c2"))],
    )
    found = flow_of(
        node("Shape", "x", "shape"), node("Identity", start, "outer"), node("Loop", "two  shape", "end", body=body)
    )
    inner = flow_of(
        node("Shape", "x", "shape"),
        node("Identity", start, "outer"),
        helper.make_node("Loop", ["", "", "shape"], ["end"], name="end", body=body),
        node("Neg", "end", "after"),
    )
    assert found["outer"] == inner["after"] == inner["c2"] == ("x" if start == "x" else "")


def test_the_skeleton_of_a_file_has_its_nodes_and_not_its_weights(tmp_path: Path) -> None:
    args = torch.randn(64, 64), torch.randn(3, 64)
    path = export.to_onnx(lambda w, x: torch.relu(x @ w), args, tmp_path / "f.onnx", bake=(0,)).path
    whole, bare = onnx.load(path), size_flow.skeleton(path)
    assert [n.name for n in bare.graph.node] == [n.name for n in whole.graph.node]
    assert [list(t.dims) for t in bare.graph.initializer] == [list(t.dims) for t in whole.graph.initializer]
    assert all(not t.raw_data for t in bare.graph.initializer)
    assert size_flow.data_sources(bare).keys() == size_flow.data_sources(whole).keys()
    assert size_flow.skeleton(path.read_bytes()) == bare


@pytest.mark.parametrize("rule", cuda_kernels.RULES, ids=lambda rule: rule.reason)
def test_each_rule_names_its_source(rule: cuda_kernels.Rule) -> None:
    assert rule.source
    assert rule.way_out
    assert not rule.refuses({})


def test_a_model_without_a_fault_has_no_strays(tmp_path: Path) -> None:
    model = onnx.load(export.to_onnx(lambda x: torch.relu(x @ x), (torch.ones(3, 3),), tmp_path / "f.onnx").path)
    assert cuda_check.strays(model) == []
