"""Derivatives and batches of loops, which are loops themselves.

The gradient is a loop in the other direction. It carries the carry's gradient and the sums of those of the tensors
that the step closes over, and recomputes each step from the carry that the first loop has stored: memory grows with
depth times the carry, as in JAX under rematerialisation. Since each rule runs loops, derivatives of any order do too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers

from export.trace.isolation import functorch_depth

__all__ = ["Loop", "run", "tracked"]

Flat = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True, eq=False)
class Loop:
    """A step over flat tensors, and how to run it.

    Attributes:
        step: `step(*carry, *x, *shared)` returns the next carry and this step's ys.
        carries: number of tensors that are carried.
        xs: number of tensors that are split along axis 0, one slice a step.
        shared: number of tensors that are the same in each step.
        reverse: whether the last slice comes first.
        record: runs the loop where no transform is active: `record(loop, operands)`.
    """

    step: Flat
    carries: int
    xs: int
    shared: int
    reverse: bool
    record: Callable[[Loop, Sequence[Tensor]], tuple[Tensor, ...]]

    def split(self, operands: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """Return the carries, the xs and the shared tensors among the operands."""
        a, b = self.carries, self.carries + self.xs
        return list(operands[:a]), list(operands[a:b]), list(operands[b:])


def tracked(operands: Sequence[Tensor]) -> bool:
    """Tell whether a transform or autograd tracks what is computed of these tensors."""
    return functorch_depth() > 0 or (torch.is_grad_enabled() and any(x.requires_grad for x in operands))


def run(loop: Loop, operands: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Run a loop under whatever transforms are active; return the last carry and the stacked ys."""
    operands = unwrap_dead_wrappers(tuple(operands))  # a function that vjp returned runs after its transform ended
    if not tracked(operands):
        return loop.record(loop, operands)
    return tuple(_Differentiable.apply(loop, *operands))[: -loop.carries or None]


def _keeping(loop: Loop) -> Loop:
    """Return the loop that also stacks each step's input carry."""

    def step(*given: Tensor) -> tuple[Tensor, ...]:
        return (*loop.step(*given), *given[: loop.carries])

    return replace(loop, step=step)


def _floats(values: Sequence[Tensor]) -> list[int]:
    return [i for i, x in enumerate(values) if x.is_floating_point()]


def _where(values: Sequence[Any]) -> list[int]:
    return [i for i, x in enumerate(values) if x is not None]


def _filled(values: Sequence[Any], places: Sequence[int], new: Sequence[Any]) -> list[Any]:
    """Return the values with the new ones at `places`."""
    result = list(values)
    for i, value in zip(places, new, strict=True):
        result[i] = value
    return result


def _zeros(stacked: Tensor) -> Tensor:
    """Return zeros like one slice."""
    return torch.zeros(stacked.shape[1:], dtype=stacked.dtype, device=stacked.device)


