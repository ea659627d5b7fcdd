"""A recognised call, and what is known about the tensors it was given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from pure.flow.per_sample.weight_uses import Use
from pure.flow.shared.leaf_provenance import Origin

__all__ = ["Call", "Constants"]


def unchanged(y: Tensor) -> Tensor:
    """Return `y`."""
    return y


@dataclass(frozen=True, eq=False)
class Call:
    """A recognised call.

    Attributes:
        use: what is run.
        input: on what.
        finish: what is left to do with the output.
    """

    use: Use
    input: Tensor
    finish: Callable[[Tensor], Tensor] = unchanged


@dataclass(frozen=True, eq=False)
class Constants:
    """The parameters as constants, to be found by their copies.

    Attributes:
        origin: where a tensor comes from, None if it is neither a leaf's copy nor a followed slice of one.
        leaves: {dotted name: the parameter itself, which has no gradient}.
        turned: {id: (transpose of a followed matrix, where the matrix comes from)}.
    """

    origin: Callable[[object], Origin | None]
    leaves: Mapping[str, Tensor]
    turned: dict[int, tuple[Tensor, Origin]] = field(default_factory=dict)

    def value(self, origin: Origin) -> Tensor:
        """Return the constant."""
        leaf = self.leaves[origin.name]
        return leaf[origin.path] if origin.path else leaf

    def optional(self, value: object) -> tuple[Origin | None, Tensor | None] | None:
        """Return where a parameter that may be left out comes from and its constant, None if it is something else."""
        if value is None:
            return None, None
        origin = self.origin(value)
        return None if origin is None else (origin, self.value(origin))

    def matrix(self, value: object) -> tuple[Origin, bool] | None:
        """Return where a matrix comes from, and whether `value` is its transpose."""
        if not isinstance(value, Tensor) or value.ndim != 2:
            return None
        origin = self.origin(value)
        if origin is not None:
            return origin, False
        found = self.turned.get(id(value))
        return None if found is None else (found[1], True)
