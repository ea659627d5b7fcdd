"""`ready`: a target as a pure function with example arguments, as exports and measurements take it."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.app import catalogue_examples
from export.app.catalogue_examples import BATCH as DYNAMIC_BATCH
from export.app.catalogue_examples import Call
from export.app.targets import inputs as example_inputs
from export.app.targets import weights as stored_weights
from export.app.targets.inputs import Given
from export.app.targets.nearest_names import nearest_five
from export.app.targets.resolution import Target
from export.errors import ArgumentError, listed
from pure import interop, tree
from pure.block import Block

__all__ = ["as_block", "perturbed", "plain_module_call", "ready"]

RELATIVE, ABSOLUTE = 0.1, 0.1
"""How far weights are moved: as a part of themselves, and for a leaf of one input feature."""

OF_A_BIAS = 0.5
"""How far biases and gains are moved at most: enough for every unit of the catalogue's small blocks to be alive."""

UNNAMED = re.compile(r"arr_\d+")
"""What numpy calls arrays that are saved without names: they are taken in their order."""

NO_INPUTS = "has no example input of its own: give --inputs FILE.npz"


def ready(
    target: Target,
    *,
    seed: int = 0,
    given: Given | None = None,
    weights: Path | None = None,
    moved: bool = False,
) -> Call:
    """Return a target as a pure call: `fn(params, x, …)`, or a function with its own arguments.

    Args:
        target: the target.
        seed: of parameters, and of inputs where none are given.
        given: its inputs; None for its own.
        weights: a safetensors file with the parameters; None for those drawn from the seed, or the module's own.
        moved: whether parameters and state are perturbed, so that none is without influence; not if `weights` is
            given.

    Raises:
        ArgumentError: there are no inputs, or arrays that do not fit the arguments.
        CheckpointError: the weights do not fit.
    """
    if isinstance(target.value, nn.Module):
        call = _module_call(target, seed, given, weights)
    elif isinstance(target.value, Block):
        call = _block_call(target, seed, given, weights)
    else:
        return _function_call(target, given, weights)
    if not moved or weights is not None:
        return call
    return call.replaced({name: perturbed(call.argument(name), seed, upwards=name == "state") for name in call.owned})


def as_block(
    target: Target, *, seed: int = 0, given: Given | None = None, weights: Path | None = None
) -> tuple[Block, Any, Any, Any, dict[str, Any]]:
    """Return a target as `(block, params, state, x, extras)`.

    Raises:
        ArgumentError: a function, which has no blocks; no inputs, or inputs that do not fit.
        CheckpointError: the weights do not fit.
    """
    if isinstance(target.value, nn.Module):
        named, positional = _module_inputs(target, seed, given, weights)
        block, params, state = interop.from_module(target.value)
        values = tuple(named.values())
        x = values[0] if positional == 1 else values[:positional]
        return block, params, state, x, dict(zip(list(named)[positional:], values[positional:], strict=True))
    if not isinstance(target.value, Block):
        raise ArgumentError(f"{target.name} is a function, expected a block or a module: pure.Function makes it one")
    call = _block_call(target, seed, given, weights)
    named = dict(zip(call.names, call.args, strict=True))
    return target.value, named["params"], named.get("state", {}), named["x"], named.get("extras", {})


def perturbed(trees: Any, seed: int = 0, *, upwards: bool = False) -> Any:
    """Return trees with every float leaf moved by up to a tenth of itself, and of a usual weight of its width.

    Gains that start at 0 have influence then. Gains and biases grow, so that the few units of a small block stay
    alive. With `upwards`, for statistics, nothing gets smaller: variances stay positive.

    >>> moved = perturbed({"gain": torch.zeros(3)})
    >>> bool((moved["gain"] != 0).all())
    True
    """
    generator = torch.Generator().manual_seed(seed + 1)

    def move(leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            return leaf
        draws = torch.rand((2, *leaf.shape), generator=generator).to(leaf)
        if leaf.ndim > 1 and not upwards:
            draws = 2 * draws - 1
        features = leaf[0].numel() if leaf.ndim > 1 and len(leaf) else 1
        absolute = ABSOLUTE if leaf.ndim > 1 or upwards else OF_A_BIAS
        return leaf * (1 + RELATIVE * draws[0]) + absolute * draws[1] / max(features, 1) ** 0.5

    return tree.tree_map(move, trees)


def _block_call(target: Target, seed: int, given: Given | None, weights: Path | None) -> Call:
    block: Block = target.value
    if target.case is not None:
        call = catalogue_examples.call(target.case, seed=seed)
        row = dict(zip(call.names, call.args, strict=True))
        params, state = row["params"], row.get("state", {})
        x, extras, own = row["x"], row.get("extras", {}), call.own_extras
    else:
        params, state = block.init(torch.Generator().manual_seed(seed))
        x, extras, own = None, {}, ()
        if target.kind == "network" and given is None:
            x = example_inputs.network_input(target.name, block, seed)
    if weights is not None:
        params, state = stored_weights.block_trees(block, target.name, weights, params, state)
    if given is not None:
        named = _assigned(given, ["x", "extras"], 0, target.name, order=["x"])
        x = named.get("x", x)
        extras = {**extras, **named.get("extras", {})}
        own = tuple(named.get("extras", own))
    if x is None:
        raise ArgumentError(f"{target.name} {NO_INPUTS} with an array x")
    return catalogue_examples.block_call(block, params, x, state, extras, own)


def _module_call(target: Target, seed: int, given: Given | None, weights: Path | None) -> Call:
    """Return a module as `fn(params, …, state)`, its inputs under the names that `forward` gives them."""
    named, positional = _module_inputs(target, seed, given, weights)
    block, params, state = interop.from_module(target.value)
    names = [{"params": "params_", "state": "state_"}.get(name, name) for name in named]
    keywords = list(named)[positional:]

    def called(params: Any, *rest: Any) -> Any:
        own, state_given = rest[: len(names)], rest[len(names)] if state else {}
        x = own[0] if positional == 1 else tuple(own[:positional])
        return block(params, x, state_given, dict(zip(keywords, own[positional:], strict=True)))

    whole = ("params", *names, *(["state"] if state else []))
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in whole])
    called.__signature__ = signature  # type: ignore[attr-defined]
    called.__qualname__ = called.__name__ = type(target.value).__name__
    batches = [DYNAMIC_BATCH if _batched(value) else None for value in named.values()]
    more = [state] if state else []
    return Call(whole, called, (params, *named.values(), *more), (None, *batches, *([None] * len(more))))


