"""A dynamic batch stays dynamic under forward derivatives, per-sample gradients and Hessian-vector products.

PyTorch computes some of these in C++ with sizes as numbers; this package's own kernels, present only while a function
is recorded, keep them symbolic. Each kernel is compared with PyTorch's, each transform with the float64 verdict.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jvp, vmap

import export
import pure
from export.errors import SpecialisedSizeError
from export.ops import convolution as convolution_rules
from export.ops import convolution_gradients
from export.trace import active_rules

BATCH = {0: "batch"}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def squared(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: fn(*args).square().sum()


def batch_norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    channels = w.shape[-1]
    mean, variance = torch.linspace(-0.5, 0.5, channels), torch.linspace(0.5, 2.0, channels)
    return F.batch_norm(x, mean.to(x.dtype), variance.to(x.dtype), w, b, False, 0.0)


NORMS: dict[str, Callable[..., Tensor]] = {
    "layer": lambda x, w, b: F.layer_norm(x, (4,), w, b),
    "group": lambda x, w, b: F.group_norm(x, 2, w, b),
    "batch in evaluation": batch_norm,
    "batch in training": lambda x, w, b: F.batch_norm(x, None, None, w, b, True, 0.0),
}
CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Callable[..., Tensor]]] = {
    "plain": ((2, 4, 5, 6), (6, 4, 3, 3), lambda x, w: F.conv2d(x, w)),
    "stride and padding": ((2, 4, 6, 7), (6, 4, 3, 2), lambda x, w: F.conv2d(x, w, None, 2, (1, 0))),
    "dilation": ((2, 4, 8, 8), (6, 4, 3, 3), lambda x, w: F.conv2d(x, w, None, 1, 2, 2)),
    "groups": ((2, 4, 5, 5), (6, 2, 3, 3), lambda x, w: F.conv2d(x, w, None, 2, 1, 1, 2)),
    "one axis": ((2, 4, 7), (6, 4, 3), lambda x, w: F.conv1d(x, w, None, 2)),
    "transposed": ((2, 4, 5, 5), (4, 6, 3, 3), lambda x, w: F.conv_transpose2d(x, w, None, 2, 1, 1)),
    "transposed groups": ((2, 4, 5, 5), (4, 3, 3, 3), lambda x, w: F.conv_transpose2d(x, w, None, 2, 1, 1, 2)),
}
MAPPED = {"input": (0, None), "weight": (None, 0), "both": (0, 0)}


def agree(fn: Callable[..., Any], *args: Any) -> None:
    """This package's kernels compute what PyTorch's do."""
    expected = fn(*args)
    with active_rules.installed():
        actual = fn(*args)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("in_dims", MAPPED.values(), ids=MAPPED)
@pytest.mark.parametrize(("x_shape", "w_shape", "convolution"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_mapped_convolutions_and_their_derivatives(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], convolution: Callable[..., Tensor], in_dims: Any
) -> None:
    x, w = (draw(*([3] if axis == 0 else []), *s) for s, axis in zip((x_shape, w_shape), in_dims, strict=True))
    agree(vmap(convolution, in_dims), x, w)
    agree(vmap(grad(squared(convolution), (0, 1)), in_dims), x, w)


@pytest.mark.parametrize("bias_axis", [None, 0])
@pytest.mark.parametrize("in_dims", MAPPED.values(), ids=MAPPED)
def test_a_mapped_convolution_adds_its_bias_once(in_dims: Any, bias_axis: int | None) -> None:
    x, w, b = draw(3, 2, 4, 5), draw(3, 6, 4, 3), draw(3, 6)
    args = [v if axis == 0 else v[0] for v, axis in zip((x, w, b), (*in_dims, bias_axis), strict=True)]
    agree(vmap(grad(squared(F.conv1d), (0, 1, 2)), (*in_dims, bias_axis)), *args)


@pytest.mark.parametrize(("x_shape", "w_shape", "convolution"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_windows_give_the_derivative_by_each_weight(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], convolution: Callable[..., Tensor]
) -> None:
    """The method for a symbolic number of mapped elements, taken with numbers."""
    calls = []

    def watched(*args: Any) -> Any:
        calls.append(1)
        return rule(*args)

    rule, is_int = convolution_gradients.weight_gradient_by_windows, convolution_rules.is_number
    x, w = draw(3, *x_shape), draw(*w_shape)
    fn = vmap(grad(squared(convolution), 1), (0, None))
    expected = fn(x, w)
    with pytest.MonkeyPatch.context() as patch, active_rules.installed():
        patch.setattr(convolution_gradients, "is_number", lambda size: False)
        patch.setattr(convolution_gradients, "weight_gradient_by_windows", watched)
        actual = fn(x, w)
    assert calls
    assert is_int(3)
    torch.testing.assert_close(actual, expected)


def test_windows_convolve_each_input_with_its_weight() -> None:
    for name in ("plain", "stride and padding", "dilation", "groups", "one axis"):
        x_shape, w_shape, convolution = CONVOLUTIONS[name]
        x, w = draw(3, *x_shape), draw(3, *w_shape)
        with pytest.MonkeyPatch.context() as patch, active_rules.installed():
            patch.setattr(convolution_rules, "is_number", lambda size: False)
            actual = vmap(convolution)(x, w)
        torch.testing.assert_close(actual, vmap(convolution)(x, w))


@pytest.mark.parametrize("weights", [None, 0])
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_mapped_norms_and_their_derivatives(norm: Callable[..., Tensor], weights: int | None) -> None:
    x, w, b = draw(3, 2, 4, 4), draw(3, 4, seed=1), draw(3, 4, seed=2)
    if weights is None:
        w, b = w[0], b[0]
    in_dims = (0, weights, weights)
    agree(vmap(norm, in_dims), x, w, b)
    agree(vmap(grad(squared(norm), (0, 1, 2)), in_dims), x, w, b)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_forward_derivatives_of_norms_and_of_their_gradients(norm: Callable[..., Tensor]) -> None:
    args = draw(2, 4, 4), draw(4, seed=1), draw(4, seed=2)
    tangents = draw(2, 4, 4, seed=3), draw(4, seed=4), draw(4, seed=5)
    agree(lambda *args: jvp(norm, args, tangents), *args)
    agree(lambda *args: jvp(grad(squared(norm), (0, 1, 2)), args, tangents), *args)


@pytest.mark.parametrize(
    "fn",
    [
        pytest.param(lambda x: torch.cat([x, x.tanh()], -1), id="cat"),
        pytest.param(lambda x: F.gelu(x), id="gelu"),
        pytest.param(lambda x: F.gelu(x, approximate="tanh") + torch.addcmul(x, x, x, value=3), id="settings"),
        pytest.param(
            lambda x: F.silu(x) + F.elu(x) + F.softplus(x) + F.leaky_relu(x) + F.hardtanh(x), id="activations"
        ),
        pytest.param(lambda x: F.max_pool2d(x, 2) + F.avg_pool2d(x, 2), id="pools"),
        pytest.param(lambda x: F.adaptive_avg_pool2d(x, 1), id="global pool"),
        pytest.param(lambda x: torch.lerp(x, x.exp(), 0.3), id="lerp"),
    ],
)
def test_other_mapped_operators(fn: Callable[..., Tensor]) -> None:
    agree(vmap(fn), draw(3, 2, 4, 4))
    agree(vmap(grad(squared(fn))), draw(3, 2, 4, 4))


def test_an_operator_mapped_by_the_outer_of_two_maps_alone() -> None:
    weights = draw(2, 6, 8, 3, seed=1)

    def outer(x: Tensor) -> Tensor:
        inside = vmap(lambda v: F.conv1d(F.group_norm(torch.cat([x, x], 1), 2), v) * F.gelu(x).sum())
        return inside(weights)

    agree(vmap(outer), draw(3, 2, 4, 5))
    agree(vmap(grad(squared(outer))), draw(3, 2, 4, 5))


def small_net(params: dict[str, Tensor], x: Tensor) -> Tensor:
    """Every operator with a kernel of this package, in a network of a few channels."""
    y = F.conv2d(x, params["conv"], params["shift"], 2, 1)
    y = F.relu(F.group_norm(y, 2, params["weight"], params["bias"]))
    y = F.max_pool2d(batch_norm(torch.cat([y, y], 1), params["wide"], params["wide"]), 2)
    y = F.linear(y.flatten(2), params["linear"], params["bias"])
    return F.gelu(F.layer_norm(y, (4,), params["weight"], params["bias"]))


PARAMS = {
    name: draw(*shape, seed=i).float()
    for i, (name, shape) in enumerate(
        {"conv": (4, 3, 3, 3), "shift": (4,), "weight": (4,), "bias": (4,), "wide": (8,), "linear": (4, 4)}.items()
    )
}
X = draw(3, 3, 8, 8, seed=9).float()
PUSHED = {name: value.cos() for name, value in PARAMS.items()}

TRANSFORMS: dict[str, Callable[..., Any]] = {
    "gradient": grad(squared(small_net)),
    "forward derivative": lambda p, x: jvp(lambda x: small_net(p, x), (x,), (x.cos(),)),
    "per-sample gradient": vmap(grad(lambda p, x: squared(small_net)(p, x[None])), (None, 0)),
    "Hessian-vector product": lambda p, x: jvp(lambda p: grad(squared(small_net))(p, x), (p,), (PUSHED,))[1],
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_transform_with_a_dynamic_batch_is_right_at_every_size(transform: Callable[..., Any]) -> None:
    verdict = export.verify(transform, (PARAMS, X), dynamic=(None, BATCH))
    assert verdict.passed, verdict.table()


def test_a_forward_derivative_of_captured_statistics_has_no_operation_in_place() -> None:
    weight, bias, x = draw(3).float(), draw(3).float(), draw(2, 3, 4).float()
    verdict = export.verify(lambda x: jvp(lambda x: batch_norm(x, weight, bias), (x,), (x.cos(),)), (x,))
    assert verdict.passed, verdict.table()


@pytest.mark.parametrize(("pushed", "norms"), [("x", 1), ("w", 2), ("b", 2), ("xwb", 2)])
def test_a_forward_derivative_of_batch_norm_in_evaluation_is_the_operator_by_its_tangents(
    pushed: str, norms: int, tmp_path: Any
) -> None:
    args = {"x": draw(2, 4, 4), "w": draw(4, seed=1), "b": draw(4, seed=2)}
    given = [args, {name: draw(*args[name].shape, seed=3) for name in pushed}]

    def fn(args: dict[str, Tensor], tangents: dict[str, Tensor]) -> Any:
        primals = {name: args[name] for name in tangents}
        return jvp(lambda chosen: batch_norm(**(args | chosen)), (primals,), (tangents,))

    agree(fn, *given)
    batch = [{name: BATCH if name == "x" else None for name in tree} for tree in given]
    single = pure.tree.tree_map(Tensor.float, given)
    export.to_onnx(fn, single, tmp_path / "f.onnx", dynamic=batch)
    verdict = export.verify(fn, single, tmp_path / "f.onnx", dynamic=batch)
    assert verdict.passed, verdict.table()
    operators = [node.op_type for node in onnx.load(tmp_path / "f.onnx").graph.node]
    assert operators.count("BatchNormalization") == norms


def test_a_mapped_forward_pass_keeps_its_norm_whole(tmp_path: Any) -> None:
    fn = vmap(lambda x: F.layer_norm(x, (4,)))
    export.to_onnx(fn, (draw(3, 2, 4).float(),), tmp_path / "f.onnx", dynamic=(BATCH,))
    operators = [node.op_type for node in onnx.load(tmp_path / "f.onnx").graph.node]
    assert operators == ["LayerNormalization"]


def test_the_kernels_are_gone_after_a_trace_even_a_failed_one(tmp_path: Any) -> None:
    before = {place: place[0].py_kernels.get(place[1]) for place in active_rules.KERNELS}
    x = draw(3, 4).float()
    export.to_onnx(vmap(torch.tanh), (x,), tmp_path / "f.onnx", dynamic=(BATCH,))
    with pytest.raises(SpecialisedSizeError):
        export.to_onnx(lambda x: x + torch.ones(3, 1), (x,), tmp_path / "g.onnx", dynamic=(BATCH,))
    assert {place: place[0].py_kernels.get(place[1]) for place in active_rules.KERNELS} == before
