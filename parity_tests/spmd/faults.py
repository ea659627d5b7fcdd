"""Mistakes that several ranks can make together: each is a typed error on every rank, and the next call works."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev

import pure
from pure import errors, flow, spmd

__all__ = ["FAULTS", "outcome"]

W = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
X = torch.linspace(-1, 1, 21, dtype=torch.float64).reshape(7, 3)


def _mapped(fn: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return spmd.shard_map(fn, **{"sharded": 1, **options})


def _loss(w: Tensor, x: Tensor) -> Tensor:
    return spmd.psum((x @ w).sin().sum())


def _raise_on_last(message: str) -> None:
    if spmd.rank() == spmd.size() - 1:
        raise ZeroDivisionError(message)


def _early(w: Tensor, x: Tensor) -> Tensor:
    _raise_on_last("before the sum")
    return _loss(w, x)


def _between(w: Tensor, x: Tensor) -> Tensor:
    total = _loss(w, x)
    _raise_on_last("between two sums")
    return total + _loss(w, x)


def _late(w: Tensor, x: Tensor) -> Tensor:
    total = _loss(w, x)
    _raise_on_last("after the sums")
    return x * total


class _FailsBackwards(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        _raise_on_last("in the backward pass")
        return cotangents[0]


def _guarded_backward(w: Tensor, x: Tensor) -> Tensor:
    with spmd.guard():
        return grad(_mapped(lambda w, x: _loss(_FailsBackwards.apply(w) * spmd.psum(w.sum()), x)))(w, x)


def _in_turn(w: Tensor, x: Tensor) -> Tensor:
    a, b = (x @ w).sum(), (x @ w).cos().sum()
    if spmd.rank() == 0:
        a = spmd.psum(a)
        return a + spmd.psum(b)
    b = spmd.psum(b)
    return spmd.psum(a) + b


def _in_a_block(w: Tensor, x: Tensor) -> Tensor:
    """Fail in a block after a collective of its own: nothing may run twice on one rank."""

    def last(x: Tensor) -> Tensor:
        _raise_on_last("in a block")
        return x

    net = pure.Sequential(pure.Function(lambda x: spmd.psum(x.sum()) + x), pure.Function(last))
    return spmd.psum(net({}, x * w).sum())


def _by_closure(w: Tensor, x: Tensor) -> Tensor:
    return grad(lambda w: spmd.shard_map(lambda x: (x @ w).sum(), sharded=0, out="sum")(x))(w)


def _on_module(w: Tensor, x: Tensor) -> Tensor:
    module = torch.nn.Linear(3, 1, dtype=x.dtype)
    return spmd.shard_map(lambda x: module(x).sum(), sharded=0, out="sum")(x)


def _recorded(w: Tensor, x: Tensor) -> Any:
    from torch.fx.experimental.proxy_tensor import make_fx  # only here: it takes a second to import

    return make_fx(_mapped(_loss, check=False), tracing_mode="fake")(w, x)


def _with_nan(w: Tensor, x: Tensor) -> Tensor:
    return _mapped(lambda w, x: (x @ w).sum() * 0 + (float("nan") if spmd.rank() == 0 else 1.0))(w, x)


def _flow_loss(w: Tensor, x: Tensor) -> Tensor:
    return (x @ w).sin().mean()


def _without_samples(w: Tensor, x: Tensor) -> Any:
    return flow.gradient_norms(_flow_loss, w, x[:0] if spmd.rank() == spmd.size() - 1 else x, group="world")


def _nan_in_one_part(w: Tensor, x: Tensor) -> Any:
    return flow.hvp(lambda w, x: _flow_loss(w, x) + _nan_on_last(w), w, x, group="world")


def _nan_on_last(w: Tensor) -> Tensor:
    return w.sum() * (float("nan") if spmd.rank() == spmd.size() - 1 else 0.0)


def _unequal_vector(w: Tensor, x: Tensor) -> Any:
    return flow.hvp(_flow_loss, w, x, group="world")(w + spmd.rank())


def _unequal_probes(w: Tensor, x: Tensor) -> Any:
    generator = torch.Generator().manual_seed(spmd.rank())
    return flow.curvature(_flow_loss, w, x, generator=generator, group="world")


def _audited(x: Tensor, last: Callable[[Tensor], Tensor] = torch.tanh, **options: Any) -> Any:
    """Audit a network of five blocks whose last is a function; every rank gives all samples."""
    block = pure.Sequential(*[pure.Residual(pure.Linear(3, 3)) for _ in range(4)], pure.Function(last))
    params, state = block.init(torch.Generator().manual_seed(0), x.dtype)
    scale = options.pop("scale", 1.0)
    scaled = pure.tree.tree_map(lambda leaf: leaf * scale, params)
    return flow.audit(block, scaled, x, state, **options, group="world")


def _failing(x: Tensor) -> Tensor:
    _raise_on_last("in the last block")
    return x


OWN = (ZeroDivisionError, errors.PeerFailedError)
"""The last rank raises the error, the others hear of it."""

FAULTS: dict[str, tuple[Callable[[Tensor, Tensor], Any], tuple[type[Exception], type[Exception]]]] = {
    "one rank fails before a collective": (lambda w, x: _mapped(_early)(w, x), OWN),
    "one rank fails between collectives": (lambda w, x: _mapped(_between)(w, x), OWN),
    "one rank fails after the last collective": (lambda w, x: _mapped(_late, out="sharded")(w, x), OWN),
    "one rank fails in a block": (lambda w, x: _mapped(_in_a_block)(w, x), OWN),
    "one rank fails under grad": (lambda w, x: grad(_mapped(_between))(w, x), OWN),
    "one rank fails under jacfwd": (lambda w, x: jacfwd(_mapped(_between))(w, x), OWN),
    "one rank fails in its backward pass": (_guarded_backward, OWN),
    "calls in another order": (lambda w, x: _mapped(_in_turn)(w, x), (errors.RanksDifferError,) * 2),
    "unequal shapes": (lambda w, x: _mapped(lambda w, x: spmd.psum(x @ w).sum())(w, x), (errors.RanksDifferError,) * 2),
    "unequal dtypes": (
        lambda w, x: _mapped(lambda w, x: spmd.psum((x @ w).sum().to(torch.float32 if spmd.rank() else torch.float64)))(
            w, x
        ),
        (errors.RanksDifferError,) * 2,
    ),
    "gather of unequal widths": (
        lambda w, x: _mapped(lambda w, x: spmd.gather(x[:, : 1 + spmd.rank()]).sum())(w, x),
        (errors.RanksDifferError,) * 2,
    ),
    "jacrev of uneven parts": (
        lambda w, x: jacrev(_mapped(lambda w, x: (x @ w) * _loss(w, x), out="sharded"))(w, x),
        (errors.RanksDifferError,) * 2,
    ),
    "a psum is missing": (lambda w, x: _mapped(lambda w, x: (x @ w).sum())(w, x), (errors.RanksDifferError,) * 2),
    "NaN on one rank": (_with_nan, (errors.RanksDifferError,) * 2),
    "unequal parameters": (lambda w, x: _mapped(_loss)(w + 1e-3 * spmd.rank(), x), (errors.RanksDifferError,) * 2),
    "psum outside of shard_map": (lambda w, x: spmd.psum(w), (errors.GroupError,) * 2),
    "batch norm outside of shard_map": (
        lambda w, x: pure.BatchNorm(3, affine=False, group="world").apply(
            {}, x, pure.BatchNorm(3).init(torch.Generator(), x.dtype)[1], {}, True
        ),
        (errors.GroupError,) * 2,
    ),
    "shard_map in itself": (lambda w, x: _mapped(lambda w, x: _mapped(_loss)(w, x))(w, x), (errors.GroupError,) * 2),
    "derivative by closure": (_by_closure, (errors.ArgumentError,) * 2),
    "a module's own parameters": (_on_module, (errors.ArgumentError,) * 2),
    "a position that is not there": (lambda w, x: _mapped(_loss, sharded=2)(w, x), (errors.ArgumentError,) * 2),
    "no such kind of result": (lambda w, x: _mapped(_loss, out="mean"), (errors.ArgumentError,) * 2),
    "another number of results": (lambda w, x: _mapped(_loss, out=("same", "sum"))(w, x), (errors.ArgumentError,) * 2),
    "psum of a number": (lambda w, x: _mapped(lambda w, x: spmd.psum(1.0))(w, x), (errors.ArgumentError,) * 2),
    "psum of booleans": (lambda w, x: _mapped(lambda w, x: spmd.psum(x > 0))(w, x), (errors.DtypeError,) * 2),
    "pmean of integers": (lambda w, x: _mapped(lambda w, x: spmd.pmean(x.long()))(w, x), (errors.DtypeError,) * 2),
    "weights of 0": (
        lambda w, x: _mapped(lambda w, x: spmd.pmean(w, weight=0))(w, x),
        (errors.ArgumentError,) * 2,
    ),
    "gather without axes": (lambda w, x: _mapped(lambda w, x: spmd.gather(x.sum()))(w, x), (errors.ShapeError,) * 2),
    "recording": (_recorded, (errors.UnsupportedError,) * 2),
    "a measurement of a rank without samples": (_without_samples, (errors.ArgumentError, errors.PeerFailedError)),
    "a measurement with NaN on one rank": (_nan_in_one_part, (errors.UnsupportedError, errors.PeerFailedError)),
    "a measurement of unequal parameters": (
        lambda w, x: flow.gradient_norms(_flow_loss, w + spmd.rank(), x, group="world"),
        (errors.RanksDifferError,) * 2,
    ),
    "a product with unequal vectors": (_unequal_vector, (errors.RanksDifferError,) * 2),
    "probes from unequal generators": (_unequal_probes, (errors.RanksDifferError,) * 2),
    "a measurement without such a reduction": (
        lambda w, x: flow.hvp(_flow_loss, w, x, group="world", reduction="max"),
        (errors.ArgumentError,) * 2,
    ),
    "one rank fails in an audit": (lambda w, x: _audited(X, _failing), OWN),
    "an audit of a rank's own samples": (lambda w, x: _audited(x + spmd.rank()), (errors.RanksDifferError,) * 2),
    "an audit of unequal parameters": (
        lambda w, x: _audited(X, scale=1.0 + spmd.rank()),
        (errors.RanksDifferError,) * 2,
    ),
    "an audit of unequal depths": (
        lambda w, x: flow.audit(
            pure.Sequential(*[pure.Function(torch.tanh)] * (2 + spmd.rank())), {}, X, group="world"
        ),
        (errors.RanksDifferError,) * 2,
    ),
    "an audit from unequal generators": (
        lambda w, x: _audited(X, generator=torch.Generator().manual_seed(spmd.rank())),
        (errors.RanksDifferError,) * 2,
    ),
    "an audit with a collective in a block": (
        lambda w, x: _audited(X, lambda x: spmd.psum(x)),
        (errors.GroupError, errors.PeerFailedError),
    ),
    "an audit of a block that runs whole": (
        lambda w, x: flow.audit(pure.Function(torch.tanh), {}, X, group="world"),
        (errors.UnsupportedError,) * 2,
    ),
    "whole leaves in a Sharded block": (
        lambda w, x: _mapped(lambda p, x: pure.Sharded(pure.Linear(3, 1))(p, x), sharded=(0, 1), out="sharded")(
            {"weight": w[None], "bias": w[:1]}, x
        ),
        (errors.TreeError,) * 2,
    ),
}
"""Name → the mistake, and the errors of the last rank and of the others. It is given weights and a part of a batch."""


def outcome(name: str) -> str:
    """Return what a mistake led to on this rank: "" if it is what was expected."""
    mistake, (of_last, of_others) = FAULTS[name]
    expected = of_last if spmd.rank() == spmd.size() - 1 else of_others
    said = "no error"
    try:
        mistake(W, spmd.shard(X))
    except (errors.PureError, ZeroDivisionError, RuntimeError, TypeError, ValueError) as error:
        said = "" if type(error) is expected else f"{type(error).__name__}: {error}"
        if type(error) is errors.PeerFailedError and f"rank {spmd.size() - 1} failed" not in str(error):
            said = f"the failed rank is not named: {error}"
        if type(error) is errors.PeerFailedError and of_last.__name__ not in str(error):
            said = f"the first error is not quoted: {error}"
    after = _mapped(_loss)(W, spmd.shard(X))
    if not torch.allclose(after, (X @ W).sin().sum(), rtol=1e-14):
        said += " and the next call is wrong"
    return said
