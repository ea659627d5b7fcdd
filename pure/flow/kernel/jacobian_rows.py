"""A Jacobian w.r.t. the parameters, a row for each sample and output: as factors for linear maps, formed otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError, PureError, ShapeError, UnsupportedError
from pure.flow.kernel.jacobian_gram import Factors, gram, outer_gram
from pure.flow.kernel.sensitivity import LinearMap, SensitivityRecorder
from pure.flow.shared.input_checks import explained
from pure.flow.shared.leaf_provenance import Origin

__all__ = ["Rows", "Tangents"]

OUTPUTS_A_PASS = 32


@dataclass(frozen=True, eq=False)
class Tangents:
    """Jacobians of some samples, leaf by leaf.

    Attributes:
        factors: (leaf, factors) for each weight, or slice of one, of linear maps.
        formed: (leaf, (outputs, samples, values)) for biases and everything else.
    """

    factors: list[tuple[str, Factors]]
    formed: list[tuple[str, Tensor]]

    def products(self, other: Tangents, full: bool) -> Iterator[tuple[str, Tensor]]:
        """Give (leaf, its part of the kernel); a leaf may come several times."""
        for (name, left), (_, right) in zip(self.factors, other.factors, strict=True):
            yield name, outer_gram(left, right, full)
        for (name, j1), (_, j2) in zip(self.formed, other.formed, strict=True):
            yield name, gram(j1, j2, full)


class Rows:
    """A function of one sample and its parameters, ready to be differentiated.

    Args:
        fn: `fn(params, x)`, batch axis first.
        leaves: the parameters by dotted name, detached.
        spec: their structure.
        x: a batch, of which the first sample is tried.
        structured: False to form every Jacobian.

    Attributes:
        outputs: how many there are for one sample.
        methods: {leaf: "structured", "materialised" or "unused"}.
        bytes_each: memory for one sample's tangents.
    """

    def __init__(
        self, fn: Callable[..., Any], leaves: Mapping[str, Tensor], spec: Any, x: tree.Tree, structured: bool
    ) -> None:
        self._fn, self._leaves, self._spec = fn, leaves, spec
        self._try(tree.tree_map(lambda leaf: leaf.detach()[:1], x), structured)

    def _try(self, x: tree.Tree, structured: bool) -> None:
        """Run one sample to learn which leaves are weights and biases of linear maps and nothing else."""
        tried = {name: leaf.detach().requires_grad_() for name, leaf in self._leaves.items()}
        y, _, uses = self._mapped(tried if structured else {}, (), tried, {}, x)
        slopes: Sequence[Tensor | None] = [None] * len(tried)
        if y.requires_grad:
            slopes = torch.autograd.grad(y.sum(), list(tried.values()), allow_unused=True)
        outside = {name for name, slope in zip(tried, slopes, strict=True) if slope is not None}
        outside |= _tangled(uses)
        outside |= {use.bias.name for use in uses if use.bias is not None and use.weight.name in outside}
        self._uses = [use for use in uses if use.weight.name not in outside]
        seen = {origin.name for use in uses for origin in (use.weight, use.bias) if origin is not None}
        self._kept = {name: leaf for name, leaf in self._leaves.items() if name in seen and name not in outside}
        self._formed = [name for name in self._leaves if name in outside]
        self.methods = {
            name: "structured" if name in self._kept else "materialised" if name in outside else "unused"
            for name in self._leaves
        }
        self.outputs = y.shape[1]
        values = sum(self._leaves[name].numel() for name in self._formed) + sum(use.shape.numel() for use in uses)
        self.bytes_each = self.outputs * values * y.element_size()

    def _mapped(
        self,
        followed: Mapping[str, Tensor],
        shifts: Sequence[Tensor],
        shared: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        x: tree.Tree,
    ) -> tuple[Tensor, list[Tensor], list[LinearMap]]:
        """Return outputs (samples, outputs), the inputs of the linear maps, and the maps themselves.

        Args:
            followed: the leaves whose linear maps are kept.
            shifts: (samples, …) for each linear map, or none.
            shared: leaves that all samples share.
            own: leaves of which each sample has its own copy, (samples, …).
            x: the samples.
        """
        found: list[LinearMap] = []

        def one(shifts: tuple[Tensor, ...], own: dict[str, Tensor], x: tree.Tree) -> tuple[Tensor, list[Tensor]]:
            leaves = [own[name] if name in own else shared[name] for name in self._leaves]
            given = tree.tree_map(lambda leaf: leaf[None], x)
            with SensitivityRecorder(followed, shifts or None) as maps:
                y = self._fn(tree.tree_unflatten(leaves, self._spec), given)
            found.extend(maps.found)
            return _row(y), maps.inputs

        try:
            with torch.enable_grad():
                y, inputs = torch.func.vmap(one)(tuple(shifts), dict(own), x)
        except (RuntimeError, PureError) as error:
            raise explained(error) from error
        if not torch.isfinite(y.detach()).all():
            raise UnsupportedError("the function returns NaN or infinity: look for NaN in x, or activations overflow")
        return y, inputs, found

    def run(self, x: tree.Tree) -> Tangents:
        """Return the Jacobians of all samples in `x`."""
        size = len(tree.leaves(x)[0])
        own = {}
        for name in self._formed:
            leaf = self._leaves[name]
            own[name] = leaf.expand(size, *leaf.shape).clone().requires_grad_()
        shifts = [
            torch.zeros(size, *use.shape, dtype=use.dtype, device=use.device, requires_grad=True) for use in self._uses
        ]
        y, inputs, uses = self._mapped(self._kept, shifts, self._leaves, own, x)
        slopes = _slopes(y, [*shifts, *own.values()])
        weights: dict[Origin, list[tuple[Tensor, Tensor]]] = {}
        formed: dict[Origin, Tensor] = {}
        for use, a, s in zip(uses, inputs, slopes, strict=False):
            sensitivities, bias = use.slopes(s), use.bias
            weights.setdefault(use.weight, []).append((use.inputs(a), sensitivities))
            if bias is not None:
                total = sensitivities.sum(2).flatten(2)
                formed[bias] = formed[bias] + total if bias in formed else total
        for name, slope in zip(own, slopes[len(shifts) :], strict=True):
            formed[Origin(name)] = slope.flatten(2)
        factors = [
            (origin.name, Factors(torch.cat([a for a, _ in pairs], 1), torch.cat([s for _, s in pairs], 2)))
            for origin, pairs in weights.items()
        ]
        return Tangents(factors, [(origin.name, rows) for origin, rows in formed.items()])


def _row(y: Any) -> Tensor:
    """Return one sample's outputs as a vector."""
    if not isinstance(y, Tensor):
        raise ArgumentError(f"the function returned {type(y).__name__}: expected one tensor, batch on axis 0")
    if y.ndim == 0 or y.shape[0] != 1:
        raise ShapeError(f"the function returned {tuple(y.shape)} for one sample: expected the batch on axis 0, (1, …)")
    return y.reshape(-1)


