"""What `pure-export audit` audits: a target on its inputs; a row also at another depth or width, or on digits."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from export.app.report import digits
from export.app.report.settings import Settings
from export.app.targets import Given, Target
from export.app.targets.calls import as_block
from export.errors import ArgumentError
from pure import Repeat
from pure.block import Block, Shape
from pure.catalogue import Case
from pure.tree import leaves

__all__ = ["Data", "Subject", "from_target", "subject"]

Data = Literal["auto", "digits", "example"]

SAMPLES = 64
"""Digits in the batch."""

CLASSIFIER = {"in_features": digits.PIXELS, "out_features": digits.CLASSES}
"""What the networks that sort features into classes are given for digits."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What is audited.

    Attributes:
        block: the network.
        params: drawn from the seed.
        state: its state.
        extras: what it reads beside its input.
        x: the input.
        loss: of the output and the targets; None for a random direction of the output.
        target: the labels, if the loss takes any.
        about: input and loss in words.
    """

    block: Block
    params: Any
    state: Any
    extras: dict[str, Any]
    x: Any
    loss: Callable[..., Tensor] | None
    target: tuple[Tensor, ...]
    about: str


def subject(
    case: Case, data: Data = "auto", depth: int | None = None, width: int | None = None, seed: int = 0
) -> Subject:
    """Return a row ready to be audited.

    A network is made again at the depth and width asked for; any other block is repeated so often. Digits come as the
    input is shaped: their pixels or principal components as features, pictures of its size as images. A network that
    sorts into classes is made for ten of them, and its loss is the cross-entropy.

    Args:
        case: the row.
        data: where the input comes from; "auto" takes digits where they fit.
        depth: how many blocks; None for the row's own.
        width: how many features of the stream; None for the row's own.
        seed: of parameters, inputs, and which digits are taken.

    Raises:
        ArgumentError: the row has no such depth or width, it does not take digits, or scikit-learn is missing.
    """
    options, changed, shape = _options(case), dict[str, int](), case.x_shape
    sorts = data != "example" and options.keys() >= {*CLASSIFIER, "width"}
    if sorts:
        changed, shape = dict(CLASSIFIER), (shape[0], digits.PIXELS)
    if width is not None:
        name = next((name for name in ("width", "features") if isinstance(options.get(name), int)), None)
        if name is None:
            raise ArgumentError(f"{case.name} has no width{_known(options)}: leave out --width")
        changed[name] = width
        if name == "features" and len(shape) < 4 and case.tokens is None and shape[-1] == options[name]:
            shape = (*shape[:-1], width)
    real = _real(case, shape, data)
    if real and "num_classes" in options:
        sorts, changed["num_classes"] = True, digits.CLASSES
    block = _made(case, options, changed, shape, depth)
    generator = torch.Generator().manual_seed(seed)
    params, state = block.init(generator)
    target: tuple[Tensor, ...] = ()
    if real:
        x, labels, about = _digits(shape, seed)
        target = (labels,) if sorts and block.out_shape(tuple(x.shape)) == (len(x), digits.CLASSES) else ()
    else:
        if case.tokens is None:
            x = torch.randn(shape, generator=generator)
        else:
            x = torch.randint(case.tokens, shape, generator=generator)
        about = f"{len(x)} random inputs"
    extras: dict[str, Any] = {} if case.control is None else {"control": case.control}
    extras |= {name: torch.randn(len(x), *rest, generator=generator) for name, (_, *rest) in case.extras}
    about += ", cross-entropy" if target else ", along a random direction of the output"
    return Subject(block, params, state, extras, x, F.cross_entropy if target else None, target, about)


def from_target(target: Target, given: Given | None, weights: Path | None, seed: int = 0) -> Subject:
    """Return a target ready to be audited, on inputs that are given or its own, along a random direction.

    Args:
        target: the target.
        given: its inputs; None for its own.
        weights: a safetensors file with its parameters; None for those of the seed.
        seed: of parameters and inputs.

    Raises:
        ArgumentError: a function, or inputs that do not fit.
        CheckpointError: weights that do not fit.
    """
    block, params, state, x, extras = as_block(target, seed=seed, given=given, weights=weights)
    about = f"{len(leaves(x)[0])} inputs, along a random direction of the output"
    return Subject(block, params, state, extras, x, None, (), about)


def _options(case: Case) -> dict[str, Any]:
    """Return what the row's function takes by name, with the values that the row gives it or its defaults."""
    if not isinstance(case.make, partial):
        return {}
    signature = inspect.signature(case.make.func)
    bound = signature.bind(*case.make.args, **case.make.keywords)
    bound.apply_defaults()
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        found |= value if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    return found


def _known(options: dict[str, Any]) -> str:
    return f", only {', '.join(options)}" if options else " to choose"


def _made(case: Case, options: dict[str, Any], changed: dict[str, int], shape: Shape, depth: int | None) -> Block:
    """Return the row's block with some of its options changed, and as deep as asked for."""
    network = case.family == "network"
    if depth is not None and isinstance(options.get("depth"), int):
        changed["depth"] = depth
    elif depth is not None and network:
        raise ArgumentError(f"{case.name} has no depth{_known(options)}: leave out --depth")
    block = case.make.func(**{**options, **changed}) if changed and isinstance(case.make, partial) else case.make()
    if depth is None or network:
        return block
    if block.out_shape(shape) != tuple(shape):
        raise ArgumentError(f"{case.name} turns {shape} into {block.out_shape(shape)}: it cannot be repeated")
    return Repeat(block, depth)


def _real(case: Case, shape: Shape, data: Data) -> bool:
    """Return whether the input is digits."""
    features = len(shape) == 2 and shape[1] <= digits.PIXELS
    fits = case.tokens is None and case.family != "streams" and (features or len(shape) == 4)
    if data == "digits" and not fits:
        what = "token indices" if case.tokens is not None else f"inputs of shape {shape}"
        raise ArgumentError(
            f"{case.name} takes {what}: digits are images, or at most {digits.PIXELS} features; give --data example"
        )
    real = fits and data != "example"
    if real and importlib.util.find_spec("sklearn") is None:
        raise ArgumentError("digits come with scikit-learn: pip install 'pure-export[report]', or give --data example")
    return real


def _digits(shape: Shape, seed: int) -> tuple[Tensor, Tensor, str]:
    """Return standardised digits in a shape, their labels, and a word on both."""
    loaded = digits.load(Settings(seed=seed))
    x, labels = loaded.train_x[:SAMPLES], loaded.train_y[:SAMPLES]
    if len(shape) == 4:
        size = (shape[2], shape[3])
        x = F.interpolate(x.reshape(-1, 1, 8, 8), size=size, mode="bilinear", align_corners=False)
        return x.repeat(1, shape[1], 1, 1), labels, f"{SAMPLES} digits of {size[0]}×{size[1]} pixels"
    if shape[1] == digits.PIXELS:
        return x, labels, f"{SAMPLES} digits of {digits.PIXELS} pixels"
    _, _, directions = torch.linalg.svd(loaded.train_x - loaded.train_x.mean(0), full_matrices=False)
    components = loaded.train_x @ directions[: shape[1]].T
    deviations = components.std(0)
    scaled = components / torch.where(deviations > 1e-3, deviations, torch.ones(()))  # some pixels never change
    return scaled[:SAMPLES], labels, f"the first {shape[1]} principal components of {SAMPLES} digits"
