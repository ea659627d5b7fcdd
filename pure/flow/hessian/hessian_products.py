"""Products with the Hessian and with the generalised Gauss–Newton matrix, for the price of about two gradients each.

The graph of the gradient is built once and kept. A Hessian product is then one backward pass through that graph, which
costs what two gradients cost in matrix products. Building it costs two thirds of one, since the gradients w.r.t. the
weights of linear layers and convolutions are never formed. A Gauss–Newton product is a pass to the outputs and one
back, four thirds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError, PureError, ShapeError, TreeError, UnsupportedError
from pure.flow.hessian.gradient_graph import GradientRecorder
from pure.flow.linalg.operator_products import products
from pure.flow.per_sample.weight_use import Parameters
from pure.flow.shared.input_checks import check_outermost, finite, finite_values, named_leaves, purely, scalar
from pure.flow.shared.math_attention import composed_attention
from pure.flow.shared.over_ranks import Reduction, Whole, over_ranks
from pure.spmd.process_group import Group

__all__ = ["Product", "ggn_product", "hvp"]


@dataclass(frozen=True, eq=False, repr=False)
class Product:
    """A symmetric matrix over the parameters, known by its products. Call it on a tree like the parameters.

    Attributes:
        kind: "hessian" or "ggn".
        size: how many rows the matrix has: the number of parameters.
        loss: the loss where the matrix was taken.
        names: dotted names of the leaves, in the order in which `flat` joins them.
        shapes: their shapes.
        dtype: of the flat vectors.
        device: of the flat vectors.
    """

    kind: str
    size: int
    loss: float
    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    dtype: torch.dtype
    device: torch.device
    _apply: Callable[[list[Tensor]], list[Tensor]] = field(compare=False)
    _leaves: tuple[Tensor, ...] = field(compare=False)
    _spec: Any = field(compare=False)

    def __repr__(self) -> str:
        return f"Product({self.kind}, {self.size} × {self.size}, {len(self.names)} leaves)"

    def __call__(self, v: tree.Tree) -> tree.Tree:
        """Return the matrix times `v`, a tree like the parameters.

        Raises:
            TreeError: `v` has other leaves.
        """
        tree.check(v, self._tree(list(self._leaves)), what="v")
        flat = tree.flatten(v)
        vectors = [flat[name].to(leaf) for name, leaf in zip(self.names, self._leaves, strict=True)]
        return self._tree(self._apply(vectors))

    def _tree(self, leaves: list[Tensor]) -> tree.Tree:
        return tree.tree_unflatten(leaves, self._spec)

    def split(self, v: Tensor) -> dict[str, Tensor]:
        """Return the parts of a flat vector by leaf, in the leaves' shapes."""
        parts = v.split([leaf.numel() for leaf in self._leaves])
        return {name: p.reshape(shape) for name, p, shape in zip(self.names, parts, self.shapes, strict=True)}

    def flat(self, v: Tensor) -> Tensor:
        """Return the matrix times a flat vector (size,); `torch.func.vmap` maps it.

        Raises:
            ShapeError: another size.
        """
        if v.shape != (self.size,):
            raise ShapeError(f"product with a vector of shape {tuple(v.shape)}: expected ({self.size},)")
        parts = [p.to(leaf.dtype) for p, leaf in zip(self.split(v).values(), self._leaves, strict=True)]
        return torch.cat([out.reshape(-1).to(self.dtype) for out in self._apply(parts)])

    def dense(self, chunk_size: int | None = 1) -> Tensor:
        """Return the whole matrix (size, size), made symmetric to the last digit, from `size` products.

        Args:
            chunk_size: how many products run together, by `torch.func.vmap`; 1 is always possible.
        """
        rows = products(self.flat, torch.eye(self.size, dtype=self.dtype, device=self.device), chunk_size)
        return (rows + rows.T) / 2


def hvp(
    loss: Callable[..., Any],
    params: tree.Tree,
    *batch: tree.Tree,
    group: Group = None,
    reduction: Reduction = "mean",
) -> Product:
    """Return the Hessian of `loss` w.r.t. `params`, as its product with a tree.

    The whole graph of the gradient stays in memory as long as the result does. A loss that takes gradients itself, or
    sets hooks, runs twice.

    Args:
        loss: `loss(params, *batch)` is the whole batch's scalar loss; any pure function that can be differentiated
            twice. What it closes over counts as constant.
        params: any tree of floating-point tensors.
        batch: what the loss takes after params.
        group: ranks that each hold a part of the batch, and call this together: a process group or "world"; see
            `pure.spmd`. Every rank gets the result of all samples.
            The products are to be taken on all ranks together, too, and are added over them.
        reduction: with a group, what the loss is of its samples: their "mean" or "sum", or "same" if collectives of
            its own make it equal on all ranks.

    Raises:
        ShapeError: the loss is not a scalar.
        ArgumentError: the loss is no tensor.
        DtypeError: integer parameters.
        UnsupportedError: a loss that is NaN or infinite, draws random numbers, or works in place.
        GroupError: a group without a process group.
        RanksDifferError: what all ranks share differs between them.
        PeerFailedError: another rank failed.

    Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian".

    Example:
        >>> H = hvp(lambda p: p["w"].prod(), {"w": torch.tensor([2.0, 3.0])})
        >>> H({"w": torch.tensor([1.0, 0.0])}), H.dense()
        ({'w': tensor([0., 1.])}, tensor([[0., 1.],
                [1., 0.]]))
    """
    check_outermost("hvp")
    with over_ranks("hvp", group, params=params, batch=batch, reduction=reduction) as whole:
        return _hessian(loss, params, batch, whole)


