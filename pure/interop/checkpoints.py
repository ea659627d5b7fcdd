"""Checkpoints under the names of torchvision, timm and transformers: in and out, exact inverses of each other."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pure import tree
from pure.block import EMPTY, Block, Params, State, check_params, specification
from pure.errors import ArgumentError, TreeError, nearest
from pure.interop.files import read
from pure.interop.scheme import Rule, Scheme, Source
from pure.interop.schemes import SCHEMES

__all__ = ["from_state_dict", "to_state_dict"]

COUNTER = "num_batches_tracked"
Names = dict[str, tuple[str, Rule]]


def _leaves(block: Block) -> dict[str, Tensor]:
    params, state = specification(block)
    return {**tree.flatten(params), **tree.flatten(state)}


def _schemes(block: Block, source: str | None) -> list[tuple[Scheme, Names]]:
    """Return the schemes that name every leaf of the block."""
    sources = sorted({scheme.source for scheme in SCHEMES})
    if source is not None and source not in sources:
        raise ArgumentError(f"source={source!r}{nearest(source, sources)}: expected one of {', '.join(sources)}")
    own = list(_leaves(block))
    found = [(scheme, names) for scheme in SCHEMES if (names := scheme.translate(own)) is not None]
    fitting = [pair for pair in found if source in (None, pair[0].source)]
    if not fitting:
        known = ", ".join(sorted({scheme.source for scheme, _ in found})) or "none"
        raise ArgumentError(
            f"no names of {source or 'any library'} are known for this block (known: {known}), whose leaves are "
            f"{', '.join(own[:3])}, …: use a network of pure.nets, or pure.unflatten(state_dict) for names of your own"
        )
    return fitting


def _without_prefix(scheme: Scheme, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the checkpoint with the scheme's prefix taken off, where it is there."""
    cut = scheme.prefix
    return {name.removeprefix(cut) if cut else name: leaf for name, leaf in given.items()}


def _best(block: Block, given: Mapping[str, Tensor], source: str | None) -> tuple[Scheme, Names]:
    """Return the scheme whose names the checkpoint has most of."""

    def score(pair: tuple[Scheme, Names]) -> int:
        scheme, names = pair
        keys = _without_prefix(scheme, given).keys()
        return sum(theirs in keys for theirs, _ in names.values())

    return max(_schemes(block, source), key=score)


def from_state_dict(
    block: Block,
    state_dict: Mapping[str, Tensor] | str | os.PathLike[str],
    source: Source | None = None,
    ignore: Sequence[str] | str = (),
    *,
    generator: torch.Generator | None = None,
) -> tuple[Params, State]:
    """Return `(params, state)` of a network from a checkpoint of torchvision, timm or transformers.

    Args:
        block: a network of `pure.nets`, of any size, classes or input channels that the checkpoint has.
        state_dict: {the library's name: tensor}, or the path of a safetensors file or of the index of a sharded one;
            the tensors keep their dtype and device and are not copied. Nothing here unpickles.
        source: whose names they are; None finds out.
        ignore: names or prefixes, the library's, of tensors that are not taken, such as "fc" for another head; what
            the block has in their place is drawn.
        generator: for what is drawn; seed 0 if none is given.

    Raises:
        ArgumentError: an unknown source, a block whose names no library has, or an `ignore` that matches nothing.
        TreeError: one error with every missing, extra and mis-shaped tensor and the nearest names; or a tied weight
            whose two copies differ.
        SaveError: a file that is not there or is no safetensors file.
    """
    tensors = state_dict if isinstance(state_dict, Mapping) else read(state_dict)
    scheme, names = _best(block, tensors, source)
    given = _without_prefix(scheme, tensors)
    _require_equal_copies(scheme, given)
    ignored = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    _require_use(ignored, [*given, *(theirs for theirs, _ in names.values())])
    wanted = {ours: pair for ours, pair in names.items() if not _below(pair[0], ignored)}
    expected = _leaves(block)
    taken: dict[str, Tensor] = {}
    missing: list[str] = []
    wrong: list[str] = []
    for ours, (theirs, rule) in wanted.items():
        if theirs not in given:
            if not theirs.endswith(COUNTER):  # older checkpoints were written before it was kept
                missing.append(theirs)
            continue
        shape = tuple((rule.save(expected[ours]) if rule.save else expected[ours]).shape)
        if tuple(given[theirs].shape) == shape:
            taken[ours] = rule.load(given[theirs]) if rule.load else given[theirs]
        else:
            wrong.append(f"shape of {theirs!r} is {tuple(given[theirs].shape)}, expected {shape}")
    extra = _unexpected(scheme, names, [name for name in given if not _below(name, ignored)])
    known = [theirs for theirs, _ in names.values()]
    lines = [f"missing {name!r}{nearest(name, extra)}" for name in missing]
    lines += [f"unexpected {name!r}{nearest(name, [*missing, *known])}" for name in extra] + wrong
    if lines:
        raise TreeError(
            f"checkpoint with {scheme.source} names for {scheme.family}: {'; '.join(lines)}. "
            "To leave tensors out, name them or their prefix in ignore=(…)"
        )
    whole = {**_drawn(block, taken, generator), **taken}
    params, state = specification(block)

    def filled(part: Params) -> Params:
        return tree.unflatten({name: whole[name] for name in tree.flatten(part)}) if part else {}

    return filled(params), filled(state)


