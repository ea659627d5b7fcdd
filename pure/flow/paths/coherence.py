"""Coherence of paths of one length: whether they add up or cancel, estimated with random signs on the branches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pure.block import EMPTY, Block, Params, State
from pure.errors import ArgumentError
from pure.flow.paths.branch_counting import Count, Counting, routes
from pure.flow.paths.graded_tangents import MAX_PLAIN_EXPONENT, start
from pure.flow.paths.path_split import cut_block
from pure.flow.paths.segments import push
from pure.flow.shared.block_call import block_first
from pure.flow.shared.estimate import half_width
from pure.flow.shared.result import Readings
from pure.flow.shared.text_table import table
from pure.initializers import check_generator

__all__ = ["PathCoherence", "path_coherence"]

MAX_STACK_VALUES = 2**23
"""Values that the tangents of one group of samples may hold, approximately."""


@dataclass(frozen=True, eq=False)
class PathCoherence(Readings[int, float]):
    """Energy of the paths of each length. As a mapping: {branches passed: coherence}.

    Energies are to be multiplied by 4^`exponent`, which is 0 unless norms leave 2^±500. All tensors are float64.

    Attributes:
        energies: (K + 1,), Σ_|S|=k ‖P_S v‖², the mean over the samples.
        low: (K + 1,), lower ends of their 95% intervals.
        high: (K + 1,), upper ends.
        squared_norms: (K + 1,), ‖J_k v‖², exact.
        coherence: (K + 1,), squared norm over energy: 1 where paths are orthogonal on average, above where they add up,
            0 where they cancel, at most the number of paths.
        coherence_low: (K + 1,), lower ends of its 95% intervals.
        coherence_high: (K + 1,), upper ends; infinite where the energy's interval reaches 0.
        paths: how many paths pass through k branches.
        samples: how many draws of signs.
        exponent: see above.
    """

    energies: Tensor
    low: Tensor
    high: Tensor
    squared_norms: Tensor
    coherence: Tensor
    coherence_low: Tensor
    coherence_high: Tensor
    paths: tuple[int, ...]
    samples: int
    exponent: int

    @cached_property
    def _readings(self) -> Mapping[int, float]:
        return dict(enumerate(self.coherence.tolist()))

    def __repr__(self) -> str:
        return f"PathCoherence(orders 0 to {len(self) - 1}, {self.samples} samples)"

    def table(self) -> str:
        """Return a plain text table of energy, squared norm and coherence with its interval."""
        columns = (self.energies, self.squared_norms, self.coherence, self.coherence_low, self.coherence_high)
        rows = [[str(k), *values] for k, values in enumerate(zip(*(c.tolist() for c in columns), strict=True))]
        return table(["branches", "energy", "squared l2", "coherence", "95% low", "95% high"], rows)


@block_first
@torch.inference_mode(False)
def path_coherence(
    block: Block | Callable[..., Any],
    params: Params,
    x: Tensor,
    v: Tensor,
    state: State = EMPTY,
    extras: Mapping[str, Any] = EMPTY,
    *,
    orders: int | None = None,
    count: Count = "outermost",
    generator: torch.Generator,
    samples: int = 64,
    dtype: torch.dtype | None = None,
) -> PathCoherence:
    """Return how the paths of each length add up: ‖J_k v‖² against Σ_|S|=k ‖P_S v‖², S the sets of k branches.

    P_S v passed through exactly the branches of S. With an independent random sign on every branch,
    E‖J_k(signs) v‖² is that sum, since the products of signs of different sets are uncorrelated. The intervals are
    Student's t over the samples; the energies of long paths have heavy tails, so take more samples for them.

    Args:
        block: see `path_spectrum`, as all that is not named here.
        params: its parameters.
        x: where to differentiate.
        v: a tangent of x's shape.
        state: of the block.
        extras: what the network may read.
        orders: the highest K.
        count: of branches inside branches.
        generator: draws the signs, on the CPU.
        samples: how many draws, at least 2.
        dtype: what to compute in.

    Raises:
        ArgumentError: no generator, fewer than 2 samples, or what `path_spectrum` refuses.

    Example:
        >>> from pure import nets
        >>> net = nets.residual_mlp(16, 16, depth=4)
        >>> params, _ = net.init(torch.Generator().manual_seed(0))
        >>> x, v = torch.ones(1, 16), torch.ones(1, 16)
        >>> found = path_coherence(net, params, x, v, generator=torch.Generator().manual_seed(0))
        >>> found, round(found[0], 6), bool(found.low[1] < found.energies[1] < found.high[1])
        (PathCoherence(orders 0 to 4, 64 samples), 1.0, True)
    """
    check_generator(generator)
    if not isinstance(samples, int) or samples < 2:
        raise ArgumentError(f"path_coherence samples={samples!r}: expected a whole number, at least 2")
    parts = cut_block("path_coherence", block, params, x, v, state, extras, orders, dtype)
    ways = routes(parts, "path_coherence", count, orders)
    length = len(ways.paths)
    tangent = v.detach().to(parts.cuts[0].value.dtype)
    signs = 1 - 2 * torch.randint(0, 2, (samples, len(ways.labels)), generator=generator)
    signs = torch.cat([torch.ones_like(signs[:1]), signs]).to(x.device)  # the first group is J itself
    group_size = max(1, MAX_STACK_VALUES // (length * max(cut.value.numel() for cut in parts.cuts)))
    logs = []
    for some in signs.split(group_size):
        stack = push(parts, start(tangent, length - 1, len(some), whole=False), Counting(ways, signs=some))
        logs.append(stack.bounds()[0].unflatten(0, (len(some), length)))
    exact, drawn = torch.cat(logs).tensor_split([1])
    largest = drawn.amax(0).nan_to_num(neginf=0.0)  # by order, so that nothing overflows
    relative = torch.exp2(2 * (drawn - largest))
    mean, half = relative.mean(0), half_width(relative)
    squared = torch.exp2(2 * (exact[0] - largest))
    top = float(largest.max())
    exponent = round(top) if abs(top) > MAX_PLAIN_EXPONENT else 0
    back = torch.exp2(2 * (largest - exponent))
    low = (mean - half).clamp_min(0)
    return PathCoherence(
        energies=mean * back,
        low=low * back,
        high=(mean + half) * back,
        squared_norms=squared * back,
        coherence=squared / mean,
        coherence_low=squared / (mean + half),
        coherence_high=squared / low,
        paths=ways.paths,
        samples=samples,
        exponent=exponent,
    )