def _hessian(loss: Callable[..., Any], params: tree.Tree, batch: tuple[Any, ...], whole: Whole) -> Product:
    leaves, spec = _leaves(loss, params)
    constants = _constants(batch)

    def value(copies: Mapping[str, Tensor], around: AbstractContextManager[Any]) -> Tensor:
        with _pure_call("hvp", params, batch), around:
            out = loss(tree.tree_unflatten(list(copies.values()), spec), *constants)
        value = scalar(out, "the batch's")
        finite(value)
        return whole.loss(value)

    with torch.enable_grad():
        recorder = GradientRecorder(leaves)
        try:
            out = value(recorder.copies, recorder)
        except (RuntimeError, TypeError, ValueError, AttributeError, PureError):  # of a gradient that is missing, too
            if not recorder.unsafe:
                raise
        if recorder.unsafe:
            recorder = GradientRecorder(leaves)  # whose copies are without the first run's hooks
            out = value(recorder.copies, nullcontext())
        if recorder.changed():
            raise UnsupportedError("the function changes in place what its gradient needs: write x = x + y")
        inputs, copies, found = list(leaves.values()), list(recorder.copies.values()), recorder.found
        slopes = _pulled([out], [*copies, *(call.output for call in found)], [torch.ones_like(out)], keep=True)

    def apply(vectors: list[Tensor]) -> list[Tensor]:
        vectors = [vector.detach() for vector in vectors]
        directions = Parameters(recorder.origin, dict(zip(leaves, vectors, strict=True)))
        pairs: list[tuple[Tensor | None, Tensor]] = list(zip(slopes, vectors, strict=False))
        for call, slope in zip(found, slopes[len(copies) :], strict=True):
            if slope is not None:
                pairs += call.cotangents(slope, directions)
        pulled = _pulled([y for y, _ in pairs], [*inputs, *copies], [v for _, v in pairs])
        recorded, rest = pulled[: len(inputs)], pulled[len(inputs) :]
        return _filled(
            [b if a is None else a if b is None else a + b for a, b in zip(recorded, rest, strict=True)], inputs
        )

    return _product("hessian", out, leaves, spec, apply, whole)


def ggn_product(
    model: Callable[..., Any],
    loss: Callable[..., Any],
    params: tree.Tree,
    *batch: tree.Tree,
    group: Group = None,
    reduction: Reduction = "mean",
) -> Product:
    """Return the generalised Gauss–Newton matrix JᵀHJ, as its product with a tree.

    J is the Jacobian of the model's outputs w.r.t. the parameters and H the Hessian of the loss w.r.t. the outputs.

    Args:
        model: `model(params, *batch)` returns the outputs, any tree of tensors.
        loss: `loss(outputs, *batch)` is the whole batch's scalar loss; the matrix is positive semi-definite where the
            loss is convex in the outputs.
        params: any tree of floating-point tensors.
        batch: what both take after their first argument.
        group: ranks that each hold a part of the batch, and call this together: a process group or "world"; see
            `pure.spmd`. Every rank gets the result of all samples.
        reduction: with a group, what the loss is of its samples: their "mean" or "sum", or "same" if collectives of
            its own make it equal on all ranks.

    Raises:
        ShapeError: the loss is not a scalar.
        ArgumentError: the model returns no floating-point tensor, or the loss no tensor.
        DtypeError: integer parameters.
        UnsupportedError: a loss that is NaN or infinite; a function that draws random numbers, or works in place.
        GroupError: a group without a process group.
        RanksDifferError: what all ranks share differs between them.
        PeerFailedError: another rank failed.

    Source: Schraudolph 2002, "Fast curvature matrix-vector products for second-order gradient descent", section 3.

    Example:
        >>> G = ggn_product(lambda p, x: p["w"] * x, lambda y, x: y.square().sum(), {"w": torch.ones(2)}, torch.ones(2))
        >>> G.dense()
        tensor([[2., 0.],
                [0., 2.]])
    """
    check_outermost("ggn_product")
    with over_ranks("ggn_product", group, params=params, batch=batch, reduction=reduction) as whole:
        return _gauss_newton(model, loss, params, batch, whole)


