"""Singular values of a function's Jacobian: all of them, the largest, or their density."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError, PureError, UnsupportedError
from pure.flow.jacobian.jacobian_products import Linearised, linearise
from pure.flow.jacobian.singular_values import JacobianSpectrum, Method
from pure.flow.linalg.golub_kahan import singular_triplets
from pure.flow.linalg.lanczos import quadrature
from pure.flow.linalg.operator_products import products
from pure.flow.linalg.quadrature import Quadrature
from pure.flow.shared.input_checks import batch_size, check_outermost

__all__ = ["JacobianSpectrum", "jacobian_spectrum"]

MAX_FORMED_SIDE = 512
"""The smaller side of a Jacobian up to which it is formed."""


def jacobian_spectrum(
    fn: Callable[[Any], Any],
    x: tree.Tree,
    *,
    k: int | None = None,
    method: Method | Literal["auto"] = "auto",
    batched: bool = False,
    generator: torch.Generator | None = None,
    probes: int = 16,
    steps: int = 64,
    tolerance: float | None = None,
    max_products: int | None = None,
    chunk_size: int | None = 128,
) -> JacobianSpectrum:
    """Return the singular values of ∂fn(x)/∂x at ONE input x, or with `batched` at each sample along axis 0 of x.

    "full" forms J, by jvp or by vjp, whichever needs fewer, and finds every singular value: exact. "golub-kahan" finds
    the k largest by block bidiagonalisation with full reorthogonalisation, J known by its products alone. "lanczos"
    finds the density of JᵀJ's spectrum by stochastic Lanczos quadrature, with intervals. Vectors go through jvp and vjp
    together by `torch.func.vmap`.

    Args:
        fn: a pure function of one input; tensors or trees of tensors in and out, laid end to end. For a block, which
            wants a batch axis: `lambda x: block(params, x[None], state)[0]`.
        x: the input; with `batched`, samples along axis 0 of every leaf, and `fn` still takes one of them.
        k: how many of the largest; None for all.
        method: "auto" forms J if its smaller side is at most 512, else "golub-kahan" with k and "lanczos" without.
        batched: a spectrum for each sample.
        generator: for the probes of "lanczos", which must have one; seeded otherwise than what drew the weights, or the
            probes repeat their numbers. "golub-kahan" draws start vectors and probes for the moments; default seed 0.
        probes: random vectors for each input.
        steps: Lanczos steps for each of them.
        tolerance: of "golub-kahan": residuals below it times σ_max; default ε^(2/3) of the dtype.
        max_products: of "golub-kahan": products with J at most for one input; what has not converged is marked.
        chunk_size: vectors at a time; 1 for a function that vmap does not take.

    Raises:
        ArgumentError: k beyond the smaller side of J, "golub-kahan" without k, "lanczos" without generator, or leaves
            that are no tensors.
        DtypeError: integer leaves.
        UnsupportedError: NaN or infinity in x, fn(x) or J; a function that changes its input or draws random numbers.

    Source: Golub, Luk and Overton 1981; Ubaru, Chen and Saad 2017; Pennington et al. 2017 (1711.04735) for why to look.

    Example:
        >>> found = jacobian_spectrum(lambda x: torch.stack([3 * x[0], 4 * x[1]]), torch.ones(2))
        >>> found.values, found["condition"], str(found.moments["m1"])
        (tensor([4., 3.], dtype=torch.float64), 1.3333333333333333, '12.5 (exact)')
    """
    check_outermost("jacobian_spectrum")
    if method not in ("auto", "full", "golub-kahan", "lanczos"):
        raise ArgumentError(f"method={method!r}: expected 'auto', 'full', 'golub-kahan' or 'lanczos'")
    if chunk_size is not None and chunk_size < 1:
        raise ArgumentError(f"chunk_size={chunk_size}: expected at least 1")
    samples = [tree.tree_map(lambda leaf, at=at: leaf[at], x) for at in range(batch_size((x,)))] if batched else [x]
    found: list[JacobianSpectrum] = []
    for sample in samples:
        J = linearise(fn, sample)
        chosen = _method(J, k, method, generator)
        draws = torch.Generator().manual_seed(0) if generator is None else generator
        try:
            if chosen == "full":
                found.append(_full(J, k, chunk_size))
            elif chosen == "golub-kahan":
                assert k is not None
                found.append(_largest(J, k, draws, probes, tolerance, max_products, chunk_size))
            else:
                found.append(_density(J, draws, probes, steps, chunk_size))
        except RuntimeError as error:
            if isinstance(error, PureError) or "vmap" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise UnsupportedError(
                f"fn's derivatives cannot be mapped over vectors: give chunk_size=1 (torch says: {reason})"
            ) from error
    return _stacked(found) if batched else found[0]


def _method(
    J: Linearised, k: int | None, method: Method | Literal["auto"], generator: torch.Generator | None
) -> Method:
    smaller = min(J.outputs, J.inputs)
    if k is not None and not 1 <= k <= smaller:
        raise ArgumentError(f"k={k} singular values of a Jacobian {J.outputs} × {J.inputs}: expected 1 to {smaller}")
    chosen: Method = "full" if smaller <= MAX_FORMED_SIDE else "lanczos" if k is None else "golub-kahan"
    if method != "auto":
        chosen = method
    if chosen == "golub-kahan" and k is None:
        raise ArgumentError("method='golub-kahan' without k: say how many of the largest")
    if chosen == "lanczos" and k is not None:
        raise ArgumentError(f"method='lanczos' with k={k}: it finds a density; use 'golub-kahan' for the largest")
    if chosen == "lanczos" and generator is None:
        raise ArgumentError(
            f"the density of a Jacobian {J.outputs} × {J.inputs} needs random probes: give "
            "generator=torch.Generator(), or method='full', or k"
        )
    return chosen


def _full(J: Linearised, k: int | None, chunk_size: int | None) -> JacobianSpectrum:
    side = min(J.outputs, J.inputs)
    eye = torch.eye(side, dtype=J.dtype, device=J.device)
    if J.inputs <= J.outputs:
        matrix = products(J.forward, eye, chunk_size, J.outputs)
    else:
        matrix = products(J.backward, eye, chunk_size, J.inputs)
    values = torch.linalg.svdvals(matrix.double())
    nodes = torch.zeros(1, J.inputs, dtype=torch.float64, device=J.device)
    nodes[0, :side] = values.square()
    rule = Quadrature(nodes, torch.full_like(nodes, 1 / J.inputs), J.inputs, exact=True)
    values = values[:k]
    certain = torch.ones_like(values, dtype=torch.bool)
    return JacobianSpectrum(values, torch.zeros_like(values), certain, (J.outputs, J.inputs), "full", rule, side)


def _largest(
    J: Linearised,
    k: int,
    generator: torch.Generator,
    probes: int,
    tolerance: float | None,
    max_products: int | None,
    chunk_size: int | None,
) -> JacobianSpectrum:
    wide = torch.promote_types(J.dtype, torch.float32)
    if tolerance is None:
        tolerance = torch.finfo(J.dtype).eps ** (2 / 3)
    found = singular_triplets(
        J.forward,
        J.backward,
        J.outputs,
        J.inputs,
        k,
        generator=generator,
        tolerance=tolerance,
        max_products=max_products,
        dtype=wide,
        device=J.device,
        chunk_size=chunk_size,
    )
    rule = _rule(J, generator, probes, 2, chunk_size)
    used = 2 * found.products + 4 * probes
    shape = J.outputs, J.inputs
    return JacobianSpectrum(found.values, found.residuals, found.converged, shape, "golub-kahan", rule, used)


def _density(
    J: Linearised, generator: torch.Generator, probes: int, steps: int, chunk_size: int | None
) -> JacobianSpectrum:
    rule = _rule(J, generator, probes, steps, chunk_size)
    none = rule.nodes.new_zeros(0)
    shape = J.outputs, J.inputs
    used = 2 * probes * rule.nodes.shape[1]
    return JacobianSpectrum(none, none, none.bool(), shape, "lanczos", rule, used)


def _rule(J: Linearised, generator: torch.Generator, probes: int, steps: int, chunk_size: int | None) -> Quadrature:
    """Return quadrature for JᵀJ, in float64 around products in fn's own dtype; σ² cannot overflow, as Jv is scaled."""

    def gram(v: Tensor) -> Tensor:
        image = J.forward(v).double()
        norm = torch.linalg.vector_norm(image).clamp_min(torch.finfo(torch.float64).tiny)
        return J.backward(image / norm).double() * norm

    rule = quadrature(gram, J.inputs, probes, steps, generator=generator, device=J.device, chunk_size=chunk_size)
    return Quadrature(rule.nodes.clamp_min(0), rule.weights, rule.size)


def _stacked(found: list[JacobianSpectrum]) -> JacobianSpectrum:
    """Return one result, a row a sample; the probes of one sample are one group of the rule."""
    first = found[0].rule
    nodes = torch.cat([each.rule.nodes for each in found])
    weights = torch.cat([each.rule.weights for each in found])
    rule = Quadrature(nodes, weights, first.size, first.exact, len(first.nodes) if len(found) > 1 else 1)
    return JacobianSpectrum(
        torch.stack([each.values for each in found]),
        torch.stack([each.residuals for each in found]),
        torch.stack([each.converged for each in found]),
        found[0].shape,
        found[0].method,
        rule,
        sum(each.products for each in found),
    )