def _drawn(block: Block, taken: Mapping[str, Tensor], generator: torch.Generator | None) -> dict[str, Tensor]:
    """Return what the checkpoint did not give, as `init` makes it, in the checkpoint's dtype and on its device."""
    rest = [name for name in _leaves(block) if name not in taken]
    if all(name.endswith(COUNTER) for name in rest):
        fresh = {name: torch.zeros((), dtype=torch.int64) for name in rest}
    else:
        params, state = block.init(generator or torch.Generator().manual_seed(0))
        fresh = {**tree.flatten(params), **tree.flatten(state)}
    trainable = tree.flatten(specification(block)[0])
    example = next((leaf for leaf in taken.values() if leaf.is_floating_point()), None)
    if example is None:
        return {name: fresh[name] for name in rest}
    dtypes = {name: example.dtype if name in trainable else fresh[name].dtype for name in rest}
    return {name: fresh[name].to(device=example.device, dtype=dtypes[name]) for name in rest}


def _unexpected(scheme: Scheme, names: Names, given: Sequence[str]) -> list[str]:
    """Return the checkpoint's names that mean nothing to the network."""
    known = {theirs for theirs, _ in names.values()} | set(scheme.copies)
    patterns = [re.compile(pattern) for pattern in scheme.ignored]
    return [name for name in given if name not in known and not any(p.fullmatch(name) for p in patterns)]


def _require_use(ignored: Sequence[str], names: Sequence[str]) -> None:
    """Raise if something is to be ignored that is not there."""
    for prefix in ignored:
        if not any(_below(name, (prefix,)) for name in names):
            heads = list(dict.fromkeys(name.partition(".")[0] for name in names))
            raise ArgumentError(
                f"ignore={prefix!r}: no tensor has that name or prefix{nearest(prefix, names)}: "
                f"give names of the library's, which begin with {', '.join(heads)}"
            )


def _below(name: str, prefixes: Sequence[str]) -> bool:
    """Return whether a dotted name is one of `prefixes` or stands below one."""
    return any(name == prefix or name.startswith(prefix.rstrip(".") + ".") for prefix in prefixes)


def _require_equal_copies(scheme: Scheme, given: Mapping[str, Tensor]) -> None:
    """Raise if a tied weight stands twice in the checkpoint with different values."""
    for second, first in scheme.copies.items():
        if second in given and first in given and not torch.equal(given[second], given[first]):
            raise TreeError(
                f"checkpoint: {second!r} differs from {first!r}, to which {scheme.family} ties it: "
                "this network has one tensor for both"
            )


def to_state_dict(
    block: Block, params: Params, state: State = EMPTY, source: Source | None = None
) -> dict[str, Tensor]:
    """Return the trees of a network under a library's names: the exact inverse of `from_state_dict`.

    `pure.interop.write` writes the result as safetensors; tied weights stand in it under each of their names.

    Args:
        block: a network of `pure.nets`.
        params: its parameters.
        state: its state.
        source: whose names; needed where libraries name the network differently.

    Raises:
        ArgumentError: a block whose names the library does not have, or libraries that differ and no `source`.
        TreeError: trees that do not fit the block.
    """
    check_params(block, params, state)
    fitting = [pair for pair in _schemes(block, source) if not pair[0].reads_only]
    if len({tuple(theirs for theirs, _ in names.values()) for _, names in fitting}) > 1:
        choices = ", ".join(sorted({repr(str(scheme.source)) for scheme, _ in fitting}))
        raise ArgumentError(
            f"to_state_dict: libraries name this network differently: expected source= one of {choices}"
        )
    scheme, names = fitting[0]
    leaves = {**tree.flatten(params), **tree.flatten(state)}
    written = {
        scheme.prefix + theirs: rule.save(leaves[ours]) if rule.save else leaves[ours]
        for ours, (theirs, rule) in names.items()
    }
    for second, first in scheme.copies.items():
        written[second] = written[scheme.prefix + first]
    return written
