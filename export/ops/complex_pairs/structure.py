"""Operators that treat both parts of a complex tensor alike: views, joins, sums, and new tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from export.ops.complex_pairs.pair import REAL_DTYPES, Pair, imaginary, pair_of, real

__all__ = ["FACTORIES", "PARTWISE", "made", "moved", "partwise"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


PARTWISE: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(
        _names(
            """
            _reshape_alias _unsafe_index _unsafe_view alias clone contiguous cumsum detach diagonal expand flip
            gather index index_select lift_fresh lift_fresh_copy mean narrow neg permute repeat reshape roll
            select select_backward slice slice_backward split split_with_sizes squeeze sum t transpose tril
            triu unbind unfold unsqueeze view _neg_view diagonal_backward as_strided movedim flatten unflatten
            constant_pad_nd nansum broadcast_to new_empty_strided trace unsafe_split
            """
        ),
        (0,),
    ),
    **dict.fromkeys(["copy", "slice_scatter", "select_scatter", "diagonal_scatter", "as_strided_scatter"], (0, 1)),
    "cat": (0,),
    "stack": (0,),
    "where": (1, 2),
    "masked_fill": (0, 2),
    "index_put": (0, 2),
    "_unsafe_index_put": (0, 2),
    "scatter": (0, 3),
    "scatter_add": (0, 3),
    "index_add": (0, 3),
    "index_copy": (0, 3),
}
"""{operator: positions of the arguments with values; the others are sizes, axes, positions and conditions}."""

FACTORIES = _names(
    """
    zeros ones full empty zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty
    scalar_tensor _efficientzerotensor empty_strided empty_permuted _new_zeros_with_same_feature_meta eye
    """
)
"""Operators that make tensors."""


def _parts(value: Any, part: Callable[[Any], Any]) -> Any:
    return [part(item) for item in value] if isinstance(value, (list, tuple)) else part(value)


def partwise(target: Any, positions: tuple[int, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call an operator on the real parts, then on the imaginary parts."""
    kwargs = {key: REAL_DTYPES.get(value, value) if key == "dtype" else value for key, value in kwargs.items()}
    results = []
    for part in (real, imaginary):
        given = [_parts(arg, part) if i in positions else arg for i, arg in enumerate(args)]
        if target is torch.ops.aten.constant_pad_nd.default and part is imaginary and len(given) > 2:
            given[2] = imaginary(args[2])
        results.append(target(*given, **kwargs))
    if isinstance(results[0], (list, tuple)):
        return type(results[0])(Pair(re, im) for re, im in zip(*results, strict=True))
    alone = isinstance(args[0], Pair) and args[0].is_real and positions == (0,)
    return Pair(results[0], results[1], is_real=alone)


def made(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Pair:
    """Make a complex tensor of numbers."""
    wanted = kwargs.get("dtype")
    kwargs = {**kwargs, "dtype": REAL_DTYPES[wanted]} if wanted is not None else kwargs
    numbers = [item for item in args if isinstance(item, complex)]
    re: Tensor = target(*map(real, args), **kwargs)
    return Pair(re, torch.full_like(re, numbers[0].imag)) if numbers else pair_of(re)


def moved(value: Any, wanted: torch.dtype | None) -> Any:
    """Cast between real and complex dtypes; a real dtype keeps the real part."""
    if wanted is not None and wanted not in REAL_DTYPES:
        return real(value).to(wanted)
    dtype = real(value).dtype if wanted is None else REAL_DTYPES[wanted]
    if not isinstance(value, Pair):
        return pair_of(value.to(dtype))
    return Pair(value.re.to(dtype), value.im.to(dtype), value.is_real)
