"""Averaged squared partial Jacobian norms between all pairs of depths of a block's stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from pure.block import EMPTY, Block, Params, State
from pure.errors import ArgumentError, UnsupportedError
from pure.flow.jacobian.partial_norms import Method, PartialJacobians
from pure.flow.shared.block_call import block_first
from pure.flow.shared.estimate import half_width
from pure.flow.shared.input_checks import purely
from pure.tags import observe

__all__ = ["PartialJacobians", "partial_jacobians"]

MAX_EXACT_WIDTH = 512
"""The width up to which every output direction is run."""


@block_first
def partial_jacobians(
    block: Block | Callable[..., Any],
    params: Params,
    x: Tensor,
    state: State = EMPTY,
    extras: Mapping[str, Any] = EMPTY,
    *,
    method: Method | Literal["auto"] = "auto",
    probes: int = 32,
    generator: torch.Generator | None = None,
    chunk_size: int = 64,
    budget_mib: float = 512.0,
) -> PartialJacobians:
    """Return ‖∂h_t/∂h_s‖²_F / n_t between all depths of the stream: the input, and what is tagged as kind "stream".

    Exact up to width 512: every output direction runs backward, a chunk at a time by vmap. Where each stream depends
    on earlier ones through the one before alone, which a random direction tells, the Jacobians of single blocks are
    formed and multiplied; else there is a backward sweep from every depth, which reaches all depths below it. Wider
    streams take Hutchinson's estimate: random directions on a sphere, and an interval over them.

    Args:
        block: any block in evaluation, or a function `block(params, x, state, extras)` that tags; samples on axis 0 do
            not see each other.
        params: its parameters.
        x: (batch, …), the input.
        state: its state.
        extras: what it reads beside.
        method: "auto", "product", "sweep" or "hutchinson".
        probes: random directions for each depth and sample, at least 2.
        generator: for them; "hutchinson" must have one.
        chunk_size: directions run together.
        budget_mib: for the Jacobians of single blocks, in MiB; more of them take the sweep.

    Raises:
        ArgumentError: an unknown method, no generator for "hutchinson", or an x that is no floating-point tensor.
        UnsupportedError: nothing is tagged as stream, values that are not finite, or "product" where the streams are no
            chain.

    Source: Doshi, He and Gromov 2021 (2111.12143), the averaged partial Jacobian norm.

    Example:
        >>> from pure import Linear, Repeat, Residual
        >>> net = Repeat(Residual(Linear(3, 3, bias=False)), 2)
        >>> params = {"branch": {"weight": torch.eye(3).expand(2, 3, 3)}}
        >>> found = partial_jacobians(net, params, torch.ones(1, 3))
        >>> found.paths, found.to_last
        (['input', '0.stream', '1.stream'], tensor([16.,  4.,  1.], dtype=torch.float64))
    """
    if method not in ("auto", "product", "sweep", "hutchinson"):
        raise ArgumentError(f"method={method!r}: expected 'auto', 'product', 'sweep' or 'hutchinson'")
    if probes < 2 or chunk_size < 1:
        raise ArgumentError(f"probes={probes}, chunk_size={chunk_size}: expected at least 2 and at least 1")
    streams, paths = _streams(block, params, x, state, extras)
    widths = [stream[0].numel() for stream in streams]
    chosen = _method(streams, widths, budget_mib) if method == "auto" else method
    if method == "product" and not _chain(streams):
        raise UnsupportedError("method='product': a stream depends on an earlier one other than through the one before")
    if chosen == "hutchinson":
        if generator is None:
            raise ArgumentError(
                f"streams of width {max(widths)} need random directions: give generator=torch.Generator()"
            )
        per_sample, half = _hutchinson(streams, probes, generator, chunk_size)
    else:
        per_sample = _product(streams, chunk_size) if chosen == "product" else _sweep(streams, chunk_size)
        half = torch.zeros(per_sample.shape[:2], dtype=torch.float64, device=per_sample.device)
    values = per_sample.mean(2)
    upper = torch.ones_like(values, dtype=torch.bool).triu()
    if not torch.isfinite(values[upper]).all():
        raise UnsupportedError("a partial Jacobian is not finite: an infinite derivative, or beyond the dtype's range")
    low, high = (values - half).clamp_min(0), values + half
    return PartialJacobians(paths, values, low, high, per_sample, widths, chosen)


def _method(streams: Sequence[Tensor], widths: Sequence[int], budget_mib: float) -> Method:
    if max(widths) > MAX_EXACT_WIDTH:
        return "hutchinson"
    bytes_ = sum(a * b for a, b in pairwise(widths)) * len(streams[0]) * 8
    fits = bytes_ <= budget_mib * 2**20
    return "product" if fits and len(streams) > 2 and _chain(streams) else "sweep"


def _streams(
    block: Block | Callable[..., Any], params: Params, x: Tensor, state: State, extras: Mapping[str, Any]
) -> tuple[list[Tensor], list[str]]:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or len(x) == 0:
        given = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ArgumentError(f"x is {given}: expected a floating-point tensor with the batch on axis 0")
    if not torch.isfinite(x).all():
        raise UnsupportedError("x holds NaN or infinity: there is no Jacobian at such a point")
    source = x.detach().clone().requires_grad_()
    with torch.enable_grad(), purely("partial_jacobians", params=params, state=state):
        _, seen = observe(block, "stream")(params, source * 1, state, extras)
    streams, paths = [source], ["input"]
    for tagged in seen:
        value = tagged.value
        if isinstance(value, Tensor) and value.requires_grad and len(value) == len(x) and value is not streams[-1]:
            if not torch.isfinite(value.detach()).all():
                raise UnsupportedError(f"the stream {tagged.path!r} holds NaN or infinity")
            streams.append(value)
            paths.append(tagged.path)
    if len(streams) == 1:
        raise UnsupportedError(
            "nothing of kind 'stream' is tagged: use Residual or another skip, or put pure.Tag between the layers"
        )
    return streams, paths


def _pull(target: Tensor, sources: Sequence[Tensor], directions: Tensor) -> list[Tensor]:
    """Return uᵀ∂target/∂source for many u: (directions, batch, values) for each source, in float64."""
    if target.grad_fn is None:  # the input itself
        return [directions.flatten(2).double() for _ in sources]
    found = torch.autograd.grad(
        target, sources, directions, retain_graph=True, is_grads_batched=True, allow_unused=True
    )
    return [
        (torch.zeros(len(directions), *source.shape, device=source.device) if g is None else g).flatten(2).double()
        for g, source in zip(found, sources, strict=True)
    ]


def _one_hot(target: Tensor, start: int, stop: int) -> Tensor:
    """Return the directions start … stop − 1, the same for every sample."""
    width = target[0].numel()
    rows = torch.eye(width, dtype=target.dtype, device=target.device)[start:stop]
    return rows.reshape(-1, 1, *target.shape[1:]).expand(-1, *target.shape)


def _sphere(target: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return random directions of length √n, other ones for every sample."""
    drawn = torch.randn((count, *target.shape), generator=generator, dtype=torch.float64, device=generator.device)
    flat = drawn.flatten(2)
    unit = flat / torch.linalg.vector_norm(flat, dim=2, keepdim=True) * math.sqrt(flat.shape[2])
    return unit.reshape(drawn.shape).to(target)


