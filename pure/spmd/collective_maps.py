"""Collectives as linear maps whose derivatives are their own, in every transform of torch.func.

Code that runs on W ranks maps W values to W values. As a map on all W of them at once, a collective is linear, and its
transpose is a collective again:

    psum      every rank gets the sum                     transpose: psum
    gather    every rank gets all parts, one after another  transpose: scatter (sum, each keeps its own part)
    copy      a value that all ranks hold, one copy a rank  transpose: total
    total     the sum of the copies, a value that all hold  transpose: copy
    mean      the mean of the copies, a value that all hold transpose: spread
    spread    1/W of a value, on every rank                transpose: mean

`enter` and `leave` are `copy` and `mean` for values that are checked to be equal on all ranks. Each is one
`autograd.Function` with `backward`, `jvp` and `vmap`, made of these maps again, so that all transforms nest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pure.errors import DtypeError, UnsupportedError
from pure.spmd.agreement import NOTHING, Alike, connected, meet
from pure.spmd.process_group import Ranks, eager

__all__ = ["Call", "linear"]

BUCKET_BYTES = 2**20
"""Tensors below this size are sent together in one message."""


@dataclass(frozen=True)
class Call:
    """One collective in the program, and in which of its derivatives it runs.

    Attributes:
        ranks: the group.
        where: the caller and its line.
        serial: how many collectives were begun before it.
        order: "" for the collective itself, and a letter for each derivative: "t" transposed, "d" differentiated.
        rows: of `gather`, the length of every rank's part.
        checked: whether values that must be equal on all ranks are compared.
    """

    ranks: Ranks
    where: str
    serial: int
    order: str = ""
    rows: tuple[int, ...] = ()
    checked: bool = True

    @classmethod
    def begun(cls, ranks: Ranks, where: str, *, rows: tuple[int, ...] = (), checked: bool = True) -> Call:
        """Return the next call of the program."""
        ranks.calls += 1
        return cls(ranks, where, ranks.calls, rows=rows, checked=checked)

    def described(self, name: str, tensors: Sequence[Tensor]) -> str:
        """Return the text that must be the same on all ranks."""
        order = "".join({"t": "transpose of ", "d": "derivative of "}[letter] for letter in reversed(self.order))
        sizes = ", ".join(f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors[:4])
        more = f" and {len(tensors) - 4} more, {sum(t.numel() for t in tensors)} numbers" if len(tensors) > 4 else ""
        return f"{order}{self.where} (collective {self.serial}, {name} of {sizes}{more})"

    def transposed(self) -> Call:
        """Return the same call in a backward pass."""
        return replace(self, order=f"{self.order}t")

    def differentiated(self) -> Call:
        """Return the same call on tangents."""
        return replace(self, order=f"{self.order}d")


def _usable(what: str, tensors: Sequence[Tensor]) -> None:
    """Raise for what cannot be sent: recorded, sparse or boolean tensors.

    Raises:
        UnsupportedError: a tensor without values of its own.
        DtypeError: booleans.
    """
    for tensor in tensors:
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            raise UnsupportedError(
                f"{what} of {type(tensor).__name__}: collectives run on plain tensors in eager mode; they can be "
                "neither recorded nor exported nor take a DTensor: use x.to_local(), or export a function without them"
            )
        if tensor.layout != torch.strided:
            raise UnsupportedError(f"{what} of a tensor of layout {tensor.layout}: expected a dense one: x.to_dense()")
        if tensor.dtype == torch.bool:
            raise DtypeError(f"{what} of booleans: convert them, as by x.long()")


def _sent(call: Call, what: str, tensors: Sequence[Tensor], send: Callable[[Tensor], Any]) -> list[Tensor]:
    """Return copies of the tensors on which `send` has worked in place; small ones go in one message."""
    copies = [tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in tensors]
    if call.ranks.size == 1:
        return copies
    together: dict[Any, list[int]] = {}
    for at, tensor in enumerate(copies):
        small = tensor.numel() * tensor.element_size() < BUCKET_BYTES
        together.setdefault((tensor.dtype, tensor.device) if small else at, []).append(at)
    with connected(call.ranks, what):
        for members in together.values():
            flat = torch.cat([copies[at].flatten() for at in members]) if len(members) > 1 else copies[members[0]]
            send(torch.view_as_real(flat) if flat.is_complex() else flat)
            if len(members) > 1:
                for at, part in zip(members, flat.split([copies[at].numel() for at in members]), strict=True):
                    copies[at] = part.view_as(copies[at])
    return copies


def _met(name: str, call: Call, tensors: Sequence[Tensor], fix: str = "") -> str:
    """Return the call's description once all ranks are at it; with a `fix`, once their values agree as well."""
    what = call.described(name, tensors)
    _usable(what, tensors)
    meet(call.ranks, what, alike=_sums(tensors, fix) if fix and call.ranks.size > 1 else NOTHING)
    return what


def _added(name: str, call: Call, tensors: Sequence[Tensor]) -> list[Tensor]:
    what = _met(name, call, tensors)
    return _sent(call, what, tensors, lambda flat: dist.all_reduce(flat, group=call.ranks.group))


