"""Checks of a loss, its parameters and its batch, and the errors that they raise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError, DtypeError, PureError, ShapeError, TreeError, UnsupportedError
from pure.tree.plain import is_wrapper

__all__ = [
    "batch_norm_error",
    "batch_size",
    "check_outermost",
    "explained",
    "finite",
    "finite_values",
    "in_place_error",
    "named_leaves",
    "purely",
    "scalar",
]

NORM_WORDS = "LayerNorm, GroupNorm or RMSNorm, which keep the samples apart, or evaluation with running statistics"


def named_leaves(loss: Callable[..., Any], params: tree.Tree) -> dict[str, Tensor]:
    """Return the parameters by dotted name, detached.

    Raises:
        ArgumentError: `loss` cannot be called, or a leaf of another tensor class, such as DTensor.
        TreeError: a leaf is no tensor.
        DtypeError: a leaf is not floating point.
    """
    if not callable(loss):
        raise ArgumentError(f"loss is {type(loss).__name__}: expected a function of (params, *batch)")
    flat = tree.flatten(params)
    for name, leaf in flat.items():
        if not isinstance(leaf, Tensor):
            raise TreeError(f"params {name!r} is {type(leaf).__name__}: expected a tensor in every leaf")
        if is_wrapper(leaf):
            raise ArgumentError(
                f"params {name!r} is a {type(leaf).__name__}: expected plain tensors, of a DTensor x.full_tensor(); "
                "for samples on several ranks give group="
            )
        if not leaf.is_floating_point():
            raise DtypeError(
                f"params {name!r} is {leaf.dtype}, which has no gradient: expected floating point; keep counters in "
                "the state, or split them off by pure.partition"
            )
    return {name: leaf.detach() for name, leaf in flat.items()}


def scalar(value: object, whose: str) -> Tensor:
    """Return `value` if it is a scalar tensor.

    Args:
        value: what the loss returned.
        whose: "the batch's" or "one sample's".

    Raises:
        ArgumentError: not a tensor at all.
        ShapeError: a tensor with axes.
        DtypeError: an integer or a boolean.
    """
    if isinstance(value, tuple | list):
        raise ArgumentError(
            f"loss returned {len(value)} values: expected {whose} scalar loss alone, as in lambda *args: loss(*args)[0]"
        )
    if not isinstance(value, Tensor):
        raise ArgumentError(f"loss returned {type(value).__name__}: expected {whose} scalar loss as a tensor")
    if value.ndim:
        raise ShapeError(
            f"loss returned shape {tuple(value.shape)}: expected {whose} scalar loss: take .mean() or .sum()"
        )
    if not value.is_floating_point():
        raise DtypeError(f"loss returned {value.dtype}: expected {whose} scalar loss in floating point")
    return value


def finite(losses: Tensor) -> None:
    """Raise if a loss is NaN or infinite, naming the samples where there are several.

    Raises:
        UnsupportedError: there is no gradient to speak of.
    """
    bad = (~torch.isfinite(losses.detach())).nonzero().flatten().tolist() if losses.ndim else []
    if losses.ndim == 0 and not torch.isfinite(losses.detach()):
        raise UnsupportedError(f"loss is {losses.item()}, which has no gradient: {FIX_NAN}")
    if bad:
        shown = ", ".join(map(str, bad[:8])) + (", …" if len(bad) > 8 else "")
        raise UnsupportedError(f"loss is NaN or infinite for {len(bad)} of {len(losses)} samples ({shown}): {FIX_NAN}")


FIX_NAN = "look for NaN in the batch, a log of 0, or activations that overflow (pure.capture shows them)"


def batch_size(batch: Sequence[tree.Tree]) -> int:
    """Return the size of axis 0, on which all leaves of the batch must agree.

    Raises:
        ArgumentError: no batch, an empty one, or a leaf that is no tensor.
        ShapeError: leaves that disagree, or that have no axis.
    """
    if not batch:
        raise ArgumentError("per-sample gradients of no batch: give what loss takes after params, batch axis first")
    sizes: dict[str, int] = {}
    for position, argument in enumerate(batch):
        for name, leaf in tree.flatten(argument).items():
            where = f"batch[{position}]" + (f".{name}" if name else "")
            if not isinstance(leaf, Tensor):
                raise ArgumentError(
                    f"{where} is {type(leaf).__name__}: expected tensors; put constants into the loss itself"
                )
            if leaf.ndim == 0:
                raise ShapeError(
                    f"{where} has no axes: expected the batch on axis 0; put constants into the loss itself"
                )
            sizes[where] = leaf.shape[0]
    if not sizes:
        raise ArgumentError("per-sample gradients of a batch without tensors: give what loss takes after params")
    if len(set(sizes.values())) > 1:
        given = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise ShapeError(f"the batch's leaves disagree on the number of samples on axis 0: {given}")
    size = next(iter(sizes.values()))
    if size == 0:
        raise ArgumentError("the batch holds 0 samples: expected at least one")
    return size


def check_outermost(what: str) -> None:
    """Raise if a torch.func transform is running: a measurement has to see the whole computation.

    Raises:
        UnsupportedError: called inside grad, vmap, jvp or another transform.
    """
    if torch._C._functorch.maybe_current_level() is not None:
        raise UnsupportedError(f"{what} inside a torch.func transform: it returns numbers, so call it outside")


def explained(error: RuntimeError | PureError) -> RuntimeError | PureError:
    """Return the typed error for a loss that cannot be mapped over its samples, or `error` itself."""
    cause = error.__cause__ if isinstance(error, ShapeError) and error.__cause__ else error
    text = str(cause)
    if isinstance(error, ShapeError) and "BatchNorm in training" in text:
        return batch_norm_error()
    if isinstance(cause, PureError) or "vmap" not in text:
        return error
    if "random" in text:
        fix = "it draws random numbers: draw them before, as block.noise does, and pass them with the batch"
    elif "item()" in text or "data-dependent control flow" in text:
        fix = "it branches on a tensor's value: use torch.where"
    elif "inplace" in text or "in-place" in text:
        fix = "it changes a tensor in place: write x = x + y, not x += y"
    else:
        fix = "torch.func.vmap does not take it"
    return UnsupportedError(f"loss cannot be mapped over the samples: {fix} (torch says: {text.splitlines()[0]})")


def batch_norm_error() -> UnsupportedError:
    """Return the error for per-sample gradients through batch statistics."""
    return UnsupportedError(
        "per-sample gradients through BatchNorm in training: the batch's statistics make every sample's loss depend on "
        "all samples, so one sample's gradient does not exist; mapped over samples it would normalise each by itself. "
        f"Use {NORM_WORDS}"
    )


def in_place_error() -> UnsupportedError:
    """Return the error for a loss that overwrites what its layers have read."""
    return UnsupportedError(
        "loss changes the input of a linear map or convolution in place after its use: write x = x + y, not x += y"
    )


def finite_values(values: tree.Tree, what: str) -> None:
    """Raise if a floating-point leaf of what was given holds NaN or an infinity.

    Raises:
        ArgumentError: it names the leaf and how many of its values.
    """
    for name, leaf in tree.flatten(values).items():
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            continue
        if leaf.itemsize == 1 or not math.isfinite(leaf.detach().sum()):  # PyTorch adds up no numbers of 8 bits
            bad = int((~torch.isfinite(leaf.detach())).sum())  # 0 where only the sum has overflowed
            if bad:
                where = f"{what} {name!r}" if name else what
                raise ArgumentError(f"{where} holds NaN or infinity in {bad} of {leaf.numel()} values: clean it first")


@contextmanager
def purely(what: str, **trees: tree.Tree) -> Iterator[None]:
    """Raise if the code inside changes a leaf of `trees` in place or draws from a global random generator.

    Args:
        what: the measurement, for the message.
        trees: what the function reads, by name.

    Raises:
        UnsupportedError: the function is not pure.
    """
    leaves = {
        f"{which} {name!r}" if name else which: leaf
        for which, values in trees.items()
        for name, leaf in tree.flatten(values).items()
        if isinstance(leaf, Tensor) and not leaf.is_inference()
    }
    versions = {name: leaf._version for name, leaf in leaves.items()}
    devices = {leaf.device for leaf in leaves.values() if leaf.is_cuda}
    random = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, PureError) or "in-place operation" not in str(error):
            raise
        raise UnsupportedError(
            f"{what} of a function that works in place: write x = x + y, not x += y (torch says: "
            f"{str(error).splitlines()[0]})"
        ) from error
    changed = [name for name, leaf in leaves.items() if leaf._version != versions[name]]
    if changed:
        raise UnsupportedError(
            f"{what} of a function that changes {', '.join(changed)} in place: write x = x + y, not x += y"
        )
    after = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
    if not all(torch.equal(before, now) for before, now in zip(random, after, strict=True)):
        raise UnsupportedError(
            f"{what} of a function that draws random numbers: draw them before, as block.noise does, and pass them in"
        )
