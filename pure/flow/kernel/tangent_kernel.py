"""The empirical neural tangent kernel, from the structure of the linear maps rather than from their Jacobians."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError, UnsupportedError
from pure.flow.kernel.jacobian_rows import Rows, Tangents
from pure.flow.shared.input_checks import batch_size, check_outermost, named_leaves
from pure.flow.shared.over_ranks import over_ranks
from pure.flow.shared.result import Readings
from pure.flow.shared.text_table import table
from pure.spmd.process_group import Group

__all__ = ["TangentKernel", "ntk"]


@dataclass(frozen=True, eq=False)
class TangentKernel(Readings[str, Tensor]):
    """Θ = J(x₁) J(x₂)ᵀ. As a mapping: {dotted leaf: (N₁, N₂), that leaf's share of the trace over outputs}, float64.

    Attributes:
        kernel: (N₁, N₂), summed over equal outputs; or (N₁, N₂, outputs, outputs), if asked for in full. float64.
        leaves: {dotted leaf: (N₁, N₂)}, each leaf's share of the sum over equal outputs.
        methods: how each leaf's share was found: "structured" (from inputs and sensitivities of linear maps),
            "materialised" (its Jacobian was formed), or "unused".
        outputs: how many outputs the function has for each sample.
        symmetric: whether x₂ was x₁.
    """

    kernel: Tensor
    leaves: dict[str, Tensor]
    methods: dict[str, str]
    outputs: int
    symmetric: bool

    @property
    def _readings(self) -> Mapping[str, Tensor]:
        return self.leaves

    def __repr__(self) -> str:
        return f"TangentKernel({tuple(self.kernel.shape)}, {self.outputs} outputs, {len(self.leaves)} leaves)"

    @property
    def trace_kernel(self) -> Tensor:
        """(N₁, N₂), summed over equal outputs, whichever form was asked for."""
        return self.kernel if self.kernel.ndim == 2 else self.kernel.diagonal(dim1=2, dim2=3).sum(-1)

    def eigenvalues(self) -> Tensor:
        """Return the eigenvalues, largest first; of a full kernel, of its matrix of size N · outputs.

        Raises:
            ArgumentError: x₂ was not x₁.
        """
        if not self.symmetric:
            raise ArgumentError("eigenvalues of a kernel between two batches: leave x2 out")
        matrix = self.kernel
        if matrix.ndim == 4:
            matrix = matrix.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
        return torch.linalg.eigvalsh(matrix).flip(0)

    def table(self) -> str:
        """Return a plain text table of each leaf's share of the kernel's diagonal mass, or of its norm if x₂ ≠ x₁."""
        sizes = {name: float(_mass(share, self.symmetric)) for name, share in self.leaves.items()}
        whole = float(_mass(self.trace_kernel, self.symmetric))
        rows: list[list[str | float]] = [
            [name or "(all)", self.methods[name], size, size / whole if whole else 0.0] for name, size in sizes.items()
        ]
        return table(["leaf", "method", "trace" if self.symmetric else "norm", "share"], rows)


def _mass(kernel: Tensor, symmetric: bool) -> Tensor:
    return kernel.diagonal().sum() if symmetric else torch.linalg.matrix_norm(kernel)


def ntk(
    fn: Callable[..., Any],
    params: tree.Tree,
    x1: tree.Tree,
    x2: tree.Tree | None = None,
    *,
    outputs: Literal["trace", "full"] = "trace",
    structured: bool = True,
    chunk_size: int | None = None,
    budget_mib: float = 512.0,
    group: Group = None,
) -> TangentKernel:
    """Return the empirical neural tangent kernel Θ = J(x₁) J(x₂)ᵀ, J the Jacobian of the outputs w.r.t. the parameters.

    The weight of `F.linear` or `F.conv1d/2d/3d` has the Jacobian Σ_t s_t ⊗ a_t, a its inputs and s the sensitivities
    of the outputs. Its share of Θ is a product of Gram matrices of a and of s; the Jacobian is never formed. A leaf
    that does anything else has its Jacobian formed, for a chunk of samples at a time. Both are exact.

    Args:
        fn: `fn(params, x)`, batch axis first in x and in the one tensor returned; a block is one. It is run on one
            sample at a time, mapped over the batch, so that samples cannot mix.
        params: any tree of floating-point tensors.
        x1: tree of tensors, batch on axis 0.
        x2: another batch, by default x1.
        outputs: "trace" sums over equal outputs, (N₁, N₂); "full" keeps them, (N₁, N₂, outputs, outputs).
        structured: False to form every Jacobian, for comparison.
        chunk_size: samples whose sensitivities are held at a time; by default as many as fit the budget.
        budget_mib: memory for sensitivities and Jacobians, in MiB.
        group: ranks that each hold a part of the batch, and call this together: a process group or "world"; see
            `pure.spmd`. Every rank gets the result of all samples.
            The inputs are gathered, each rank computes the kernel's rows of its own part of x1, and they are gathered.

    Raises:
        UnsupportedError: normalisation by batch statistics; a function that draws random numbers, branches on values,
            or works in place; an output that is NaN or infinite.
        ShapeError: the function does not return one sample for one sample, or leaves of x that disagree in size.
        ArgumentError: x that is no tensor, a function that returns none, or an unknown `outputs`.
        DtypeError: integer parameters.
        GroupError: a group without a process group.
        RanksDifferError: what all ranks share differs between them.
        PeerFailedError: another rank failed.

    Source: Jacot et al. 2018 (1806.07572); Novak, Sohl-Dickstein and Schoenholz 2022 (2206.08720), section 3.4.

    Example:
        >>> from pure.layers import Linear
        >>> net = Linear(2, 3)
        >>> params, _ = net.init(torch.Generator().manual_seed(0))
        >>> x = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
        >>> ntk(net, params, x).kernel, ntk(net, params, x, outputs="full").kernel.shape
        (tensor([[18.,  9.],
                [ 9.,  6.]], dtype=torch.float64), torch.Size([2, 2, 3, 3]))
    """
    check_outermost("ntk")
    if group is not None:
        options = {"outputs": outputs, "structured": structured, "chunk_size": chunk_size, "budget_mib": budget_mib}
        return _over_ranks(fn, params, x1, x2, group, options)
    if outputs not in ("trace", "full"):
        raise ArgumentError(f"ntk outputs={outputs!r}: expected 'trace' or 'full'")
    if chunk_size is not None and chunk_size < 1:
        raise ArgumentError(f"chunk_size={chunk_size}: expected at least 1")
    leaves = named_leaves(fn, params)
    symmetric = x2 is None
    batches = (x1,) if x2 is None else (x1, x2)
    sizes = [batch_size((batch,)) for batch in batches]
    rows = Rows(fn, leaves, tree.tree_flatten(params)[1], x1, structured)
    chunk = chunk_size or max(1, int(budget_mib * 2**20 // max(1, 2 * rows.bytes_each)))
    full = outputs == "full"
    shape = (sizes[0], sizes[-1])
    first = next(iter(leaves.values()), torch.zeros(()))
    shares = {name: torch.zeros(shape, dtype=torch.float64, device=first.device) for name in leaves}
    wide = (*shape, rows.outputs, rows.outputs) if full else shape
    kernel = torch.zeros(wide, dtype=torch.float64, device=first.device)

    def part(batch: tree.Tree, at: int) -> Tangents:
        return rows.run(tree.tree_map(lambda leaf: leaf.detach()[at : at + chunk], batch))

    for i in range(0, sizes[0], chunk):
        left = part(x1, i)
        for j in range(i if symmetric else 0, sizes[-1], chunk):
            right = left if symmetric and i == j else part(batches[-1], j)
            for name, block in left.products(right, full):
                here = (slice(i, i + chunk), slice(j, j + chunk))
                mirror = symmetric and i != j
                traced = block.diagonal(dim1=2, dim2=3).sum(-1) if full else block
                shares[name][here] += traced
                kernel[here] += block
                if mirror:
                    shares[name][here[::-1]] += traced.T
                    kernel[here[::-1]] += block.permute(1, 0, 3, 2) if full else block.T
    if not torch.isfinite(kernel).all():
        raise UnsupportedError("the kernel holds NaN or infinity: look for NaN in x, or a derivative at a pole")
    return TangentKernel(kernel, shares, rows.methods, rows.outputs, symmetric)


def _over_ranks(
    fn: Callable[..., Any],
    params: tree.Tree,
    x1: tree.Tree,
    x2: tree.Tree | None,
    group: Group,
    options: dict[str, Any],
) -> TangentKernel:
    """Return the kernel of all ranks' inputs, of which each rank computes the rows of its own."""
    with over_ranks("ntk", group, params=params) as whole:
        batch_size((x1,))
        columns = tree.tree_map(lambda leaf: whole.rows(leaf, "inputs"), x1 if x2 is None else x2)
        own = ntk(fn, params, x1, columns, **options)
        names = list(own.leaves)
        kernel = whole.rows(own.kernel, "rows of the kernel")
        shares = whole.rows(torch.stack([own.leaves[name] for name in names], 1), "shares").unbind(1) if names else ()
        return TangentKernel(kernel, dict(zip(names, shares, strict=True)), own.methods, own.outputs, x2 is None)