def _empty(streams: Sequence[Tensor]) -> Tensor:
    depths = len(streams)
    out = torch.full((depths, depths, len(streams[0])), math.nan, dtype=torch.float64, device=streams[0].device)
    out[range(depths), range(depths)] = 1.0
    return out


def _sweep(streams: Sequence[Tensor], chunk_size: int) -> Tensor:
    out = _empty(streams)
    for t, target in enumerate(streams):
        width = target[0].numel()
        for start in range(0, width if t else 0, chunk_size):
            rows = _pull(target, streams[:t], _one_hot(target, start, start + chunk_size))
            part = torch.stack([row.square().sum((0, 2)) for row in rows]) / width
            out[:t, t] = part if start == 0 else out[:t, t] + part
    return out


def _product(streams: Sequence[Tensor], chunk_size: int) -> Tensor:
    """Form the Jacobian of every block and multiply them, backward from each depth."""
    steps = []
    for source, target in pairwise(streams):
        width = target[0].numel()
        parts = [
            _pull(target, [source], _one_hot(target, start, start + chunk_size))[0]
            for start in range(0, width, chunk_size)
        ]
        steps.append(torch.cat(parts).transpose(0, 1))
    out = _empty(streams)
    for t in range(1, len(streams)):
        total = steps[t - 1]
        out[t - 1, t] = total.square().sum((1, 2)) / total.shape[1]
        for s in reversed(range(t - 1)):
            total = total @ steps[s]
            out[s, t] = total.square().sum((1, 2)) / total.shape[1]
    return out


def _hutchinson(
    streams: Sequence[Tensor], probes: int, generator: torch.Generator, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """Return the estimates and half the width of their interval, for the mean over the batch."""
    out = _empty(streams)
    half = torch.zeros(out.shape[:2], dtype=torch.float64, device=out.device)
    for t, target in enumerate(streams[1:], start=1):
        found = []
        for start in range(0, probes, chunk_size):
            directions = _sphere(target, min(chunk_size, probes - start), generator)
            found.append(torch.stack([row.square().sum(2) for row in _pull(target, streams[:t], directions)], 1))
        squares = torch.cat(found) / target[0].numel()
        out[:t, t] = squares.mean(0)
        half[:t, t] = half_width(squares.mean(2))
    return out, half


def _chain(streams: Sequence[Tensor]) -> bool:
    """Return whether a random direction pulled back block by block arrives everywhere as it does in one sweep."""
    target = streams[-1]
    direction = _sphere(target, 1, torch.Generator().manual_seed(0))
    whole = _pull(target, streams[:-1], direction)
    epsilon = torch.finfo(target.dtype).eps
    for s in reversed(range(len(streams) - 1)):
        found = _pull(streams[s + 1], [streams[s]], direction)[0]
        if (found - whole[s]).abs().max() > 1e3 * epsilon * whole[s].abs().max():
            return False
        direction = found.to(streams[s]).reshape(1, *streams[s].shape)
    return True
