"""`flow.hvp` gives PyTorch's own Hessian for every kind of layer and for unusual losses, for 8/3 of a gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import pure
from pure import flow, nets, tree
from pure.errors import UnsupportedError

FLOAT64 = torch.float64
Params = dict[str, Tensor]
Case = tuple[Callable[[Params], Tensor], dict[str, tuple[int, ...]]]


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)


X = numbers(3, 4)
MEAN, VAR = numbers(4, seed=5), numbers(4, seed=6).square() + 0.1
LAST = torch.channels_last


def normed(p: Params) -> Tensor:
    return F.batch_norm(p["x"], MEAN, VAR, p["w"], p["b"])


CASES: dict[str, Case] = {
    "linear": (lambda p: F.linear(p["x"], p["w"], p["b"]), {"x": (3, 4), "w": (2, 4), "b": (2,)}),
    "linear, keyword": (lambda p: F.linear(p["x"], weight=p["w"]), {"x": (3, 4), "w": (2, 4)}),
    "linear, three axes": (lambda p: F.linear(p["x"], p["w"], p["b"]), {"x": (2, 3, 4), "w": (2, 4), "b": (2,)}),
    "linear, one axis": (lambda p: F.linear(p["x"], p["w"], p["b"]), {"x": (4,), "w": (2, 4), "b": (2,)}),
    "linear, one output": (lambda p: F.linear(p["x"], p["w"]), {"x": (3, 4), "w": (4,)}),
    "linear, constant input": (lambda p: F.linear(numbers(3, 4), p["w"], p["b"]), {"w": (2, 4), "b": (2,)}),
    "linear, constant weight": (lambda p: F.linear(p["x"], numbers(2, 4), p["b"]), {"x": (3, 4), "b": (2,)}),
    "linear, constant bias": (lambda p: F.linear(p["x"], p["w"], numbers(2)), {"x": (3, 4), "w": (2, 4)}),
    "linear, bias alone": (lambda p: F.linear(numbers(3, 4), numbers(2, 4), p["b"]), {"b": (2,)}),
    "linear, computed weight": (lambda p: F.linear(p["x"], p["w"].exp()), {"x": (3, 4), "w": (2, 4)}),
    "linear, slices": (lambda p: F.linear(F.linear(p["x"], p["w"][0]), p["w"][1].T), {"x": (3, 4), "w": (2, 4, 4)}),
    "linear, one weight twice": (lambda p: F.linear(F.linear(p["w"], p["w"]), p["w"].sin()), {"w": (4, 4)}),
    "linear, no rows": (lambda p: F.linear(p["x"][:0], p["w"]).sum() + p["w"].square(), {"x": (3, 4), "w": (2, 4)}),
    "linear, transposed weight": (lambda p: F.linear(p["x"], p["w"].T, p["b"]), {"x": (3, 4), "w": (4, 2), "b": (2,)}),
    "linear, stacked weights": (
        lambda p: [x := p["x"], *(x := F.linear(x, w).sin() for w in p["w"].unbind())][-1],
        {"x": (3, 4), "w": (3, 4, 4)},
    ),
    "linear, changed in place": (lambda p: F.linear(p["x"], p["w"]).mul_(2).sin_(), {"x": (3, 4), "w": (2, 4)}),
    "linear, weight read elsewhere too": (
        lambda p: F.linear(p["x"], p["w"], p["b"]) * p["w"].sum() + p["b"].exp(),
        {"x": (3, 4), "w": (2, 4), "b": (2,)},
    ),
    "matmul": (lambda p: (p["x"] @ p["w"]).sin() @ p["w"].T + p["w"][0] @ p["w"], {"x": (3, 4), "w": (4, 4)}),
    "einsum": (lambda p: torch.einsum("td,dhk->htk", p["x"], p["w"]), {"x": (3, 4), "w": (4, 2, 3)}),
    "embedding, tied": (
        lambda p: F.linear(F.embedding(torch.tensor([1, 3, 1]), p["w"]).sin(), p["w"]),
        {"w": (4, 3)},
    ),
    "conv1d, transposed": (
        lambda p: F.conv_transpose1d(p["x"], p["w"], p["b"], stride=2, output_padding=1),
        {"x": (2, 4, 3), "w": (4, 2, 3), "b": (2,)},
    ),
    "conv1d": (
        lambda p: F.conv1d(p["x"], p["w"], p["b"], stride=2, padding=1),
        {"x": (2, 4, 7), "w": (2, 4, 3), "b": (2,)},
    ),
    "conv2d": (lambda p: F.conv2d(p["x"], p["w"], p["b"]), {"x": (2, 4, 5, 4), "w": (2, 4, 3, 2), "b": (2,)}),
    "conv2d, groups, dilation": (
        lambda p: F.conv2d(p["x"], p["w"], None, 1, (2, 1), (2, 1), 2),
        {"x": (2, 4, 5, 4), "w": (2, 2, 3, 2)},
    ),
    "conv2d, same": (lambda p: F.conv2d(p["x"], p["w"], padding="same"), {"x": (2, 4, 4, 4), "w": (2, 4, 3, 3)}),
    "conv2d, uneven": (lambda p: F.conv2d(p["x"], p["w"], padding="same"), {"x": (2, 4, 4, 4), "w": (2, 4, 2, 2)}),
    "conv2d, valid": (lambda p: F.conv2d(p["x"], p["w"], padding="valid"), {"x": (2, 4, 4, 4), "w": (2, 4, 3, 3)}),
    "conv2d, channels last": (
        lambda p: F.conv2d(p["x"].contiguous(memory_format=LAST), p["w"], p["b"]),
        {"x": (2, 4, 5, 4), "w": (2, 4, 3, 2), "b": (2,)},
    ),
    "conv2d, batch of one": (lambda p: F.conv2d(p["x"], p["w"]), {"x": (1, 4, 3, 3), "w": (2, 4, 3, 3)}),
    "conv2d, one sample": (lambda p: F.conv2d(p["x"], p["w"], p["b"]), {"x": (4, 4, 3), "w": (2, 4, 3, 3), "b": (2,)}),
    "conv2d, constant input": (
        lambda p: F.conv2d(numbers(2, 4, 4, 4), p["w"], p["b"]),
        {"w": (2, 4, 3, 3), "b": (2,)},
    ),
    "conv2d, constant weight": (
        lambda p: F.conv2d(p["x"], numbers(2, 4, 3, 3), p["b"]),
        {"x": (2, 4, 4, 4), "b": (2,)},
    ),
    "conv3d": (lambda p: F.conv3d(p["x"], p["w"]), {"x": (1, 2, 3, 3, 3), "w": (2, 2, 2, 2, 2)}),
    "batch norm": (normed, {"x": (2, 4, 3, 3), "w": (4,), "b": (4,)}),
    "batch norm, no space": (normed, {"x": (3, 4), "w": (4,), "b": (4,)}),
    "batch norm, batch of one": (normed, {"x": (1, 4, 1), "w": (4,), "b": (4,)}),
    "batch norm, channels last": (
        lambda p: normed({**p, "x": p["x"].contiguous(memory_format=LAST)}),
        {"x": (2, 4, 3, 3), "w": (4,), "b": (4,)},
    ),
    "batch norm, not affine": (lambda p: F.batch_norm(p["x"], MEAN, VAR, eps=1e-2), {"x": (2, 4, 3)}),
    "batch norm, weight alone": (lambda p: F.batch_norm(p["x"], MEAN, VAR, p["w"]), {"x": (2, 4, 3), "w": (4,)}),
    "batch norm, constant weight": (
        lambda p: F.batch_norm(p["x"], MEAN, VAR, VAR, p["b"]),
        {"x": (2, 4, 3), "b": (4,)},
    ),
    "batch norm in training": (
        lambda p: F.batch_norm(p["x"], None, None, p["w"], p["b"], True),
        {"x": (3, 4, 2), "w": (4,), "b": (4,)},
    ),
    "layer norm": (lambda p: F.layer_norm(p["x"], (5,), p["w"], p["b"]), {"x": (3, 5), "w": (5,), "b": (5,)}),
    "layer norm, two axes": (
        lambda p: F.layer_norm(p["x"], [2, 3], p["w"], p["b"], 0.1),
        {"x": (2, 3, 2, 3), "w": (2, 3), "b": (2, 3)},
    ),
    "layer norm, not affine": (lambda p: F.layer_norm(p["x"], (5,)), {"x": (3, 5)}),
    "layer norm, weight alone": (lambda p: F.layer_norm(p["x"], (5,), p["w"]), {"x": (3, 5), "w": (5,)}),
    "layer norm, constant input": (
        lambda p: F.layer_norm(numbers(3, 5), (5,), p["w"], p["b"]),
        {"w": (5,), "b": (5,)},
    ),
    "layer norm, constant weight": (
        lambda p: F.layer_norm(p["x"], (5,), numbers(5), p["b"]),
        {"x": (3, 5), "b": (5,)},
    ),
    "layer norm, one row": (lambda p: F.layer_norm(p["x"], (5,), p["w"]), {"x": (5,), "w": (5,)}),
    "gelu": (lambda p: F.gelu(3 * p["x"]), {"x": (3, 5)}),
    "gelu, tanh": (lambda p: F.gelu(3 * p["x"], approximate="tanh"), {"x": (3, 5)}),
    "relu": (lambda p: F.relu(p["x"]) * torch.relu(p["x"] + 0.1) * (p["x"] + 0.2).relu(), {"x": (3, 5)}),
    "relu in place": (lambda p: F.relu(F.linear(p["x"], p["w"]), inplace=True), {"x": (3, 4), "w": (2, 4)}),
}


def parameters(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = FLOAT64) -> Params:
    return {name: numbers(*shape, seed=at + 10).to(dtype) for at, (name, shape) in enumerate(shapes.items())}


def bent(y: Tensor) -> Tensor:
    """A loss that is not linear, so that every second derivative counts."""
    return (torch.sin(y) * torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).reshape(y.shape)).sum()


def plain_hessian(loss: Callable[[Params], Tensor], params: Params) -> tuple[Tensor, list[Tensor], Tensor]:
    """Value, gradient and Hessian by autograd alone, one row at a time."""
    leaves = [leaf.clone().requires_grad_() for leaf in params.values()]
    value = loss(dict(zip(params, leaves, strict=True)))
    slope = torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True)
    flat = torch.cat([part.reshape(-1) for part in slope])
    rows = []
    for entry in flat:
        row = torch.autograd.grad(entry, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([part.reshape(-1) for part in row]))
    return value, list(slope), torch.stack(rows)


UNEVEN = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * max(1.0, float(expected.detach().abs().max())))


@UNEVEN
@pytest.mark.parametrize("name", CASES)
def test_hessian_is_that_of_the_plain_function(name: str) -> None:
    fn, shapes = CASES[name]
    params = parameters(shapes)
    value, _, expected = plain_hessian(lambda p: bent(fn(p)), params)
    found = flow.hvp(lambda p: bent(fn(p)), params)
    assert found.loss == pytest.approx(value.item(), rel=1e-12)
    close(found.dense(), expected)


MAPPED = [name for name in CASES if "in place" not in name]


@UNEVEN
@pytest.mark.parametrize("name", MAPPED)
def test_products_can_be_mapped(name: str) -> None:
    fn, shapes = CASES[name]
    params = parameters(shapes)
    found = flow.hvp(lambda p: bent(fn(p)), params)
    close(found.dense(chunk_size=4), found.dense())


@UNEVEN
@pytest.mark.parametrize("name", CASES)
def test_float32_gives_the_same_up_to_its_rounding(name: str) -> None:
    fn, shapes = CASES[name]

    def single(p: Params) -> Tensor:
        if "constant" in name or name.startswith(("batch norm", "linear, bias alone")):
            return bent(fn({key: leaf.double() for key, leaf in p.items()}))  # constants are float64
        return bent(fn(p))

    expected = flow.hvp(single, parameters(shapes)).dense()
    found = flow.hvp(single, parameters(shapes, torch.float32)).dense()
    assert found.dtype == torch.float32
    close(found.double(), expected, 1e-5)


def test_layer_norm_with_a_bias_alone_is_a_sum() -> None:
    """PyTorch's own second derivative of it fails."""
    params = parameters({"x": (3, 5), "b": (5,)})
    _, _, expected = plain_hessian(lambda p: bent(F.layer_norm(p["x"], (5,)) + p["b"]), params)
    close(flow.hvp(lambda p: bent(F.layer_norm(p["x"], (5,), None, p["b"])), params).dense(), expected)