class _Parts:
    """Splits a flat tuple into parts of given lengths."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.values, self.at = list(values), 0

    def take(self, count: int) -> list[Any]:
        self.at += count
        return self.values[self.at - count : self.at]


class _Differentiable(torch.autograd.Function):
    """A loop with its derivatives; returns the last carry, the ys and the stacked input carries."""

    @staticmethod
    def forward(loop: Loop, *operands: Tensor) -> tuple[Tensor, ...]:
        return loop.record(_keeping(loop), operands)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        loop: Loop = inputs[0]
        ctx.loop = loop
        ctx.ys = len(output) - 2 * loop.carries
        ctx.set_materialize_grads(False)
        saved = (*inputs[1 + loop.carries :], *output[loop.carries + ctx.ys :])
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        loop: Loop = ctx.loop
        saved = _Parts(ctx.saved_tensors)
        xs, shared, carries = saved.take(loop.xs), saved.take(loop.shared), saved.take(loop.carries)
        given = _Parts(slopes)
        of_carry, of_ys, of_kept = given.take(loop.carries), given.take(ctx.ys), given.take(loop.carries)
        _, need_x, need_shared = loop.split(ctx.needs_input_grad[1:])
        varied = _floats(carries)
        wanted = [i for i in _floats(xs) if need_x[i]]
        summed = [i for i in _floats(shared) if need_shared[i]]
        seen, kept = _where(of_ys), [i for i in varied if of_kept[i] is not None]

        def step(*flat: Tensor) -> tuple[Tensor, ...]:
            parts = _Parts(flat)
            slope, total = parts.take(len(varied)), parts.take(len(summed))
            carry, x = parts.take(loop.carries), parts.take(loop.xs)
            slope_y, slope_kept = parts.take(len(seen)), parts.take(len(kept))
            fixed = parts.take(loop.shared)

            def primal(*by: Tensor) -> tuple[Tensor, ...]:
                new = _Parts(by)
                operands = (
                    *_filled(carry, varied, new.take(len(varied))),
                    *_filled(x, wanted, new.take(len(wanted))),
                    *_filled(fixed, summed, new.take(len(summed))),
                )
                out = loop.step(*operands)
                return (*(out[i] for i in varied), *(out[loop.carries + i] for i in seen))

            by = (*(carry[i] for i in varied), *(x[i] for i in wanted), *(fixed[i] for i in summed))
            pull: Any = torch.func.vjp(primal, *by)[1]
            found = _Parts(pull((*slope, *slope_y)))
            before = found.take(len(varied))
            slope_x, more = found.take(len(wanted)), found.take(len(summed))
            for i, extra in zip(kept, slope_kept, strict=True):
                before[varied.index(i)] = before[varied.index(i)] + extra
            return (*before, *(a + b for a, b in zip(total, more, strict=True)), *slope_x)

        back = Loop(
            step, len(varied) + len(summed), loop.carries + loop.xs + len(seen) + len(kept), loop.shared,
            not loop.reverse, loop.record,
        )  # fmt: skip
        start = [_zeros(carries[i]) if of_carry[i] is None else of_carry[i] for i in varied]
        start += [torch.zeros_like(shared[i]) for i in summed]
        slices = (*carries, *xs, *(of_ys[i] for i in seen), *(of_kept[i] for i in kept))
        out = _Parts(run(back, (*start, *slices, *shared)))
        carry_slopes, sums = out.take(len(varied)), out.take(len(summed))
        x_slopes = out.take(len(wanted))
        return (
            None,
            *_filled([None] * loop.carries, varied, carry_slopes),
            *_filled([None] * loop.xs, wanted, x_slopes),
            *_filled([None] * loop.shared, summed, sums),
        )

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        loop: Loop = ctx.loop
        saved = _Parts(ctx.saved_tensors)
        xs, shared, carries = saved.take(loop.xs), saved.take(loop.shared), saved.take(loop.carries)
        of_carry, of_xs, of_shared = loop.split(tangents)
        varied, moved, turned = _floats(carries), _where(of_xs), _where(of_shared)
        outs: list[int] = []

        def step(*flat: Tensor) -> tuple[Tensor, ...]:
            parts = _Parts(flat)
            tangent, carry, x = parts.take(len(varied)), parts.take(loop.carries), parts.take(loop.xs)
            tangent_x, fixed, tangent_shared = parts.take(len(moved)), parts.take(loop.shared), parts.take(len(turned))

            def primal(*by: Tensor) -> tuple[Tensor, ...]:
                new = _Parts(by)
                operands = (
                    *_filled(carry, varied, new.take(len(varied))),
                    *_filled(x, moved, new.take(len(moved))),
                    *_filled(fixed, turned, new.take(len(turned))),
                )
                out = loop.step(*operands)
                outs[:] = [i for i in _floats(out) if i >= loop.carries]
                return (*(out[i] for i in varied), *(out[i] for i in outs))

            by = (*(carry[i] for i in varied), *(x[i] for i in moved), *(fixed[i] for i in turned))
            pushed: Any = torch.func.jvp(primal, by, (*tangent, *tangent_x, *tangent_shared))[1]
            return (*pushed, *tangent)

        forward = Loop(
            step, len(varied), loop.carries + loop.xs + len(moved), loop.shared + len(turned), loop.reverse, loop.record
        )
        start = [_zeros(carries[i]) if of_carry[i] is None else of_carry[i] for i in varied]
        slices = (*carries, *xs, *(of_xs[i] for i in moved))
        found = _Parts(run(forward, (*start, *slices, *shared, *(of_shared[i] for i in turned))))
        last = found.take(len(varied))
        return (
            *_filled([None] * loop.carries, varied, last),
            *_filled([None] * ctx.ys, [i - loop.carries for i in outs], found.take(len(outs))),
            *_filled([None] * loop.carries, varied, found.take(len(varied))),
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], loop: Loop, *operands: Tensor) -> tuple[Any, Any]:
        dims = loop.split(in_dims[1:])
        carry, xs, shared = loop.split(operands)
        size = next(x.shape[dim] for x, dim in zip(operands, in_dims[1:], strict=True) if dim is not None)
        # Every carry is mapped: what a step returns may be, whatever it was given.
        carry = [
            x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(carry, dims[0], strict=True)
        ]
        xs = [x if dim is None else x.movedim(dim, 1) for x, dim in zip(xs, dims[1], strict=True)]
        shared = [x if dim is None else x.movedim(dim, 0) for x, dim in zip(shared, dims[2], strict=True)]
        inner = (*(0 for _ in carry), *(None if dim is None else 0 for dim in (*dims[1], *dims[2])))
        step = torch.vmap(loop.step, in_dims=inner, randomness=info.randomness)
        mapped = replace(loop, step=step)
        out = tuple(_Differentiable.apply(mapped, *carry, *xs, *shared))
        return out, (*(0 for _ in carry), *(1 for _ in out[loop.carries :]))
