"""An einsum of an input and a weight, read as one product with a matrix."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Contraction", "contraction"]


@dataclass(frozen=True)
class Contraction:
    """x is permuted, its last `contracted` axes flattened and multiplied with the matrix, and the result permuted.

    Attributes:
        before: order of x's axes for the product; the contracted ones are the last.
        contracted: how many axes are summed over.
        leading: whether they are the weight's first axes (x W), not its last (x Wᵀ).
        after: order of the product's axes, those of x that are left and then the weight's, for the output.
    """

    before: tuple[int, ...]
    contracted: int
    leading: bool
    after: tuple[int, ...]


def contraction(equation: str, x_first: bool, x_axes: int, weight_axes: int) -> Contraction | None:
    """Return how an einsum of an input and a weight is one product with a matrix, None if it is not.

    Every axis of the weight is either summed over with the input's or one of the output's own, those summed over
    stand together at one end of the weight, and nothing else is summed over.

    Args:
        equation: einsum's.
        x_first: whether the input stands before the weight in it.
        x_axes: how many axes the input has.
        weight_axes: how many the weight has.

    Example:
        >>> contraction("btd,dhk->bhtk", True, 3, 3)
        Contraction(before=(0, 1, 2), contracted=1, leading=True, after=(0, 2, 1, 3))
        >>> contraction("bd,bd->b", True, 2, 2) is None
        True
    """
    sides = equation.replace(" ", "").split("->")
    names = sides[0].split(",")
    if len(sides) != 2 or len(names) != 2:
        return None
    x, weight = names if x_first else names[::-1]
    out = sides[1]
    spare = [chr(code) for code in range(0x3B1, 0x3B1 + x_axes) if chr(code) not in equation]
    rest = "".join(spare[: x_axes - len(x.replace("...", ""))]) if "..." in x else ""
    x, out = x.replace("...", rest), out.replace("...", rest)
    summed = [axis for axis in weight if axis in x and axis not in out]
    free = [axis for axis in weight if axis not in x and axis in out]
    left = [axis for axis in x if axis not in summed]
    plain = len(set(x)) == len(x) == x_axes and len(set(weight)) == len(weight) == weight_axes
    leading = weight.startswith("".join(summed))
    if (
        not plain
        or not summed
        or not free
        or len(summed) + len(free) != weight_axes
        or not (leading or weight.endswith("".join(summed)))
        or sorted(left + free) != sorted(out)
    ):
        return None
    product = left + free
    return Contraction(
        before=tuple(x.index(axis) for axis in left + summed),
        contracted=len(summed),
        leading=leading,
        after=tuple(product.index(axis) for axis in out),
    )
