"""A derivative splits exactly by path length: the parts are those of brute force over all subsets of branches."""

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jacrev, jvp, vmap

import pure
from pure import flow, nets
from pure.skips import DenseSkip, Expand, Highway, Residual, hyper_connected
from pure.skips.gated.gru_gate import GatedSkip, GRUCellSkip
from pure.skips.streams.stream_axis import Collapse
from pure.tags import Tagged, substitute

DOUBLE = torch.float64
Parts = list[tuple[Tensor, Tensor]]


def drawn(block: pure.Block, *shape: int, seed: int = 0) -> tuple[Any, Any, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    params, state = block.init(generator, DOUBLE)
    x, v = (torch.randn(shape, generator=generator, dtype=DOUBLE) for _ in range(2))
    return params, state, x, v


def tanh_mlp(features: int) -> pure.Block:
    return pure.Sequential(pure.Linear(features, features), pure.Activation("tanh"), pure.Linear(features, features))


def brute_force(parts: Parts, v: Tensor) -> Tensor:
    """The sum over all subsets S of the product of B_l for l in S and S_l else, by the size of S."""
    total = torch.zeros(len(parts) + 1, parts[-1][0].shape[0], dtype=DOUBLE)
    for size in range(len(parts) + 1):
        for chosen in combinations(range(len(parts)), size):
            moved = v
            for layer, (skip, branch) in enumerate(parts):
                moved = (branch if layer in chosen else skip) @ moved
            total[size] += moved
    return total


def residual_parts(depth: int) -> tuple[pure.Block, Any, Tensor, Tensor, Parts]:
    net = nets.residual_mlp(4, 6, depth=depth, scale=0.7)
    params, _, x, v = drawn(net, 1, 4)
    parts, h = [], x
    for name, layer in net.children().items():
        own = params[name]["branch"]
        branch = jacrev(lambda h, layer=layer, own=own: 0.7 * layer.children()["branch"](own, h[None])[0])(h[0])
        parts.append((torch.eye(4, dtype=DOUBLE), branch))
        h = layer(params[name], h)
    return net, params, x, v, parts


def highway_parts(depth: int) -> tuple[pure.Block, Any, Tensor, Tensor, Parts]:
    net = pure.Sequential(*[Highway.dense(4, gate_bias=-0.5, activation="tanh")] * depth)
    params, _, x, v = drawn(net, 1, 4)
    parts, h = [], x[0]
    for name in net.children():
        transform, gate = params[name]["transform"]["linear"], params[name]["gate"]
        candidate = torch.tanh(transform["weight"] @ h + transform["bias"])
        t = torch.sigmoid(gate["weight"] @ h + gate["bias"])
        inner = (t * (1 - candidate**2)).diag() @ transform["weight"]
        through_gate = ((candidate - h) * t * (1 - t)).diag() @ gate["weight"]
        parts.append(((1 - t).diag(), inner + through_gate))
        h = t * candidate + (1 - t) * h
    return net, params, x, v, parts


def dense_parts(depth: int) -> tuple[pure.Block, Any, Tensor, Tensor, Parts]:
    layers = [pure.Sequential(pure.Linear(3 + 2 * i, 2), pure.Activation("tanh")) for i in range(depth)]
    net = pure.Sequential(*map(DenseSkip, layers))
    params, _, x, v = drawn(net, 1, 3)
    parts, h = [], x
    for name, layer in net.children().items():
        own, width = params[name]["branch"], h.shape[1]
        inner = jacrev(lambda h, own=own, layer=layer: layer.children()["branch"](own, h[None])[0])(h[0])
        parts.append(
            (
                torch.cat([torch.eye(width, dtype=DOUBLE), torch.zeros(2, width, dtype=DOUBLE)]),
                torch.cat([torch.zeros(width, width, dtype=DOUBLE), inner]),
            )
        )
        h = layer(params[name], h)
    return net, params, x, v, parts


@pytest.mark.parametrize(
    ("make", "depth"),
    [(residual_parts, 1), (residual_parts, 12), (highway_parts, 1), (highway_parts, 10), (dense_parts, 8)],
)
def test_the_parts_are_the_sums_over_all_subsets_of_branches(
    make: Callable[[int], tuple[pure.Block, Any, Tensor, Tensor, Parts]], depth: int
) -> None:
    net, params, x, v, parts = make(depth)
    found = flow.path_spectrum(net, params, x, v)
    expected = brute_force(parts, v[0])
    assert found.paths == tuple(math.comb(depth, k) for k in range(depth + 1))
    torch.testing.assert_close(found.components[:, 0], expected, rtol=1e-11, atol=1e-13)
    whole = jvp(lambda x: net(params, x), (x,), (v,))[1]
    assert float((found.components.sum(0) - whole).norm()) <= 1e-12 * float(whole.norm())
    assert float(found.remainder.norm()) <= 1e-12 * float(whole.norm())


def masked(block: pure.Block, params: Any, state: Any, x: Tensor, v: Tensor, labels: tuple[str, ...]) -> Tensor:
    """The parts by a mask in front of every branch's derivative and the Möbius transform over the subsets."""
    place = {label: index for index, label in enumerate(labels)}

    def through(mask: Tensor) -> Tensor:
        def change(tagged: Tagged) -> Tensor:
            value: Tensor = tagged.value
            if tagged.path not in place:
                return value
            return value.detach() + mask[place[tagged.path]] * (value - value.detach())

        moved: Tensor = jvp(substitute(lambda x: block(params, x, state), change, "branch"), (x,), (v,))[1]
        return moved

    count = len(labels)
    masks = torch.tensor([[subset >> bit & 1 for bit in range(count)] for subset in range(2**count)], dtype=DOUBLE)
    exact = vmap(through)(masks)
    for bit in range(count):
        on = masks[:, bit] == 1
        exact[on] = exact[on] - exact[~on]
    sizes = masks.sum(1)
    return torch.stack([exact[sizes == size].sum(0) for size in range(count + 1)])


def streams() -> pure.Block:
    """Return four tanh layers in two streams; a function, because building the block imports PyTorch's compiler."""
    layers = [pure.skips.HyperConnection(tanh_mlp(4), 2, layer, 4) for layer in range(4)]
    return pure.Sequential(Expand(2), *layers, Collapse())


NETWORKS: dict[str, tuple[pure.Block | Callable[[], pure.Block], tuple[int, ...]]] = {
    "pre-norm": (pure.Sequential(*[pure.skips.pre_norm(tanh_mlp(4), pure.LayerNorm(4))] * 4), (2, 4)),
    "post-norm": (pure.Sequential(*[pure.skips.post_norm(tanh_mlp(4), pure.LayerNorm(4))] * 4), (2, 4)),
    "activation behind": (pure.Sequential(*[Residual(tanh_mlp(4), activation="tanh")] * 4), (2, 4)),
    "scaled": (pure.Sequential(*[pure.skips.Weighted(tanh_mlp(4), 0.6, 0.8, 1.5)] * 4), (2, 4)),
    "repeat": (pure.Repeat(Residual(tanh_mlp(4)), 4), (2, 4)),
    "streams": (streams, (2, 4)),
    "streams, static": (lambda: hyper_connected(*[tanh_mlp(4)] * 4, streams=3), (2, 4)),
    "earlier outputs": (lambda: pure.skips.EarlierOutputs((tanh_mlp(4),) * 4), (2, 4)),
    "reversible": (pure.Sequential(*[pure.skips.Reversible(tanh_mlp(2), tanh_mlp(2))] * 2), (2, 4)),
    "momentum": (pure.skips.Momentum((tanh_mlp(4),) * 4, 0.7), (2, 4)),
    "resnet": (nets.cifar_resnet(14, num_classes=3), (1, 3, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_skip_splits_as_masks_on_its_branches_do(name: str) -> None:
    made, shape = NETWORKS[name]
    block = made if isinstance(made, pure.Block) else made()
    params, state, x, v = drawn(block, *shape)
    found = flow.path_spectrum(block, params, x, v, state)
    expected = masked(block, params, state, x, v, found.labels)[: len(found)]
    scale = float(expected.norm())
    assert float((found.components - expected).norm()) <= 1e-12 * scale
    assert all(float(component.norm()) > 1e-9 * scale for component in found.components)


@pytest.mark.parametrize("kind", ["gru", "input", "output", "highway", "sigtanh", "cell"])
def test_every_gate_counts_once_however_it_is_reached(kind: Any) -> None:
    """With the identity at the gates' derivative and branch off, what is left of one layer is the bare carry."""
    one = GRUCellSkip(tanh_mlp(4), 4) if kind == "cell" else GatedSkip(tanh_mlp(4), 4, kind, 0.3)
    block = pure.Sequential(*[one] * 3)
    params, _, x, v = drawn(block, 2, 4)
    found = flow.path_spectrum(block, params, x, v)
    carried = substitute(lambda x: block(params, x), lambda tagged: tagged.value.detach(), ("gate", "branch"))
    torch.testing.assert_close(found.components[0], jvp(carried, (x,), (v,))[1], rtol=1e-12, atol=1e-14)
    assert found.paths == (1, 3, 3, 1)
    torch.testing.assert_close(found.components.sum(0), jvp(lambda x: block(params, x), (x,), (v,))[1])


def test_highway_is_carry_plus_transform_plus_gate() -> None:
    block = Highway.dense(5, activation="tanh")
    params, _, x, v = drawn(block, 3, 5)
    found = flow.path_spectrum(block, params, x, v)
    assert found.through_gates is not None
    h, dh = jvp(lambda x: block.transform(params["transform"], x), (x,), (v,))
    t, dt = jvp(lambda x: torch.sigmoid(block.gate(params["gate"], x)), (x,), (v,))
    parts = (found.components[0], found.components[1] - found.through_gates[1], found.through_gates[1])
    for part, expected in zip(parts, ((1 - t) * v, t * dh, (h - x) * dt), strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-14)
    assert not found.through_gates[0].any()


def test_paths_without_a_gates_derivative_are_those_of_constant_gates() -> None:
    block = pure.Sequential(*[Highway.dense(4, activation="tanh")] * 4)
    params, _, x, v = drawn(block, 2, 4)
    found = flow.path_spectrum(block, params, x, v)
    assert found.through_gates is not None
    constant = substitute(lambda x: block(params, x), lambda tagged: tagged.value.detach(), "gate")
    whole = jvp(constant, (x,), (v,))[1]
    torch.testing.assert_close((found.components - found.through_gates).sum(0), whole, rtol=1e-12, atol=1e-14)


def test_reverse_mode_agrees_with_forward_mode_order_by_order() -> None:
    block = pure.Sequential(*[Residual(tanh_mlp(4), activation="tanh"), Highway.dense(4)] * 3)
    params, _, x, v = drawn(block, 2, 4)
    u = torch.randn(2, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(5))
    forward = flow.path_spectrum(block, params, x, v)
    reverse = flow.path_spectrum_of_loss(lambda params, x, u: (block(params, x) * u).sum(), params, x, u)
    assert forward.paths == reverse.paths
    torch.testing.assert_close((forward.components * u).sum((1, 2)), (reverse.components * v).sum((1, 2)))
    gradient = pure.grad(lambda x: (block(params, x) * u).sum())(x)
    torch.testing.assert_close(reverse.components.sum(0), gradient, rtol=1e-12, atol=1e-14)


def test_what_is_cut_off_is_the_remainder() -> None:
    net, params, x, v, _ = residual_parts(8)
    every, some = flow.path_spectrum(net, params, x, v), flow.path_spectrum(net, params, x, v, orders=2)
    assert len(some) == 3
    assert some.paths == (1, 8, 28)
    torch.testing.assert_close(some.components, every.components[:3], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(some.remainder, every.components[3:].sum(0), rtol=1e-11, atol=1e-13)
    none = flow.path_spectrum(net, params, x, v, orders=0)
    torch.testing.assert_close(none.components[0], v)
    loss = flow.path_spectrum_of_loss(lambda params, x: net(params, x).sum(), params, x, orders=2)
    torch.testing.assert_close(loss.components.sum(0) + loss.remainder, loss.whole)