def _slopes(y: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Return ∂y/∂leaf for each sample: (outputs, samples, *shape of one sample's leaf), for every leaf."""
    samples, outputs = y.shape
    if not (leaves and y.requires_grad):
        return [leaf.new_zeros(outputs, *leaf.shape) for leaf in leaves]
    parts = []
    for chosen in torch.eye(outputs, dtype=y.dtype, device=y.device).split(OUTPUTS_A_PASS):
        seeds = chosen[:, None, :].expand(-1, samples, -1)
        found = torch.autograd.grad(y, leaves, seeds, retain_graph=True, allow_unused=True, is_grads_batched=True)
        parts.append(
            [leaf.new_zeros(len(seeds), *leaf.shape) if g is None else g for g, leaf in zip(found, leaves, strict=True)]
        )
    return [torch.cat(pieces) for pieces in zip(*parts, strict=True)]


def _tangled(uses: Sequence[LinearMap]) -> set[str]:
    """Return the leaves whose uses share values in a way that factors do not show."""
    found: set[str] = set()
    paths: dict[str, set[tuple[int, ...]]] = {}
    ways: dict[Origin, tuple[int, int]] = {}
    weights = {use.weight.name for use in uses}
    for use in uses:
        for origin in (use.weight, use.bias):
            if origin is not None:
                paths.setdefault(origin.name, set()).add(origin.path)
        if ways.setdefault(use.weight, (use.dims, use.groups)) != (use.dims, use.groups):
            found.add(use.weight.name)
        if use.bias is not None and use.bias.name in weights:
            found.add(use.bias.name)
    for name, cuts in paths.items():
        if any(path[:end] in cuts for path in cuts for end in range(len(path))):
            found.add(name)
    return found
