"""`flow.per_sample_gradients` gives every sample's gradient w.r.t. the chosen leaves, and forms no other."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import pure
from pure import flow, nets
from pure.errors import ArgumentError, TreeError, UnsupportedError

FLOAT64 = torch.float64
NET = pure.Sequential(
    conv=pure.Conv2d(3, 6, 3, padding=1),
    norm=pure.GroupNorm(2, 6),
    act=pure.Activation("gelu"),
    pool=pure.GlobalAvgPool(),
    head=pure.Linear(6, 4),
)
PARAMS = NET.init(torch.Generator().manual_seed(0), FLOAT64)[0]
X = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=FLOAT64)
Y = torch.tensor([0, 3, 2, 1, 1])


def loss(params: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(NET(params, x[None]), y[None])


def exact() -> dict[str, Tensor]:
    return pure.flatten(vmap(grad(loss), (None, 0, 0))(PARAMS, X, Y))


def agree(found: dict[str, Tensor], names: list[str]) -> None:
    expected = exact()
    assert list(found) == names
    for name in names:
        assert not found[name].requires_grad
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-13)


def test_all_leaves_and_their_sum() -> None:
    found = flow.per_sample_gradients(loss, PARAMS, X, Y)
    agree(found, list(pure.flatten(PARAMS)))
    whole = pure.flatten(grad(lambda p: F.cross_entropy(NET(p, X), Y, reduction="sum"))(PARAMS))
    for name, gradient in whole.items():
        torch.testing.assert_close(found[name].sum(0), gradient, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 99])
def test_chunks_and_chosen_leaves(chunk_size: int) -> None:
    chosen = ["head.bias", "conv.weight"]
    agree(flow.per_sample_gradients(loss, PARAMS, X, Y, leaves=chosen, chunk_size=chunk_size), chosen[::-1])
    weights = flow.per_sample_gradients(loss, PARAMS, X, Y, leaves=lambda name: name.startswith("norm"))
    agree(weights, ["norm.weight", "norm.bias"])
    assert flow.per_sample_gradients(loss, PARAMS, X, Y, leaves=[]) == {}


def test_norms_are_those_of_the_gradients() -> None:
    norms = flow.per_sample_norms(loss, PARAMS, X, Y)
    for name, gradient in flow.per_sample_gradients(loss, PARAMS, X, Y).items():
        torch.testing.assert_close(norms[name], gradient.flatten(1).norm(dim=1), rtol=1e-12, atol=1e-15)


def test_an_unused_leaf_and_one_used_in_two_ways() -> None:
    params = {"used": torch.eye(3, dtype=FLOAT64), "spare": torch.ones(2, dtype=FLOAT64)}
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=FLOAT64)

    def twice(params: Any, x: Tensor) -> Tensor:
        return F.linear(x, params["used"]).pow(3).sum() + params["used"].pow(2).sum()

    found = flow.per_sample_gradients(twice, params, x)
    expected = vmap(grad(twice), (None, 0))(params, x)
    torch.testing.assert_close(found["used"], expected["used"], rtol=1e-12, atol=0)
    assert found["spare"].tolist() == [[0.0, 0.0]] * 4


def test_a_repeat_of_stacked_leaves() -> None:
    block = pure.Repeat(nets.residual_mlp_block(4, 6), 3)
    params = block.init(torch.Generator().manual_seed(0), FLOAT64)[0]
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=FLOAT64)
    of_one = lambda p, x: block(p, x[None]).pow(3).sum()  # noqa: E731
    found = flow.per_sample_gradients(of_one, params, x)
    for name, gradient in pure.flatten(vmap(grad(of_one), (None, 0))(params, x)).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-13)


class Sizes(TorchDispatchMode):
    """Keeps the storage sizes of all tensors that are formed, in float64 values."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and not tensor._is_view():
                self.seen.add(tensor.untyped_storage().nbytes() // 8)
        return out


def test_only_the_chosen_gradients_are_formed_a_chunk_at_a_time() -> None:
    block = nets.residual_mlp(23, 29, 2)
    params = block.init(torch.Generator().manual_seed(0), FLOAT64)[0]
    x = torch.randn(12, 23, generator=torch.Generator().manual_seed(1), dtype=FLOAT64)
    weight = 23 * 29
    of_one = lambda p, x: block(p, x[None]).pow(3).sum()  # noqa: E731
    with Sizes() as sizes:
        flow.per_sample_gradients(of_one, params, x, leaves=["1.branch.fc1.bias"])
    assert max(sizes.seen) <= weight
    with Sizes() as sizes:
        flow.per_sample_gradients(of_one, params, x, leaves=["1.branch.fc1.weight"], chunk_size=3)
    assert {12 * weight, 3 * weight} <= sizes.seen
    assert not {size for size in sizes.seen if 3 * weight < size < 12 * weight}
    assert max(sizes.seen) == 12 * weight


def test_errors() -> None:
    with pytest.raises(TreeError, match=r"'head.wieght' is no leaf .*did you mean 'head.weight'"):
        flow.per_sample_gradients(loss, PARAMS, X, Y, leaves=["head.wieght"])
    with pytest.raises(ArgumentError, match=r"expected names in a list, as \['head.weight'\]"):
        flow.per_sample_gradients(loss, PARAMS, X, Y, leaves="head.weight")
    with pytest.raises(ArgumentError, match="expected at least 1"):
        flow.per_sample_gradients(loss, PARAMS, X, Y, chunk_size=0)
    with pytest.raises(UnsupportedError, match="NaN"):
        flow.per_sample_gradients(lambda p, x: F.linear(x, p["w"]).sum() / 0, {"w": torch.ones(2, 2)}, torch.ones(3, 2))
    with pytest.raises(UnsupportedError, match="BatchNorm in training"):
        flow.per_sample_gradients(
            lambda p, x: F.batch_norm(x, None, None, p["w"], None, True).sum(),
            {"w": torch.ones(3)},
            torch.ones(2, 4, 3),
        )
