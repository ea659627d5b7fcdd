"""Functions and blocks whose gradient computes their inner values again instead of keeping them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_functorch_wrapped_tensor, unwrap_if_dead
from torch.func import jvp, vjp
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pure.block import EMPTY, Applied, Block
from pure.compose.wrapper import Wrapper
from pure.errors import ArgumentError
from pure.layers.transform_levels import is_forward_over_forward
from pure.tags import capturing
from pure.tree import Tree, tree_flatten, tree_unflatten

__all__ = ["Checkpoint", "checkpoint", "remat"]

Fn = TypeVar("Fn", bound=Callable[..., Any])


class _Call:
    """A function of flat tensors made from one of pytrees; `structure` is that of its last result.

    Args:
        fn: the function.
        given: the leaves of its arguments.
        spec: their structure.
        distinct: positions among the tensors of those that every inner value depends on.
    """

    def __init__(
        self, fn: Callable[..., Any], given: Sequence[Any], spec: Any, distinct: Sequence[int] | None = None
    ) -> None:
        self.fn, self.spec = fn, spec
        self.structure: Any = None
        self.fixed = [None if isinstance(leaf, Tensor) else leaf for leaf in given]
        self.places = [i for i, leaf in enumerate(given) if isinstance(leaf, Tensor)]
        self.distinct = list(distinct or range(len(self.places)))

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        leaves = list(self.fixed)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        found, self.structure = tree_flatten(self.fn(*tree_unflatten(leaves, self.spec)))
        for leaf in found:
            if not isinstance(leaf, Tensor):
                raise ArgumentError(f"remat: the function returned {leaf!r}, expected a pytree of tensors")
        return tuple(leaf.view_as(leaf) if any(leaf is given for given in tensors) else leaf for leaf in found)


class _Remat(torch.autograd.Function):
    """Runs the function; keeps its arguments, and none of the values between."""

    generate_vmap_rule = True

    @staticmethod
    def forward(call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        return call(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.call, *tensors = inputs
        ctx.mark_non_differentiable(*(y for y in output if not _smooth(y)))
        ctx.set_materialize_grads(False)  # a tangent that is not there is None
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = _distinct(ctx.call, [unwrap_if_dead(t) for t in ctx.saved_tensors], cotangents)
        wanted = ctx.needs_input_grad[1:]  # PyTorch's kernels refuse to differentiate by running statistics
        places = [i for i, tensor in enumerate(tensors) if _smooth(tensor) and wanted[i]]
        kept: list[int] = []

        def again(*smooth: Tensor) -> tuple[Tensor, ...]:
            given = list(tensors)
            for place, tensor in zip(places, smooth, strict=True):
                given[place] = tensor
            results = ctx.call(*given)
            kept[:] = [i for i, result in enumerate(results) if _smooth(result)]
            return tuple(results[i] for i in kept)

        values, pull = vjp(again, *(tensors[i] for i in places))[:2]
        given = (
            torch.zeros_like(y) if cotangents[i] is None else cotangents[i] for i, y in zip(kept, values, strict=True)
        )
        found = dict(zip(places, pull(tuple(given)), strict=True))
        return None, *(found.get(i) for i in range(len(tensors)))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        places = [i for i, tensor in enumerate(tensors) if _smooth(tensor) and tangents[1:][i] is not None]

        def run(*smooth: Tensor) -> tuple[Tensor, ...]:
            given = list(tensors)
            for place, tensor in zip(places, smooth, strict=True):
                given[place] = tensor
            return ctx.call(*given)

        given = [tangents[1:][i] for i in places]
        primals = tuple(tensors[i] for i in places)
        full = tuple(torch.zeros_like(p) if t is None else t for p, t in zip(primals, given, strict=True))
        values, found, *_ = jvp(run, primals, full)
        return tuple(t if _smooth(y) else None for y, t in zip(values, found, strict=True))


def _smooth(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _distinct(call: _Call, tensors: Sequence[Tensor], cotangents: Sequence[Tensor | None]) -> list[Tensor]:
    """Return equal tensors that no compiler of a recorded graph takes for the same ones.

    Whoever merges equal computations would merge the second evaluation with the first and keep its values after all;
    whoever orders them freely would run it right after the first. A factor of one that is computed from a cotangent
    is bitwise exact, is not known to be one, and is there no earlier than the backward pass.
    """
    found = list(tensors)
    if get_proxy_mode() is None:
        return found
    late = next((g for g in cotangents if g is not None and g.is_floating_point() and g.numel()), None)
    for i in call.distinct:
        if tensors[i].is_floating_point() and tensors[i].numel():
            # A factor for each mapped element would make a mapped tensor of one that is shared.
            shared = late is not None and is_batchedtensor(late) and not is_batchedtensor(tensors[i])
            source = tensors[i] if late is None or shared else late
            unknown = source.detach().reshape(-1)[:1].isnan()
            found[i] = tensors[i] * (unknown | ~unknown).to(tensors[i].dtype).reshape(())
    return found


def remat(fn: Fn) -> Fn:
    """Return a function of the same values, whose gradient evaluates it again instead of keeping its inner values.

    A gradient then holds the arguments of the function and, while it passes through it, the values of this one
    function; it costs one more evaluation. It composes with grad, vmap, jvp, second derivatives and export: a file has
    the second evaluation too. While something captures tags, compiles or takes `jvp` of `jvp`, the function itself
    runs, with the same values.

    Args:
        fn: a pure function of pytrees. Tensors to be differentiated must be arguments.

    Returns:
        The function.

    Raises:
        ArgumentError: on the call, if `fn` closes over a tensor that is being differentiated, or returns anything but
            tensors.

    Source: Chen et al. 2016 (1604.06174), section 4.

    Example:
        >>> wave = remat(lambda x: x.sin().exp().sum())
        >>> x = torch.linspace(0, 1, 5)
        >>> torch.equal(torch.func.grad(wave)(x), torch.func.grad(lambda x: x.sin().exp().sum())(x))
        True
    """

    @functools.wraps(fn)
    def rematerialised(*args: Any) -> Any:
        _raise_unless_closed(fn)
        return _run(fn, args)

    return rematerialised  # type: ignore[return-value]


def _run(fn: Callable[..., Any], args: tuple[Any, ...], main: int | None = None) -> Any:
    """Evaluate a function now, and again in a gradient.

    Args:
        fn: the function.
        args: its arguments.
        main: the argument that every inner value worth freeing depends on; None for all of them.
    """
    if capturing() or torch.compiler.is_dynamo_compiling() or is_forward_over_forward():
        return fn(*args)
    leaves, spec = tree_flatten(args)
    owners = [i for i, arg in enumerate(args) for leaf in tree_flatten(arg)[0] if isinstance(leaf, Tensor)]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    distinct = [i for i, owner in enumerate(owners) if owner == main and _smooth(tensors[i])]
    call = _Call(fn, leaves, spec, distinct)
    results = _Remat.apply(call, *tensors)
    return tree_unflatten(list(results), call.structure)


def _raise_unless_closed(fn: Callable[..., Any]) -> None:
    """Raise if a function closes over a tensor that is being differentiated: its gradient would be lost."""
    inner = fn.func if isinstance(fn, functools.partial) else fn
    held = [*fn.args, *fn.keywords.values()] if isinstance(fn, functools.partial) else []
    function = inspect.unwrap(inner)
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = dict(zip(names, getattr(function, "__closure__", None) or (), strict=False))
    for name, content in [*((name, cell.cell_contents) for name, cell in cells.items()), *(("", x) for x in held)]:
        for leaf in tree_flatten(content)[0]:
            if isinstance(leaf, Tensor) and (leaf.requires_grad or is_functorch_wrapped_tensor(leaf)):
                raise ArgumentError(
                    f"remat: the function closes over {name or 'a tensor'}, which is being differentiated or mapped "
                    "and would get no gradient: make it an argument"
                )


@dataclass(frozen=True, repr=False)
class Checkpoint(Wrapper):
    """A block whose gradient computes its inner values again; see `checkpoint`."""

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Return the block's output and new state."""
        block = self.block

        def run(params: Tree, x: Any, state: Tree, extras: Tree, noise: Any) -> Applied:
            return block.apply(params, x, state, extras, training, noise)

        found: Applied = _run(run, (params, x, state, extras, noise), main=1)
        return found


def checkpoint(block: Block) -> Checkpoint:
    """Return a block that computes the same, and in a gradient its inner values again instead of keeping them.

    Put it around each block of a chain: a gradient then keeps what lies between the blocks only, for one more
    evaluation. Parameters, state and names are the block's own; so are values and derivatives, see `remat`.

    Args:
        block: any block.

    Raises:
        ArgumentError: no block.

    Source: Chen et al. 2016 (1604.06174), section 4.

    Example:
        >>> from pure import Linear, Sequential
        >>> net = Sequential(*[checkpoint(Sequential(Linear(4, 4), Linear(4, 4)))] * 3)
        >>> params, _ = net.init(torch.Generator().manual_seed(0))
        >>> torch.func.grad(lambda p: net(p, torch.ones(1, 4)).sum())(params)["0"]["0"]["weight"].shape
        torch.Size([4, 4])
    """
    return Checkpoint(block)
