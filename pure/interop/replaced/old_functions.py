"""Custom `autograd.Function`s without `setup_context`, which the transforms of torch.func refuse."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import _is_setup_context_defined

__all__ = ["APPLY"]

_plain_apply = vars(Function)["apply"]


class _Context:
    """What `forward` and `backward` of the old style write to and read from."""

    def __init__(self, needs_input_grad: Sequence[bool]) -> None:
        self.needs_input_grad = tuple(needs_input_grad)
        self.saved_tensors: tuple[Tensor | None, ...] = ()

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors."""
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Keep which outputs have no derivative."""
        self.without_derivative = tuple(map(id, tensors))

    def set_materialize_grads(self, value: bool) -> None:
        """Give gradients of zeros as zeros whatever is asked, which a `backward` that handles None can handle too."""


@dataclass(frozen=True)
class _Call:
    """What a call of `forward` left behind; places are positions among its inputs, then its outputs.

    Attributes:
        context: with what is no tensor.
        count: how many outputs are those of the old function.
        many: whether it returns a tuple.
        saved: the place of each saved tensor; None for a None.
        held: those of the tensors that were set as attributes.
        fixed: numbers of the outputs without a derivative.
    """

    context: _Context
    count: int
    many: bool
    saved: tuple[int | None, ...]
    held: dict[str, int]
    fixed: tuple[int, ...]


def _called(old: type[Function], args: tuple[Any, ...]) -> tuple[_Call, tuple[Any, ...]]:
    """Call the old `forward`; return what it left behind, and its outputs with the other tensors that it keeps."""
    context = _Context([isinstance(arg, Tensor) and arg.is_floating_point() for arg in args])
    y: Any = old.forward(context, *args)
    many = isinstance(y, tuple)
    outputs = list(y) if many else [y]
    count = len(outputs)
    places = {id(leaf): place for place, leaf in enumerate((*args, *outputs)) if isinstance(leaf, Tensor)}
    attributes = {name: leaf for name, leaf in vars(context).items() if isinstance(leaf, Tensor)}
    for leaf in (*context.saved_tensors, *attributes.values()):
        if leaf is not None and id(leaf) not in places:
            places[id(leaf)] = len(args) + len(outputs)
            outputs.append(leaf)
    without = getattr(context, "without_derivative", ())
    call = _Call(
        context,
        count,
        many,
        tuple(None if leaf is None else places[id(leaf)] for leaf in context.saved_tensors),
        {name: places[id(leaf)] for name, leaf in attributes.items()},
        (*(number for number in range(count) if id(outputs[number]) in without), *range(count, len(outputs))),
    )
    return call, tuple(outputs)


@functools.cache
def _new_style(old: type[Function]) -> type[Function]:
    """Return a function of the new style, with the old one's values and derivatives.

    Every tensor that it keeps is an input or an output, and so one of each level of the transforms. Tensors that are
    neither in the old function count as constants in second derivatives, as in plain autograd.
    """
    latest = threading.local()  # the call between its `forward` and its `setup_context` of each level

    class NewStyle(Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args: Any) -> Any:
            latest.call, outputs = _called(old, args)
            return outputs

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
            call = ctx.call = latest.call
            kept = {place for place in (*call.saved, *call.held.values()) if place is not None}
            ctx.order = {place: number for number, place in enumerate(sorted(kept))}
            both = (*inputs, *output)
            ctx.save_for_backward(*(both[place] for place in ctx.order))
            ctx.mark_non_differentiable(*(output[number] for number in call.fixed))

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            call, saved = ctx.call, ctx.saved_tensors
            context = _Context(ctx.needs_input_grad)
            own = {name: value for name, value in vars(call.context).items() if name not in vars(context)}
            vars(context).update(own, **{name: saved[ctx.order[place]] for name, place in call.held.items()})
            context.saved_tensors = tuple(None if place is None else saved[ctx.order[place]] for place in call.saved)
            return old.backward(context, *gradients[: call.count])

    NewStyle.__name__ = NewStyle.__qualname__ = old.__name__
    NewStyle.latest = latest  # type: ignore[attr-defined]
    return NewStyle


def _apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a custom function, one of the old style under transforms as one of the new."""
    transforms = torch._C._are_functorch_transforms_active()
    # PyTorch's own look at the grad_fn that the call leaves, as that of module hooks does.
    if not transforms or _is_setup_context_defined(cls.setup_context) or cls.__module__.startswith("torch."):
        return _plain_apply.__get__(None, cls)(*args, **kwargs)
    new: Any = _new_style(cls)
    outputs = _plain_apply.__get__(None, new)(*args, **kwargs)
    call = new.latest.call
    return outputs[: call.count] if call.many else outputs[0]


APPLY = (Function, {"apply": classmethod(_apply)})
"""What `Switched` takes: `Function.apply` as above."""
