"""How one library names the tensors of one family of networks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from torch import Tensor

__all__ = ["Rule", "Scheme", "Source"]

Source = Literal["torchvision", "timm", "transformers"]
Groups = Mapping[str, str]


@dataclass(frozen=True)
class Rule:
    """Translation of one name of ours, or of all names of one form, to the library's.

    Attributes:
        ours: template of our dotted name. `{word}` stands for letters, digits and underscores, `{rest}` for anything.
        theirs: the library's template with the same words, or a function of the words.
        load: turns the library's tensor into ours.
        save: turns ours into the library's; its exact inverse.

    Example:
        >>> Rule("layer{n}.{i}.shortcut.conv.{leaf}", "layer{n}.{i}.downsample.0.{leaf}").translate(
        ...     "layer1.0.shortcut.conv.weight")
        'layer1.0.downsample.0.weight'
    """

    ours: str
    theirs: str | Callable[[Groups], str]
    load: Callable[[Tensor], Tensor] | None = None
    save: Callable[[Tensor], Tensor] | None = None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        def group(match: re.Match[str]) -> str:
            return f"(?P<{match[1]}>.+)" if match[1] == "rest" else rf"(?P<{match[1]}>\w+)"

        return re.compile(re.sub(r"\\\{(\w+)\\\}", group, re.escape(self.ours)))

    def translate(self, name: str) -> str | None:
        """Return the library's name for one of ours, None if the rule is not about it."""
        match = self._pattern.fullmatch(name)
        if match is None:
            return None
        words = match.groupdict()
        return self.theirs.format(**words) if isinstance(self.theirs, str) else self.theirs(words)


@dataclass(frozen=True)
class Scheme:
    """How a library names the tensors of a family of networks.

    Attributes:
        source: the library.
        family: the networks, for messages.
        rules: the first one whose `ours` fits a name translates it.
        ignored: patterns (`re.fullmatch`) of the library's names that a checkpoint may hold and that carry nothing,
            such as constant masks.
        copies: {a second name: the name that it repeats}, for tied weights; written on saving, and on loading required
            to be equal where they are there.
        prefix: prefix of every name in a checkpoint of the network inside a larger model; optional on loading.
        needs: what one of our names must contain, where another family's names would fit too.
        reads_only: an older naming, which is read and no longer written.
    """

    source: Source
    family: str
    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    reads_only: bool = False
    needs: str = ""

    def translate(self, names: list[str]) -> dict[str, tuple[str, Rule]] | None:
        """Return {our name: (the library's, the rule)}, None if a name has no rule or two coincide."""
        if self.needs and not any(self.needs in name for name in names):
            return None
        found: dict[str, tuple[str, Rule]] = {}
        for name in names:
            for rule in self.rules:
                theirs = rule.translate(name)
                if theirs is not None:
                    found[name] = theirs, rule
                    break
            else:
                return None
        unique = {theirs for theirs, _ in found.values()}
        return found if len(unique) == len(found) else None
