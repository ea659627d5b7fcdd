"""Picks by value (topk, argmax) that rounding leaves open: the reference takes those of the file, or of eager."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch import Tensor

from export.verdict.decisions import FEW_FOLLOWED, FOLLOWED_SHARE, PICKS, positions_of
from export.verdict.judged_file import JudgedFile
from export.verdict.reference_runs import replayed_results
from export.verdict.sampled import Scales

__all__ = ["followed"]


def followed(
    file: JudgedFile, scales: Scales, leaves: Sequence[Tensor], forced: Mapping[str, bool] | None
) -> tuple[Scales, Scales] | None:
    """Return scales along the positions that the file picks where rounding leaves that open, and eager's along its.

    None where nothing is picked, or the file does not say what it picks. If the file picks otherwise than float64 and
    than eager more often than rounding explains, its scales say so.

    Args:
        file: the file and the function.
        scales: the decisions on these inputs.
        leaves: the inputs.
        forced: which branches conditions take.
    """
    graph = file.graph(leaves)
    kinds = {key: decision.op for key, decision in scales.decisions.items() if decision.open}
    keys = [key for key, kind in kinds.items() if kind in PICKS]
    if graph is None or not keys:
        return None
    own = file.picked_positions(keys, leaves)
    if not own:
        return None
    results = replayed_results(graph, leaves, own)
    found = {key: positions_of(kinds[key], result) for key, result in results.items()}
    eager = {key: positions for key, positions in found.items() if positions is not None}
    along, beside = file.scales(leaves, forced, follow=own), file.scales(leaves, forced, follow=eager)
    if all(_alike(positions, eager.get(key)) for key, positions in own.items()):  # eager moves the same
        along = dataclasses.replace(along, followed_too_often="")
    return along, beside


def _alike(positions: Tensor, eager: Tensor | None) -> bool:
    """Tell whether the file picks as eager does, but for a few."""
    if eager is None or positions.shape != eager.shape:
        return False
    count = int((positions.to(eager.dtype) != eager).sum())
    return count <= max(FEW_FOLLOWED, FOLLOWED_SHARE * positions.numel())
