"""Numbers of bytes as text."""

from __future__ import annotations

__all__ = ["in_mib"]


def in_mib(count: int) -> str:
    """Return a number of bytes as text.

    >>> in_mib(3 * 2**20), in_mib(1000)
    ('3.0 MiB', '0.001 MiB')
    """
    size = count / 2**20
    return f"{size:,.1f} MiB" if size >= 0.1 else f"{size:.1g} MiB"