def _gauss_newton(
    model: Callable[..., Any], loss: Callable[..., Any], params: tree.Tree, batch: tuple[Any, ...], whole: Whole
) -> Product:
    leaves, spec = _leaves(model, params)
    inputs, constants = list(leaves.values()), _constants(batch)
    with torch.enable_grad():
        with _pure_call("ggn_product", params, batch):
            found = model(tree.tree_unflatten(inputs, spec), *constants)
        flat, out_spec = tree.tree_flatten(found)
        chosen = [at for at, leaf in enumerate(flat) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        if not chosen:
            raise ArgumentError(f"model returned {type(found).__name__}: expected outputs as floating-point tensors")
        outputs = [flat[at] for at in chosen]
        cut = [output.detach().requires_grad_() for output in outputs]
        given = dict(zip(chosen, cut, strict=True))
        seen = tree.tree_unflatten([given.get(at, leaf) for at, leaf in enumerate(flat)], out_spec)
        with _pure_call("ggn_product", {}, batch):
            value = scalar(loss(seen, *constants), "the batch's")
        finite(value)
        value = whole.loss(value)
        slope = _pulled([value], cut, [torch.ones_like(value)], keep=True)
        dummies = [torch.zeros_like(output, requires_grad=True) for output in outputs]
        pulled = _pulled(outputs, inputs, dummies, keep=True)  # linear in the dummies: its derivative is J itself

    def apply(vectors: list[Tensor]) -> list[Tensor]:
        output_tangents = _filled(_pulled(pulled, dummies, vectors), dummies)
        output_products = _filled(_pulled(slope, cut, output_tangents), cut)
        return _filled(_pulled(outputs, inputs, output_products), inputs)

    return _product("ggn", value, leaves, spec, apply, whole)


@contextmanager
def _pure_call(what: str, params: tree.Tree, batch: Sequence[tree.Tree]) -> Iterator[None]:
    """Check that the function run inside is pure, and run attention in the form that has second derivatives."""
    finite_values(tuple(batch), "batch")
    with composed_attention(), purely(what, params=params, batch=tuple(batch)):
        yield


def _leaves(fn: Callable[..., Any], params: tree.Tree) -> tuple[dict[str, Tensor], Any]:
    leaves = {name: leaf.requires_grad_() for name, leaf in named_leaves(fn, params).items()}
    finite_values(params, "params")
    if not leaves:
        raise TreeError("params hold no leaves: there is nothing to differentiate by")
    return leaves, tree.tree_flatten(params)[1]


def _constants(batch: Sequence[tree.Tree]) -> Any:
    return tree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, tuple(batch))


def _pulled(
    outputs: Sequence[Tensor | None], inputs: Any, vectors: Sequence[Tensor], *, keep: bool = False
) -> Sequence[Tensor | None]:
    """Return the vectors' product with the Jacobian of `outputs` w.r.t. `inputs`; None where there is no dependence."""
    inputs = list(inputs)
    pairs = [(y, v) for y, v in zip(outputs, vectors, strict=True) if y is not None and y.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    try:
        return torch.autograd.grad(
            [y for y, _ in pairs],
            inputs,
            [v for _, v in pairs],
            retain_graph=True,
            create_graph=keep,
            allow_unused=True,
        )
    except RuntimeError as error:
        if "in-place" in str(error) or "inplace" in str(error):
            raise UnsupportedError("the function changes in place what its gradient needs: write x = x + y") from error
        if "not implemented" in str(error) or "once_differentiable" in str(error):
            raise UnsupportedError(f"the function cannot be differentiated twice (torch says: {error})") from error
        raise


def _filled(found: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, like, strict=True)]


def _product(
    kind: str,
    value: Tensor,
    leaves: dict[str, Tensor],
    spec: Any,
    apply: Callable[[list[Tensor]], list[Tensor]],
    whole: Whole,
) -> Product:
    first = next(iter(leaves.values()))
    dtype = first.dtype
    for leaf in leaves.values():
        dtype = torch.promote_types(dtype, leaf.dtype)
    shapes = tuple(leaf.shape for leaf in leaves.values())
    size = sum(leaf.numel() for leaf in leaves.values())
    kept = tuple(leaf.detach() for leaf in leaves.values())
    (loss,) = whole.total([value.detach()], "the loss")

    @whole.together
    def added(vectors: list[Tensor]) -> list[Tensor]:
        return whole.total(apply(whole.shared(vectors, "the vector")), "a product")

    return Product(kind, size, loss.item(), tuple(leaves), shapes, dtype, first.device, added, kept, spec)
