"""The curvature of a loss: extreme eigenvalues, trace, and spectral density of its Hessian or Gauss–Newton matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError
from pure.flow.hessian.hessian_products import Product, ggn_product, hvp
from pure.flow.linalg import lanczos
from pure.flow.linalg.operator_products import products
from pure.flow.linalg.quadrature import Density, Quadrature
from pure.flow.shared.estimate import Estimate, estimate
from pure.flow.shared.leaf_provenance import by_prefix
from pure.flow.shared.over_ranks import Reduction, over_ranks
from pure.flow.shared.result import Readings
from pure.flow.shared.text_table import table
from pure.spmd.process_group import Group

__all__ = ["Curvature", "curvature"]

Kind = Literal["hessian", "ggn"]
MAX_DENSE_PARAMETERS = 512
"""Up to this many parameters the whole matrix is formed by default."""


@dataclass(frozen=True, eq=False)
class Curvature(Readings[str, Estimate]):
    """What was found. As a mapping: {dotted leaf: trace of its diagonal block}.

    Attributes:
        kind: "hessian" or "ggn".
        size: number of parameters.
        loss: the loss itself.
        eigenvalues: float64; all of them, largest first, where the matrix was formed; else the k of largest magnitude.
        residuals: ‖Av − λv‖ for each; an eigenvalue lies within this distance of each value.
        converged: for each, whether the residual is below the tolerance.
        trace: with its 95% interval; exact where the matrix was formed.
        leaves: {dotted leaf: trace of its diagonal block}.
        blocks: {dotted prefix: trace of the diagonal block of all leaves below it}; "" is the whole network.
        quadrature: nodes and weights of the spectral density for each probe; None if it was not asked for.
        exact: whether the whole matrix was formed.
    """

    kind: Kind
    size: int
    loss: float
    eigenvalues: Tensor
    residuals: Tensor
    converged: Tensor
    trace: Estimate
    leaves: dict[str, Estimate]
    blocks: dict[str, Estimate]
    quadrature: Quadrature | None
    exact: bool

    @property
    def _readings(self) -> Mapping[str, Estimate]:
        return self.leaves

    def __repr__(self) -> str:
        top = f", top eigenvalue {float(self.eigenvalues[0]):.4g}" if len(self.eigenvalues) else ""
        return f"Curvature({self.kind} of {self.size} parameters{top}, trace {self.trace})"

    def density(self, grid: Tensor | None = None, width: float | None = None) -> Density:
        """Return the density of the eigenvalues, smeared by a Gaussian; it integrates to 1.

        Args:
            grid: where; by default 400 points over the range of the spectrum.
            width: standard deviation of the Gaussian; by default 1% of the range.

        Raises:
            ArgumentError: the density was not asked for, or the width is not positive.
        """
        if self.quadrature is None:
            raise ArgumentError("density of a result without it: ask for density_probes of at least 2")
        seen = self.quadrature.nodes[self.quadrature.weights > 0]
        low, high = float(seen.min()), float(seen.max())
        spread = (high - low) or abs(high) or 1.0
        width = 0.01 * spread if width is None else width
        if grid is None:
            grid = torch.linspace(low - 4 * width, high + 4 * width, 400, dtype=torch.float64)
        return self.quadrature.density(grid, width)

    def table(self, of: Literal["eigenvalues", "leaves", "blocks"] = "eigenvalues") -> str:
        """Return a plain text table.

        Args:
            of: "eigenvalues" with their residuals, or the traces of "leaves" or "blocks" with their intervals.

        Raises:
            ArgumentError: another `of`.
        """
        if of == "eigenvalues":
            found = zip(self.eigenvalues.tolist(), self.residuals.tolist(), self.converged.tolist(), strict=True)
            rows = [[str(at), value, residual, "yes" if ok else "no"] for at, (value, residual, ok) in enumerate(found)]
            return table(["", "eigenvalue", "residual", "converged"], rows)
        if of not in ("leaves", "blocks"):
            raise ArgumentError(f"table of {of!r}: expected 'eigenvalues', 'leaves' or 'blocks'")
        chosen = self.leaves if of == "leaves" else self.blocks
        return table(
            ["leaf" if of == "leaves" else "block", "trace", "low", "high"],
            [[name or "(all)", e.value, e.low, e.high] for name, e in chosen.items()],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, fit for JSON; the density stands for the quadrature that it is taken from."""
        found = super().to_dict()
        del found["quadrature"]
        return {**found, "density": None if self.quadrature is None else self.density().to_dict()}


