"""The functions whose placement is looked at: six transforms of every row of the catalogue, in four dtypes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.func import grad, jvp, vmap

from export.app import catalogue_examples
from export.app.catalogue_examples import BATCH, Call
from pure import optim, tree
from pure.catalogue import CASES, Case

__all__ = ["DTYPES", "OPSETS", "SIZES", "TRANSFORMS", "Subject", "subject", "subjects"]

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
OPSETS = {"bfloat16": 22}
"""The first opset in which ONNX has most operators for a dtype."""

SIZES = ("static", "dynamic")
Ready = tuple[Callable[..., Any], tuple[Any, ...], tuple[Any, ...]]
"""A function, its arguments, and which of their sizes may change."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """One file to be placed."""

    row: str
    transform: str
    dtype: str
    sizes: str

    @property
    def key(self) -> str:
        """Its column in the table."""
        return f"{self.transform}, {self.dtype}, {self.sizes}"


def subjects(dtypes: tuple[str, ...] = tuple(DTYPES)) -> Iterator[Subject]:
    """Yield every combination that a row has; a row whose samples depend on each other has no per-sample gradient."""
    for dtype in dtypes:
        for sizes in SIZES:
            for case in CASES:
                for transform in TRANSFORMS:
                    if case.per_sample or transform != "per-sample gradient":
                        yield Subject(case.name, transform, dtype, sizes)


def subject(chosen: Subject) -> Ready:
    """Return the function of a subject with its arguments and, unless they are static, its dynamic sizes."""
    case = next(case for case in CASES if case.name == chosen.row)
    fn, args, dynamic = TRANSFORMS[chosen.transform](case, DTYPES[chosen.dtype])
    return fn, args, dynamic if chosen.sizes == "dynamic" else (None,) * len(args)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return tree.tree_map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, value)


def _call(case: Case, dtype: torch.dtype) -> Call:
    """The row's call in the dtype; its statistics are float32 at least."""
    ready = catalogue_examples.call(case)
    state = torch.promote_types(dtype, torch.float32)
    kinds = {"params": dtype, "x": dtype, "state": state, "extras": dtype}
    return ready.replaced({name: _cast(ready.argument(name), kinds[name]) for name in ready.names})


def _halved(leaf: Any) -> Any:
    """A direction that needs no operator which a dtype lacks."""
    return 0.5 * leaf


def _differentiated(ready: Call) -> tuple[int, ...]:
    """The parameters and the input, as far as they have values that can change."""
    return tuple(i for i in (0, 1) if any(leaf.is_floating_point() for leaf in tree.leaves(ready.args[i])))


def _forward(case: Case, dtype: torch.dtype) -> Ready:
    ready = _call(case, dtype)
    return ready.fn, ready.args, ready.dynamic


def _gradient(case: Case, dtype: torch.dtype) -> Ready:
    ready = _call(case, dtype)
    return grad(catalogue_examples.batch_loss(ready), _differentiated(ready)), ready.args, ready.dynamic


def _per_sample(case: Case, dtype: torch.dtype) -> Ready:
    ready = _call(case, dtype)
    mapped = ready.mapped()
    loss = catalogue_examples.sample_loss(ready)
    fn = vmap(grad(loss, _differentiated(ready)), (None, *[0] * len(mapped)))
    return fn, (ready.args[0], *mapped), (None, *[BATCH] * len(mapped))


def _jvp(case: Case, dtype: torch.dtype) -> Ready:
    ready = _call(case, dtype)
    along = _differentiated(ready)

    def pushed(*args: Any) -> Any:
        def moved(*values: Any) -> Any:
            given = list(args)
            for i, value in zip(along, values, strict=True):
                given[i] = value
            return ready.fn(*given)

        primals = tuple(args[i] for i in along)
        return jvp(moved, primals, tree.tree_map(_halved, primals))

    return pushed, ready.args, ready.dynamic


def _hessian_product(case: Case, dtype: torch.dtype) -> Ready:
    ready = _call(case, dtype)
    along = _differentiated(ready)
    slope = grad(catalogue_examples.batch_loss(ready), along)

    def product(*args: Any) -> Any:
        def moved(*values: Any) -> Any:
            given = list(args)
            for i, value in zip(along, values, strict=True):
                given[i] = value
            return slope(*given)

        primals = tuple(args[i] for i in along)
        return jvp(moved, primals, tree.tree_map(_halved, primals))[1]

    return product, ready.args, ready.dynamic


def _training_step(case: Case, dtype: torch.dtype) -> Ready:
    """SGD with momentum on half the mean square, with batch statistics and pre-drawn noise."""
    ready = _call(case, dtype)
    block = case.example()[0]
    x = ready.argument("x")
    optimizer = optim.sgd(0.1, momentum=0.9)
    trained = [leaf for leaf in tree.leaves(ready.args[0]) if leaf.is_floating_point()]
    state = ready.argument("state") if "state" in ready.names else {}
    extras = ready.argument("extras") if "extras" in ready.names else {}
    noise = block.noise(x.shape, torch.Generator().manual_seed(1), dtype=dtype) if block.stochastic else None
    memory = optimizer.init(ready.args[0]) if trained else {}
    args = (ready.args[0], x, state, extras, noise, memory)

    def step(params: Any, x: Any, state: Any, extras: Any, noise: Any, memory: Any) -> Any:
        def loss(params: Any) -> Any:
            y, new_state = block.apply(params, x, state, extras, True, noise)
            return torch.stack([leaf.square().mean() for leaf in tree.leaves(y)]).mean() / 2, new_state

        if not trained:
            return loss(params)
        slopes, new_state = grad(loss, has_aux=True)(params)
        change, after = optimizer.step(slopes, memory, params)
        return change, after, new_state

    own = ready.dynamic[ready.names.index("extras")] if "extras" in ready.names else None
    return step, args, (None, BATCH, None, own, None if noise is None else BATCH, None)


TRANSFORMS: dict[str, Callable[[Case, torch.dtype], Ready]] = {
    "forward": _forward,
    "gradient": _gradient,
    "per-sample gradient": _per_sample,
    "jvp": _jvp,
    "Hessian product": _hessian_product,
    "training step": _training_step,
}