def _psum(call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(_added("psum", call, tensors))


def _total(call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(_added("sum", call, tensors))


def _mean(call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(total / call.ranks.size for total in _added("mean", call, tensors))


def _copy(call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.view_as(tensor) for tensor in tensors)


def _spread(call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor / call.ranks.size for tensor in tensors)


def _rounding(dtype: torch.dtype) -> float:
    """Return the relative difference of sums that rounding explains: a quarter of the digits may differ."""
    return float(torch.finfo(dtype).eps) ** 0.75 if dtype.is_floating_point or dtype.is_complex else 0.0


def _sums(tensors: Sequence[Tensor], fix: str) -> Alike:
    """Return what must be equal on all ranks: sums over all values, of which each tensor's has another weight."""
    sums = []
    for at, tensor in enumerate(tensors, 1):
        wide = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).detach().double()
        finite = torch.isfinite(wide)
        kept = torch.where(finite, wide, 0.0).clamp(-1e300, 1e300) * at
        sums.append(torch.stack([kept.sum(), kept.abs().sum(), (~finite).sum() * at]))
    total = torch.stack([each.cpu() for each in sums]).sum(0).clamp(-1e308, 1e308)
    value, magnitude, strange = total.tolist()
    return Alike(value, magnitude, strange, max(_rounding(tensor.dtype) for tensor in tensors), fix)


def _enter(call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return copies of what all ranks were given alike."""
    if call.checked and call.ranks.size > 1:
        fix = "draw it from one seed or broadcast it, or name its position in sharded="
        _met("a value that all ranks share", call, tensors, fix)
    return _copy(call, *tensors)


def _leave(call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return rank 0's copies, bit for bit, of what all ranks have computed alike."""
    fix = "a psum is missing, or it is out='sum' or out='sharded'" if call.checked else ""
    what = _met("a value that all ranks share", call, tensors, fix)
    source = dist.get_global_rank(call.ranks.group, 0) if call.ranks.size > 1 else 0
    return tuple(_sent(call, what, tensors, lambda flat: dist.broadcast(flat, source, group=call.ranks.group)))


def _gather(call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return every rank's rows of one tensor (n_r, …), one rank after another: (Σ n_r, …)."""
    (own,) = tensors
    longest, rest = max(call.rows), own.shape[1:]
    padded = own.detach().new_zeros(longest, *rest)
    padded[: own.shape[0]] = own.detach()
    what = _met("gather", call, (padded,))
    if call.ranks.size == 1:
        return (padded,)
    parts = [torch.empty_like(padded) for _ in call.rows]
    with connected(call.ranks, what):
        if padded.is_complex():
            dist.all_gather([torch.view_as_real(p) for p in parts], torch.view_as_real(padded), group=call.ranks.group)
        else:
            dist.all_gather(parts, padded, group=call.ranks.group)
    return (torch.cat([part[:rows] for part, rows in zip(parts, call.rows, strict=True)]),)


def _scatter(call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return this rank's rows of the sum over ranks."""
    (total,) = _added("gather", call, tensors)
    start = sum(call.rows[: call.ranks.rank])
    return (total[start : start + call.rows[call.ranks.rank]].clone(),)


_RULES: dict[str, tuple[Callable[..., tuple[Tensor, ...]], str, str]] = {
    "psum": (_psum, "psum", "psum"),
    "enter": (_enter, "copy", "total"),
    "copy": (_copy, "copy", "total"),
    "total": (_total, "total", "copy"),
    "leave": (_leave, "mean", "spread"),
    "mean": (_mean, "mean", "spread"),
    "spread": (_spread, "spread", "mean"),
    "gather": (_gather, "gather", "scatter"),
    "scatter": (_scatter, "scatter", "gather"),
}
"""Name → the map, the name of its derivative, the name of its transpose."""

ALONG_ROWS = frozenset({"gather", "scatter"})
"""Maps along axis 0, where a mapped axis must come after it."""


def _function(name: str) -> Any:
    """Return the `autograd.Function` of a linear map; it takes a `Call` and tensors."""
    run, derivative, transpose = _RULES[name]

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.call = inputs[0]

    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        return (None, *linear(transpose, ctx.call.transposed(), *cotangents))

    def jvp(ctx: Any, _: None, *tangents: Tensor) -> tuple[Tensor, ...]:
        return linear(derivative, ctx.call.differentiated(), *tangents)

    def vmap(info: Any, in_dims: tuple[int | None, ...], call: Call, *tensors: Tensor) -> tuple[Any, Any]:
        dims = in_dims[1:]
        if name in ALONG_ROWS:
            tensors = tuple(t if d is None else t.movedim(d, 1) for t, d in zip(tensors, dims, strict=True))
            dims = tuple(None if d is None else 1 for d in dims)
        return linear(name, call, *tensors), dims

    rules: dict[str, Callable[..., Any]] = {
        "forward": run,
        "setup_context": setup_context,
        "backward": backward,
        "jvp": jvp,
        "vmap": vmap,
    }
    methods: dict[str, Any] = {key: staticmethod(rule) for key, rule in rules.items()}
    return type(name, (torch.autograd.Function,), methods)


_FUNCTIONS = {name: _function(name) for name in _RULES}


@eager
def linear(name: str, call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the map of this name of the tensors, all ranks' at once."""
    found: tuple[Tensor, ...] = _FUNCTIONS[name].apply(call, *tensors)
    return found