def curvature(
    loss: Callable[..., Any],
    params: tree.Tree,
    *batch: tree.Tree,
    kind: Kind = "hessian",
    model: Callable[..., Any] | None = None,
    k: int = 4,
    trace_probes: int = 16,
    density_probes: int = 8,
    density_steps: int = 32,
    generator: torch.Generator,
    full: bool | None = None,
    chunk_size: int = 1,
    group: Group = None,
    reduction: Reduction = "mean",
) -> Curvature:
    """Return eigenvalues, traces and spectral density of the loss's Hessian, or of its Gauss–Newton matrix.

    One product costs about two gradients (Gauss–Newton: four thirds). Where the matrix is small enough it is formed and
    everything is exact. Else the k eigenvalues of largest magnitude come from block Lanczos with their residuals, the
    trace from Hutch++ (three products a probe), the traces of the blocks from one product a probe, and the density from
    stochastic Lanczos quadrature (`density_steps` products a probe); these carry 95% intervals over their probes.

    Args:
        loss: `loss(params, *batch)` is the whole batch's scalar loss; with kind "ggn", `loss(outputs, *batch)`.
        params: any tree of floating-point tensors; float64 for eigenvalues near rounding of the largest.
        batch: what the loss takes after its first argument.
        kind: "hessian" or "ggn".
        model: `model(params, *batch)` gives the outputs; for "ggn" only.
        k: how many eigenvalues; 0 for none.
        trace_probes: for the traces, at least 2.
        density_probes: for the density, at least 2; 0 for none.
        density_steps: nodes of each probe.
        generator: for the probes.
        full: whether to form the matrix; None does up to 512 parameters.
        chunk_size: how many products run together by `torch.func.vmap`, which pays for small networks.
        group: ranks that each hold a part of the batch, and call this together: a process group or "world"; see
            `pure.spmd`. Every rank gets the result of all samples.
            Each product is added over the ranks; everything else is computed on each alike.
        reduction: with a group, what the loss is of its samples: their "mean" or "sum", or "same" if collectives of
            its own make it equal on all ranks.

    Raises:
        ShapeError: the loss is not a scalar.
        ArgumentError: an unknown kind, "ggn" without a model, or numbers of probes and eigenvalues that do not fit.
        DtypeError: integer parameters.
        UnsupportedError: a loss that is NaN or infinite, draws random numbers, works in place, or has infinite second
            derivatives.
        GroupError: a group without a process group.
        RanksDifferError: what all ranks share differs between them.
        PeerFailedError: another rank failed.

    Source: Ghorbani, Krishnan and Xiao 2019 (1901.10159) for the density; Meyer et al. 2021 (2010.09649) for the trace;
        Dong et al. 2020 (1911.03852) for the traces of blocks.

    Example:
        >>> scale = torch.tensor([1.0, 2.0, 5.0])
        >>> found = curvature(
        ...     lambda p, s: (s * p["w"].square()).sum() / 2, {"w": torch.ones(3)}, scale, generator=torch.Generator()
        ... )
        >>> found.eigenvalues, float(found.trace)
        (tensor([5., 2., 1.], dtype=torch.float64), 8.0)
    """
    with over_ranks("curvature", group, generator=generator):
        pass
    over = {"group": group, "reduction": reduction}
    matrix = _matrix(loss, params, batch, kind, model, over)
    if k < 0 or density_steps < 1 or chunk_size < 1:
        raise ArgumentError(f"k={k}, density_steps={density_steps}, chunk_size={chunk_size}: expected at least 0, 1, 1")
    if trace_probes < 2 or (density_probes and density_probes < 2):
        raise ArgumentError(
            f"trace_probes={trace_probes}, density_probes={density_probes}: expected at least 2, for an interval"
        )
    full = matrix.size <= MAX_DENSE_PARAMETERS if full is None else full
    if full:
        return _dense(matrix, kind, chunk_size)
    if k > matrix.size:
        raise ArgumentError(f"k={k} eigenvalues of {matrix.size} parameters: expected at most as many")
    options: dict[str, Any] = {
        "generator": generator,
        "dtype": matrix.dtype,
        "device": matrix.device,
        "chunk_size": chunk_size,
    }
    empty = torch.zeros(0, dtype=torch.float64, device=matrix.device)
    values, residuals, converged = empty, empty, empty.bool()
    if k:
        pairs = lanczos.eigenpairs(matrix.flat, matrix.size, k, which="magnitude", **options)
        values, residuals, converged = pairs.values, pairs.residuals, pairs.converged
    trace = lanczos.trace(matrix.flat, matrix.size, trace_probes, **options)
    leaves, blocks = _block_traces(matrix, trace_probes, generator, chunk_size)
    rule = None
    if density_probes:
        rule = lanczos.quadrature(matrix.flat, matrix.size, density_probes, density_steps, **options)
    found = values, residuals, converged, trace, leaves, blocks | {"": trace}, rule
    return Curvature(kind, matrix.size, matrix.loss, *found, exact=False)


