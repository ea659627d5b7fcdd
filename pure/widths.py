"""Channel counts rounded to a divisor."""

from __future__ import annotations

__all__ = ["divisible"]


def divisible(channels: float, divisor: int = 8, keep: float = 0.9) -> int:
    """Return the multiple of `divisor` nearest to `channels`, at least `divisor` and at least `keep` · `channels`.

    The rule by which MobileNet and its successors, and timm, round the widths of scaled networks.

    >>> divisible(30), divisible(11), divisible(11, keep=0.0)
    (32, 16, 8)
    """
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < keep * channels else nearest