def norm_of_gradient(p: Params) -> Tensor:
    own = {name: leaf if leaf.requires_grad else leaf.requires_grad_() for name, leaf in p.items()}
    inner = bent(F.gelu(F.linear(numbers(3, 4), own["w"], own["b"])))
    return sum(
        (part.square().sum() for part in torch.autograd.grad(inner, list(own.values()), create_graph=True)), inner
    )


def functional_gradient(p: Params) -> Tensor:
    slope = torch.func.grad(lambda w: bent(F.gelu(F.linear(numbers(3, 4), w, p["b"]))))(p["w"])
    return slope.square().sum() + bent(F.linear(slope, p["w"]))


def mapped(p: Params) -> Tensor:
    return bent(torch.func.vmap(lambda x: F.gelu(F.linear(x, p["w"], p["b"])))(numbers(3, 4)))


def recomputed(p: Params) -> Tensor:
    def layers(x: Tensor) -> Tensor:
        return F.layer_norm(F.relu(F.linear(x, p["w"], p["b"])), (2,))

    return bent(F.linear(checkpoint(layers, numbers(3, 4), use_reentrant=False), p["w"].T))


def hooked(p: Params) -> Tensor:
    w = p["w"].view(2, 4)
    if w.requires_grad:
        w.register_hook(torch.sin)
    return bent(F.linear(numbers(3, 4), w, p["b"]))