def _matrix(
    loss: Callable[..., Any],
    params: tree.Tree,
    batch: tuple[Any, ...],
    kind: str,
    model: Callable[..., Any] | None,
    over: dict[str, Any],
) -> Product:
    if kind == "hessian":
        if model is not None:
            raise ArgumentError("curvature of kind 'hessian' with a model: leave it out, or ask for kind='ggn'")
        return hvp(loss, params, *batch, **over)
    if kind != "ggn":
        raise ArgumentError(f"curvature kind={kind!r}: expected 'hessian' or 'ggn'")
    if model is None:
        raise ArgumentError(
            "curvature of kind 'ggn' without a model: expected model(params, *batch) for the outputs, and "
            "loss(outputs, *batch)"
        )
    return ggn_product(model, loss, params, *batch, **over)


def _dense(matrix: Product, kind: Kind, chunk_size: int) -> Curvature:
    """Form the matrix and read everything off it."""
    dense = matrix.dense(chunk_size).double()
    values, vectors = torch.linalg.eigh(dense)
    residuals = torch.linalg.vector_norm(dense @ vectors - vectors * values, dim=0)
    diagonal = matrix.split(dense.diagonal())
    leaves = {name: _exact(float(part.sum())) for name, part in diagonal.items()}
    blocks = {prefix: _exact(sum(leaves[name].value for name in names)) for prefix, names in by_prefix(leaves).items()}
    rule = Quadrature(
        values.expand(2, -1), torch.full((2, len(values)), 1 / len(values), device=values.device).double(), matrix.size
    )
    trace = _exact(float(dense.diagonal().sum()))
    sure = torch.ones_like(values, dtype=torch.bool)
    found = values.flip(0), residuals.flip(0), sure, trace, leaves, blocks | {"": trace}, rule
    return Curvature(kind, matrix.size, matrix.loss, *found, exact=True)


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value, 0.0, 0)


def _block_traces(
    matrix: Product, probes: int, generator: torch.Generator, chunk_size: int
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Return Hutchinson's estimate of every diagonal block's trace: E v_bᵀ(Av)_b for signs v that are independent."""
    drawn = torch.randint(2, (probes, matrix.size), generator=generator, device=generator.device)
    signs = (2 * drawn - 1).to(matrix.device, matrix.dtype)
    images = products(matrix.flat, signs, chunk_size)
    each = [matrix.split(row) for row in signs.double() * images.double()]
    sums = {name: torch.stack([parts[name].sum() for parts in each]) for name in matrix.names}
    leaves = {name: estimate(values) for name, values in sums.items()}
    together = {
        prefix: torch.stack([sums[name] for name in names]).sum(0) for prefix, names in by_prefix(leaves).items()
    }
    return leaves, {prefix: estimate(values) for prefix, values in together.items()}
