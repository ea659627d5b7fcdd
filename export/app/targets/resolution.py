"""`resolve`: from the text of a target to the block, module or function that it names."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from export.app.targets import libraries, user_code
from export.app.targets.nearest_names import nearest_five
from export.errors import ArgumentError
from pure import catalogue, nets
from pure.block import Block
from pure.catalogue import Case

__all__ = ["Kind", "Target", "resolve", "running"]

Kind = Literal["row", "network", "block", "module", "function"]


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """What a command works on.

    Attributes:
        name: the text that names it.
        kind: a row of the catalogue, a network of `pure.nets`, or a user's or library's block, module or function.
        value: the block, the module or the function.
        case: the row, None for all other kinds.
        image: channels, height and width that a library's model takes, None where that is not known.
        file: the file that it was loaded from, an empty string for what is built in.
    """

    name: str
    kind: Kind
    value: Any
    case: Case | None = None
    image: tuple[int, ...] | None = None
    file: str = ""


def resolve(text: str, *, seed: int = 0) -> Target:
    """Return what a target names.

    Args:
        text: as the package's docstring says.
        seed: of the weights of a module that is made here; the process's own generator is left as it was.

    Raises:
        ArgumentError: an unknown name, with the five nearest ones; an attribute that is neither a block, a module nor
            a function; a missing library; or user code that raises, with its file and line.

    Example:
        >>> resolve("skip_mlp").kind, resolve("resnet18").kind
        ('row', 'network')
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _resolved(text)


def _resolved(text: str) -> Target:
    before, colon, after = text.rpartition(":")
    if not colon:
        return _built_in(text)
    if not before or not after:
        raise ArgumentError(f"{text!r} lacks a part: give MODULE:ATTRIBUTE, FILE.py:ATTRIBUTE, timm:NAME")
    if before in libraries.LIBRARIES:
        made = libraries.model(before, after)
        return Target(text, "module", made, image=libraries.image_size(before, made))
    found, file = user_code.attribute(before, after)
    return _taken(text, found, file)


def _built_in(text: str) -> Target:
    rows = {case.name: case for case in catalogue.CASES}
    if text in rows:
        return Target(text, "row", rows[text].make(), rows[text])
    if text in nets.NETWORKS:
        missing = [
            parameter.name
            for parameter in inspect.signature(nets.NETWORKS[text]).parameters.values()
            if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        ]
        if missing:
            raise ArgumentError(
                f"network {text!r} has no default for {', '.join(missing)}: write a file with "
                f"`net = pure.nets.{text}(…)` and give FILE.py:net"
            )
        return Target(text, "network", nets.create(text))
    if text.endswith(".py"):
        raise ArgumentError(f"{text!r} names no attribute: give {text}:ATTRIBUTE")
    raise ArgumentError(
        f"{text!r} is unknown as a row of the catalogue or a network{nearest_five(text, {**rows, **nets.NETWORKS})}; "
        "pure-export list shows the rows; other targets are MODULE:ATTRIBUTE, FILE.py:ATTRIBUTE, timm:NAME and "
        "torchvision:NAME"
    )


def _taken(text: str, found: Any, file: str) -> Target:
    """Return an attribute as a target; classes and functions without required parameters are called."""
    if isinstance(found, type):
        if not issubclass(found, nn.Module | Block):
            raise ArgumentError(f"{text} is the class {found.__name__}, expected a module, a block or a function")
        if required := _required(found):
            raise ArgumentError(
                f"{text} is a class whose {', '.join(required)} must be given: write a function without parameters "
                f"that returns {found.__name__}(…), or an attribute that holds one, and name that"
            )
        with user_code.UserCode(f"calling {text}()", file):
            found = found()
    elif inspect.isroutine(found) and _required(found) == []:
        with user_code.UserCode(f"calling {text}()", file):
            made = found()
        if isinstance(made, nn.Module | Block):
            found = made
    if isinstance(found, Block):
        return Target(text, "block", found, file=file)
    if isinstance(found, nn.Module):
        return Target(text, "module", found, file=file)
    if callable(found):
        return Target(text, "function", found, file=file)
    raise ArgumentError(f"{text} is of type {type(found).__name__}, expected a module, a block or a function")


def _required(function: Callable[..., Any]) -> list[str] | None:
    """Return the parameters that have to be given; None if Python does not know the signature."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    various = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in various]


def running(target: Target) -> contextlib.AbstractContextManager[None]:
    """Turn what a user's or a library's code raises while it runs into a typed error with its line.

    Raises:
        ArgumentError: when the body raises anything but this library's own errors.
    """
    if target.kind in ("row", "network"):
        return contextlib.nullcontext()
    return user_code.UserCode(f"running {target.name}", target.file)