def hooked_afterwards(p: Params) -> Tensor:
    y = F.linear(numbers(3, 4), p["w"], p["b"])
    if p["w"].requires_grad:
        p["w"].register_hook(torch.sin)
    return bent(y)


def hooked_leaf_of_a_view(p: Params) -> Tensor:
    if p["w"].requires_grad:
        p["w"].register_hook(torch.sin)
    return bent(F.linear(numbers(3, 4), p["w"].view(2, 4), p["b"]))


def hooked_view_between(p: Params) -> Tensor:
    turned = p["w"].t()
    if turned.requires_grad:
        turned.register_hook(torch.sin)
    return bent(F.linear(numbers(3, 4), turned.t(), p["b"]))


def hooked_node(p: Params) -> Tensor:
    w = p["w"].view(2, 4)
    if w.grad_fn is not None:
        w.grad_fn.register_prehook(lambda gradients: tuple(map(torch.sin, gradients)))
    return bent(F.linear(numbers(3, 4), w, p["b"]))


class Clipped(torch.autograd.Function):
    """A view that changes the gradient that passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.sin()


def clipped(p: Params) -> Tensor:
    return bent(F.linear(numbers(3, 4), Clipped.apply(p["w"]), p["b"]))


def caught(p: Params) -> Tensor:
    y = bent(F.linear(numbers(3, 4), p["w"], p["b"]))
    if not p["w"].requires_grad:
        p = {name: leaf.requires_grad_() for name, leaf in p.items()}
        y = bent(F.linear(numbers(3, 4), p["w"], p["b"]))
    try:
        (slope,) = torch.autograd.grad(y, p["w"], create_graph=True)
    except RuntimeError:
        return y
    return slope.square().sum() + y


def hooked_and_nested(p: Params) -> Tensor:
    own = {name: leaf if leaf.requires_grad else leaf.requires_grad_() for name, leaf in p.items()}
    own["w"].register_hook(torch.sin)
    y = bent(F.linear(numbers(3, 4), own["w"], own["b"]))
    (slope,) = torch.autograd.grad(y, own["b"], create_graph=True)
    return slope.square().sum() + y


def frozen_and_in_place(p: Params) -> Tensor:
    h = F.linear(numbers(3, 4), p["w"], p["b"]) * 1
    q = F.linear(h, numbers(3, 2))  # saves no input, since its weight is a constant
    h += 1
    return bent(q.sum(1, keepdim=True) * h)


def forward_mode(p: Params) -> Tensor:
    with forward_ad.dual_level():
        x = forward_ad.make_dual(numbers(3, 4), numbers(3, 4, seed=2))
        y = F.gelu(F.linear(x, p["w"], p["b"]), approximate="tanh")
        return bent(forward_ad.unpack_dual(y).tangent)


def gelu_of_a_gradient(p: Params) -> Tensor:
    slope = torch.func.grad(lambda w: F.gelu(numbers(3, 4) @ w.T, approximate="tanh").sum())(p["w"])
    return bent(F.gelu(slope, approximate="tanh"))


UNUSUAL = [
    *(norm_of_gradient, functional_gradient, mapped, recomputed, clipped, caught, frozen_and_in_place),
    *(forward_mode, gelu_of_a_gradient),
    *(hooked, hooked_afterwards, hooked_leaf_of_a_view, hooked_view_between, hooked_node, hooked_and_nested),
]


@pytest.mark.parametrize("loss", UNUSUAL, ids=lambda loss: loss.__name__)
def test_a_loss_that_does_unusual_things_has_the_same_hessian(loss: Callable[[Params], Tensor]) -> None:
    params = parameters({"w": (2, 4), "b": (2,)})
    _, _, expected = plain_hessian(loss, params)
    close(flow.hvp(loss, params).dense(), (expected + expected.T) / 2)


def test_lower_precision_stays_where_autocast_puts_it() -> None:
    def loss(p: Params) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = F.linear(F.gelu(F.linear(numbers(3, 4).float(), p["w"], p["b"])), p["w"].T)
        return bent(y.float())

    params = parameters({"w": (2, 4), "b": (2,)}, torch.float32)
    _, _, expected = plain_hessian(loss, params)
    torch.testing.assert_close(flow.hvp(loss, params).dense(), (expected + expected.T) / 2, rtol=0, atol=1e-5)


def test_changing_what_a_layer_has_read_is_still_an_error() -> None:
    def loss(p: Params) -> Tensor:
        x = p["x"] * 1
        y = F.linear(x, p["w"])
        x.mul_(2)
        return bent(y)

    with pytest.raises(UnsupportedError, match="in place"):
        flow.hvp(loss, parameters({"x": (3, 4), "w": (2, 4)}))


def test_a_compiled_loss_is_left_as_it_is() -> None:
    params = parameters({"w": (2, 4), "b": (2,)})

    def loss(p: Params) -> Tensor:
        return bent(F.gelu(F.linear(X, p["w"], p["b"])))

    _, _, expected = plain_hessian(loss, params)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    close(flow.hvp(compiled, params).dense(), (expected + expected.T) / 2)


REFUSED: dict[str, tuple[Callable[[Params], Tensor], type[Exception]]] = {
    "a gain over other axes": (lambda p: F.layer_norm(p["x"], (4,), p["w"]).sum(), RuntimeError),
    "same padding with a stride": (
        lambda p: F.conv1d(p["x"][None], p["w"][None], stride=2, padding="same").sum(),
        RuntimeError,
    ),
    "a convolution of other axes": (lambda p: F.conv1d(p["x"][None, None], p["w"][None, None]).sum(), RuntimeError),
    "no tensor": (lambda p: F.relu(3.0) + p["x"].sum(), TypeError),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("loss", "kind"), REFUSED.values(), ids=REFUSED)
def test_what_pytorch_refuses_is_refused(loss: Callable[[Params], Tensor], kind: type[Exception]) -> None:
    params = parameters({"x": (3, 4), "w": (3, 4)})
    with pytest.raises(kind):
        loss(params)
    with pytest.raises(kind):
        flow.hvp(loss, params)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_keep_pytorchs_own_kernels(dtype: torch.dtype) -> None:
    params = parameters({"x": (3, 4), "w": (2, 4)}, dtype)

    def loss(p: Params) -> Tensor:
        return F.gelu(F.linear(p["x"], p["w"]), approximate="tanh").square().sum()

    inputs = [leaf.clone().requires_grad_() for leaf in params.values()]
    gradient = torch.autograd.grad(loss(dict(zip(params, inputs, strict=True))), inputs, create_graph=True)
    expected = torch.autograd.grad(gradient, inputs, [torch.ones_like(part) for part in gradient])
    found = flow.hvp(loss, params)({name: torch.ones_like(leaf) for name, leaf in params.items()})
    assert all(torch.equal(a, b) for a, b in zip(found.values(), expected, strict=True))


def flops(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_a_first_product_multiplies_matrices_eight_thirds_of_a_gradient(kind: str, depth: int) -> None:
    def layer() -> pure.Block:
        return pure.Linear(6, 6) if kind == "linear" else pure.Conv2d(6, 6, 3, padding=1)

    block = pure.Sequential(**{f"layer{at}": layer() for at in range(depth)})
    params, _ = block.init(torch.Generator().manual_seed(0))
    x = torch.randn(4, 6) if kind == "linear" else torch.randn(2, 6, 4, 4)

    def loss(p: Any) -> Tensor:
        return block(p, x).square().sum()

    def gradient() -> Any:
        leaves, spec = tree.tree_flatten(params)
        leaves = [leaf.clone().requires_grad_() for leaf in leaves]
        return torch.autograd.grad(loss(tree.tree_unflatten(leaves, spec)), leaves)

    one = flops(lambda: block(params, x)) // depth
    assert flops(gradient) == (3 * depth - 1) * one
    assert flops(lambda: flow.hvp(loss, params)(params)) == (8 * depth - 5) * one
    matrix = flow.hvp(loss, params)
    assert flops(lambda: matrix(params)) == (6 * depth - 4) * one


def test_a_network_gives_what_autograd_gives() -> None:
    block = nets.resnet18(num_classes=3)
    params, state = block.init(torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def loss(p: Any) -> Tensor:
        return F.cross_entropy(block(p, x, state), torch.tensor([0, 2]))

    leaves, spec = tree.tree_flatten(params)
    own = [leaf.clone().requires_grad_() for leaf in leaves]
    slope = torch.autograd.grad(loss(tree.tree_unflatten(own, spec)), own, create_graph=True)
    v = [torch.randn(leaf.shape, generator=torch.Generator().manual_seed(at)) for at, leaf in enumerate(leaves)]
    expected = torch.autograd.grad(slope, own, v)
    found = tree.leaves(flow.hvp(loss, params)(tree.tree_unflatten(v, spec)))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * float(other.abs().max()))
