"""Pre-norm networks x ← x + α f(norm(x)): the stream grows, and each branch counts for less the later it comes."""

from __future__ import annotations

__all__ = ["partial_jacobian", "stream_variance"]


def stream_variance(depth: int, start: float = 1.0, gain: float = 1.0) -> list[float]:
    """Return q_0, …, q_L with q_l = q_0 + a l: the mean square of the stream after l blocks x + α f(norm(x)).

    The branch sees an input of mean square 1, whatever the stream is, and adds a = α² g to it, uncorrelated. So the
    mean over draws is exact at every width, but for the norm's eps.

    Args:
        depth: L.
        start: q_0, the mean square of the input.
        gain: a = α² g.

    Source: Xiong et al. 2020 (2002.04745), who find 1 + l/2 with their initialisation.

    Example:
        >>> stream_variance(3)
        [1.0, 2.0, 3.0, 4.0]
    """
    return [start + gain * index for index in range(depth + 1)]


def partial_jacobian(depth: int, start: float = 1.0, gain: float = 1.0) -> list[float]:
    """Return E‖∂x_L/∂x_l‖²_F / n = q_L / q_l for l = 0 … L of a pre-norm network, infinite width.

    Each block contributes 1 + a/q_l, because a norm's derivative is 1/√q_l: the product telescopes. So the gradient
    grows like a power of the depth, not exponentially.

    Args:
        depth: L.
        start: q_0, the mean square of the input.
        gain: a = α² g.

    Source: Doshi et al. 2021 (2111.12143), averaged partial Jacobian norms; Xiong et al. 2020 (2002.04745).

    Example:
        >>> partial_jacobian(3)
        [4.0, 2.0, 1.3333333333333333, 1.0]
    """
    variances = stream_variance(depth, start, gain)
    return [variances[-1] / variance for variance in variances]