def plain_module_call(target: Target, seed: int, given: Given | None, weights: Path | None) -> Call:
    """Return a module's own call: positional and keyword arguments, with `weights` loaded into it."""
    named, positional = _module_inputs(target, seed, given, weights)
    names, values = tuple(named), tuple(named.values())
    keywords = dict(zip(names[positional:], values[positional:], strict=True))
    return Call(names[:positional], target.value, values[:positional], (None,) * positional, kwargs=keywords)


def _module_inputs(target: Target, seed: int, given: Given | None, weights: Path | None) -> tuple[dict[str, Any], int]:
    """Return a module's inputs in the order of `forward`, and how many of them are positional."""
    module: nn.Module = target.value
    if weights is not None:
        stored_weights.load_into(module, target.name, weights)
    names, required = _parameters(module.forward)
    if given is not None:
        named = _assigned(given, names, required, target.name, order=names)
    elif target.image is not None:
        shape = (example_inputs.BATCH, *target.image)
        named = {names[0]: torch.randn(shape, generator=torch.Generator().manual_seed(seed))}
    else:
        raise ArgumentError(f"{target.name} {NO_INPUTS} with {_arrays_text(names, required)}")
    ordered = {name: named[name] for name in [*names, *named] if name in named}
    positional = 0
    for name, known in zip(ordered, names, strict=False):
        if name != known:
            break
        positional += 1
    return ordered, positional


def _function_call(target: Target, given: Given | None, weights: Path | None) -> Call:
    names, required = _parameters(target.value)
    stored = {} if weights is None else interop.read(weights)
    if stored:
        if not names:
            raise ArgumentError(f"{target.name} names no arguments, so --weights has no place: leave it out")
        root = f"{names[0]}."
        stored = {f"{root}{key.removeprefix(root)}": leaf for key, leaf in stored.items()}
    if given is None:
        if required:
            raise ArgumentError(f"{target.name} {NO_INPUTS} with {_arrays_text(names, required)}")
        given = Given({})
    order = (names[1:] if stored else names) or [f"arg{i}" for i in range(len(given.arrays))]
    if stored and given.in_order and not {key.partition(".")[0] for key in given.arrays} & set(names):
        given = dataclasses.replace(given, arrays=dict(zip(order, given.arrays.values(), strict=False)))
    given = dataclasses.replace(given, arrays={**stored, **given.arrays})
    named = _assigned(given, names, required, target.name, order=order)
    ordered = tuple(name for name in names or named if name in named)
    if names and ordered != tuple(names[: len(ordered)]):
        skipped = next(name for name, own in zip(names, ordered, strict=False) if name != own)
        raise ArgumentError(f"{target.name}: {skipped} is not given, but {ordered[-1]} after it is: give both")
    return Call(ordered, target.value, tuple(named[name] for name in ordered), (None,) * len(ordered))


def _parameters(function: Any) -> tuple[list[str], int]:
    """Return the names of a function's parameters, and how many of them must be given; the first few are those."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return [], 0
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    named.sort(key=lambda p: p.default is not p.empty)
    return [p.name for p in named], sum(p.default is p.empty for p in named)


def _assigned(given: Given, names: Sequence[str], required: int, what: str, order: Sequence[str]) -> dict[str, Any]:
    """Return arrays as arguments: by name, dots leading into dicts, or one array an argument of `order`."""
    arrays = given.arrays
    roots = list(dict.fromkeys(name.partition(".")[0] for name in arrays))
    missing = [name for name in names[:required] if name not in roots]
    if not missing and all(root in names for root in roots):
        return {root: _tree_at(root, arrays) for root in roots}
    unnamed = given.in_order or not names or all(UNNAMED.fullmatch(root) for root in roots)
    if unnamed and not set(roots) & set(names) and required <= len(arrays) <= len(order):
        return dict(zip(order, arrays.values(), strict=False))
    problems = [f"{name}: missing" for name in missing]
    problems += [f"{root}: not expected{nearest_five(root, names)}" for root in roots if root not in names]
    raise ArgumentError(
        f"the {given.origin} are not the arguments of {what}, {_arrays_text(names, required)}:{listed(problems)}"
    )


def _tree_at(root: str, arrays: Mapping[str, Tensor]) -> Any:
    """Return the array of that name, or the dict of those whose names begin with it and a dot."""
    if root in arrays:
        return arrays[root]
    return tree.unflatten(
        {name.partition(".")[2]: leaf for name, leaf in arrays.items() if name.startswith(f"{root}.")}
    )


def _arrays_text(names: Sequence[str], required: int) -> str:
    shown = [*names[:required], *(f"[{name}]" for name in names[required : required + 3])]
    return f"arrays {', '.join(shown)}" if shown else "no arrays"


def _batched(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0
