"""The distribution that an initialiser draws from: variance, mean, and whether it is Gaussian."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch.nn.init import calculate_gain

from pure.errors import UnsupportedError
from pure.initializers import (
    Constant,
    Initializer,
    KaimingNormal,
    KaimingUniform,
    Normal,
    Orthogonal,
    TruncatedNormal,
    Uniform,
    XavierNormal,
    XavierUniform,
)

__all__ = ["Drawn", "drawn"]


@dataclass(frozen=True)
class Drawn:
    """The law of a weight's or bias's entries.

    Attributes:
        variance: of an entry around `mean`.
        mean: of an entry.
        kind: "gaussian" and "iid" entries are independent and symmetric around the mean; "orthogonal" is Haar's law.
    """

    variance: float
    mean: float = 0.0
    kind: Literal["gaussian", "iid", "orthogonal"] = "iid"


def drawn(rule: Initializer, outputs: int, inputs: int) -> Drawn:
    """Return the law of a matrix (outputs, inputs) that `rule` draws.

    Args:
        rule: one of `pure.initializers`.
        outputs: rows.
        inputs: columns.

    Raises:
        UnsupportedError: a rule of one's own, or a truncated normal that is not symmetric.

    Example:
        >>> drawn(KaimingUniform(), 5, 3).variance * 9, drawn(Normal(std=0.5), 5, 8)
        (1.0, Drawn(variance=0.25, mean=0.0, kind='gaussian'))
    """
    if isinstance(rule, Normal):
        return Drawn(rule.std**2, rule.mean, "gaussian")
    if isinstance(rule, Constant):
        return Drawn(0.0, rule.value, "gaussian")
    if isinstance(rule, Uniform):
        return Drawn((rule.high - rule.low) ** 2 / 12, (rule.high + rule.low) / 2)
    if isinstance(rule, KaimingNormal | KaimingUniform):
        fan = inputs if rule.mode == "fan_in" else outputs
        gain = calculate_gain(rule.nonlinearity, rule.a)  # type: ignore[arg-type]
        return Drawn(gain**2 / fan, kind="gaussian" if isinstance(rule, KaimingNormal) else "iid")
    if isinstance(rule, XavierNormal | XavierUniform):
        return Drawn(
            2 * rule.gain**2 / (inputs + outputs), kind="gaussian" if isinstance(rule, XavierNormal) else "iid"
        )
    if isinstance(rule, Orthogonal):
        return Drawn(rule.gain**2 / max(inputs, outputs), kind="orthogonal")
    if isinstance(rule, TruncatedNormal):
        return Drawn(_truncated(rule))
    raise UnsupportedError(
        f"the initialiser {type(rule).__name__} is unknown to theory: the variance of its entries is needed"
    )


def _truncated(rule: TruncatedNormal) -> float:
    """Return the variance of a symmetric truncated normal."""
    cut = (rule.high - rule.mean) / rule.std
    if not math.isclose(cut, (rule.mean - rule.low) / rule.std, rel_tol=1e-9) or rule.mean != 0:
        raise UnsupportedError(f"{rule} is not symmetric around 0, as the laws need")
    inside = math.erf(cut / math.sqrt(2))
    return rule.std**2 * (1 - 2 * cut * math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi) / inside)
