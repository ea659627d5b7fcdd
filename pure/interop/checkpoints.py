"""Read and write checkpoints under the names of torchvision, timm and transformers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.block import EMPTY, Block, Params, State, check_params, specification
from pure.errors import ArgumentError, nearest
from pure.interop.files import read
from pure.interop.mismatch import CheckpointError, check_tensors, misfit, refusal
from pure.interop.scheme import Rule, Scheme, Source
from pure.interop.schemes import SCHEMES
from pure.interop.schemes.vit import POSITIONS

__all__ = ["from_state_dict", "to_state_dict"]

COUNTER = "num_batches_tracked"
Names = dict[str, tuple[str, Rule]]


def _require_block(block: object) -> None:
    if not isinstance(block, Block):
        raise ArgumentError(f"block is {type(block).__name__}, expected a network of pure.nets")


def _leaves(block: Block) -> dict[str, Tensor]:
    params, state = specification(block)
    return {**tree.flatten(params), **tree.flatten(state)}


def _schemes(block: Block, source: str | None) -> list[tuple[Scheme, Names]]:
    """Return the schemes that name every leaf of the block."""
    sources = sorted({scheme.source for scheme in SCHEMES})
    if source is not None and source not in sources:
        raise ArgumentError(f"source={source!r}{nearest(str(source), sources)}: expected one of {', '.join(sources)}")
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


def _best(block: Block, given: Mapping[str, Tensor], source: str | None) -> tuple[Scheme, Names]:
    """Return the scheme most of whose names the checkpoint has, with the names, with or without its prefix."""
    choices = [
        (scheme, {ours: (prefix + theirs, rule) for ours, (theirs, rule) in names.items()})
        for scheme, names in _schemes(block, source)
        for prefix in dict.fromkeys((scheme.prefix, ""))
    ]
    return max(choices, key=lambda pair: sum(theirs in given for theirs, _ in pair[1].values()))


RESIZED = (
    " (positions of another image size: make the network with that image_size=…, or load resize_positions(block, …))"
)


def from_state_dict(
    block: Block,
    state_dict: Mapping[str, Tensor] | str | os.PathLike[str],
    source: Source | None = None,
    ignore: Iterable[str] | str = (),
    *,
    generator: torch.Generator | None = None,
) -> tuple[Params, State]:
    """Return `(params, state)` from a checkpoint of torchvision, timm or transformers.

    Args:
        block: a network of `pure.nets`, of any size, classes or input channels that the checkpoint has.
        state_dict: {the library's name: tensor}, or the path of a safetensors file or of the index of a sharded one;
            the tensors keep their dtype and device and are not copied. Nothing here unpickles.
        source: the library that the names belong to; None to find out from the names.
        ignore: names, prefixes or glob patterns, in the library's names, of tensors not to load, such as "fc" for
            another head; the block's own leaves there are sampled as `init` does.
        generator: for the leaves that are sampled; None for seed 0.

    Raises:
        ArgumentError: neither a mapping nor a path, an unknown source, a block that no library names, or an `ignore`
            that matches nothing.
        CheckpointError: one `TreeError` that lists all tensors that are missing, unexpected, of another shape or not
            tensors, with the nearest names; or a tied weight whose two copies differ.
        SaveError: a file that does not exist or is not a safetensors file.
    """
    _require_block(block)
    tensors = _opened(state_dict)
    ignored = _patterns(ignore)
    given = {name: leaf for name, leaf in tensors.items() if not (isinstance(name, str) and _below(name, ignored))}
    check_tensors(given)
    scheme, names = _best(block, tensors, source)
    _require_equal_copies(scheme, names, given)
    _require_use(ignored, [*map(str, tensors), *(theirs for theirs, _ in names.values())])
    wanted = {ours: pair for ours, pair in names.items() if not _below(pair[0], ignored)}
    expected = _leaves(block)
    taken: dict[str, Tensor] = {}
    missing: list[str] = []
    misfits: dict[str, str] = {}
    for ours, (theirs, rule) in wanted.items():
        if theirs not in given:
            if not theirs.endswith(COUNTER):  # older checkpoints were written before it was kept
                missing.append(theirs)
            continue
        leaf, like = given[theirs], rule.save(expected[ours]) if rule.save else expected[ours]
        wrong = misfit(theirs, leaf, like)
        if wrong is None:
            taken[ours] = rule.load(leaf) if rule.load else leaf
        else:
            misfits[theirs] = wrong + (RESIZED if theirs in POSITIONS else "")
    extra = _unexpected(scheme, names, list(given))
    if missing or extra or misfits:
        theirs_all = [theirs for theirs, _ in wanted.values()]
        what = f"{scheme.source} names for {scheme.family}"
        raise refusal(what, theirs_all, list(given), missing, extra, misfits)
    whole = {**_drawn(block, taken, generator), **taken}
    params, state = specification(block)

    def filled(part: Params) -> Params:
        return tree.unflatten({name: whole[name] for name in tree.flatten(part)}) if part else {}

    return filled(params), filled(state)


def _opened(state_dict: Any) -> Mapping[str, Any]:
    """Return the tensors of a mapping or of a file."""
    if isinstance(state_dict, Mapping):
        return state_dict
    if isinstance(state_dict, str | os.PathLike):
        return read(state_dict)
    fix = "give module.state_dict()" if isinstance(state_dict, torch.nn.Module) else "give a state_dict"
    raise ArgumentError(
        f"state_dict is {type(state_dict).__name__}, expected a mapping of names to tensors or a path: {fix}"
    )


def _drawn(block: Block, taken: Mapping[str, Tensor], generator: torch.Generator | None) -> dict[str, Tensor]:
    """Return the leaves that the checkpoint lacks, sampled by `init`, in its dtype and on its device."""
    example = next((leaf for leaf in taken.values() if leaf.is_floating_point()), torch.empty(0))
    rest = [name for name in _leaves(block) if name not in taken]
    if all(name.endswith(COUNTER) for name in rest):
        return {name: torch.zeros((), dtype=torch.int64, device=example.device) for name in rest}
    device = "meta" if example.is_meta else "cpu"
    params, state = block.init(generator or torch.Generator().manual_seed(0), device=device)
    trainable = {name: leaf.to(example.dtype) for name, leaf in tree.flatten(params).items()}
    fresh = {**trainable, **tree.flatten(state)}
    return {name: fresh[name].to(example.device) for name in rest}


def _unexpected(scheme: Scheme, names: Names, given: Sequence[str]) -> list[str]:
    """Return the checkpoint's names that the network does not have."""
    known = {theirs for theirs, _ in names.values()} | set(scheme.copies)
    patterns = [re.compile(pattern) for pattern in scheme.ignored]
    return [name for name in given if name not in known and not any(p.fullmatch(name) for p in patterns)]


def _patterns(ignore: Any) -> tuple[str, ...]:
    """Return `ignore` as a tuple of strings."""
    found = (ignore,) if isinstance(ignore, str) else tuple(ignore) if isinstance(ignore, Iterable) else (ignore,)
    wrong = [item for item in found if not isinstance(item, str)]
    if wrong:
        raise ArgumentError(f"ignore={ignore!r}: {wrong[0]!r} is no string, expected names, as in ignore=('fc',)")
    return found


def _require_use(ignored: Sequence[str], names: Sequence[str]) -> None:
    """Raise if a pattern to ignore matches no name."""
    for prefix in ignored:
        if not any(_below(name, (prefix,)) for name in names):
            heads = list(dict.fromkeys(name.partition(".")[0] for name in names))
            raise ArgumentError(
                f"ignore={prefix!r}: no tensor has that name or prefix{nearest(prefix, names)}: "
                f"give names of the library's, which begin with {', '.join(heads)}"
            )


def _below(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a dotted name is one of `patterns`, is below one, or matches one with wildcards."""
    return any(
        name == pattern or name.startswith(pattern.rstrip(".") + ".") or fnmatchcase(name, pattern)
        for pattern in patterns
    )


def _require_equal_copies(scheme: Scheme, names: Names, given: Mapping[str, Tensor]) -> None:
    """Raise if the checkpoint has two copies of a tied weight with different values."""
    written = {theirs.removeprefix(scheme.prefix): theirs for theirs, _ in names.values()}
    for second, bare in scheme.copies.items():
        first = written[bare]
        if second in given and first in given and not _same(given[second], given[first]):
            raise CheckpointError(
                f"checkpoint: {second!r} differs from {first!r}, to which {scheme.family} ties it: "
                "this network has one tensor for both",
                misfits={second: f"differs from {first!r}"},
            )


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are alike, those without values by shape and dtype."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return a is b or a.is_meta or b.is_meta or torch.equal(a, b.to(a.device))


def to_state_dict(
    block: Block, params: Params, state: State = EMPTY, source: Source | None = None
) -> dict[str, Tensor]:
    """Return the trees of a network as one state dict under a library's names.

    It is the exact inverse of `from_state_dict`.
    `pure.interop.write` writes the result as safetensors; tied weights are in it under each of their names.

    Args:
        block: a network of `pure.nets`.
        params: its parameters.
        state: its state.
        source: the library to name for; needed where libraries name the network differently.

    Raises:
        ArgumentError: a block whose names the library does not have, or libraries that differ and no `source`.
        TreeError: trees that do not fit the block.
    """
    _require_block(block)
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
