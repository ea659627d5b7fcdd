"""Connectionist temporal classification: the likelihood of a label sequence, summed over its alignments.

The forward recursion of Graves et al. (ICML 2006, equations 6 and 7) in log space, one step a frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import _reduction as _Reduction

__all__ = ["COMPOSITES"]

aten: Any = torch.ops.aten

IMPOSSIBLE = -1e30
"""The logarithm of probability zero: finite, so that no gradient is inf − inf."""


def _shifted(x: Tensor, by: int) -> Tensor:
    """Move the states of each sample up, with impossible ones below."""
    return torch.cat([x.new_full([x.shape[0], by], IMPOSSIBLE), x[:, :-by]], 1)


def _log_likelihood(
    frames: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank: int
) -> Tensor:
    """Return the log-likelihood of each sample.

    Args:
        frames: log-probabilities, (frames, samples, classes).
        targets: labels, (samples, labels).
        input_lengths: frames of each sample.
        target_lengths: labels of each sample.
        blank: the class that stands for no label.
    """
    between = torch.full_like(targets, blank)
    states = torch.cat([torch.stack([between, targets], 2).flatten(1), between[:, :1]], 1)
    before = torch.cat([torch.full_like(states[:, :2], blank), states[:, :-2]], 1)
    may_skip = (states != blank) & (states != before)
    number = torch.arange(states.shape[1], device=states.device)
    emitted = [frame.gather(1, states) for frame in frames]
    lowest = torch.full_like(emitted[0], IMPOSSIBLE)
    alpha = torch.where(number < 2, emitted[0], lowest)
    for step, emission in enumerate(emitted[1:], 1):
        skipped = torch.where(may_skip, _shifted(alpha, 2), lowest)
        longer = torch.logsumexp(torch.stack([alpha, _shifted(alpha, 1), skipped]), 0) + emission
        alpha = torch.where((step < input_lengths).unsqueeze(1), longer, alpha)
    ends = 2 * target_lengths.unsqueeze(1)
    final = torch.where((number == ends) | (number == ends - 1), alpha, lowest)
    return torch.logsumexp(final, 1)


def _ctc(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: int = 1,
    zero_infinity: bool = False,
) -> Tensor:
    """Compute `aten.ctc_loss` of padded targets.

    PyTorch's gradient w.r.t. the log-probabilities is that of log-softmax's input, p − γ rather than −γ.
    """
    alone = log_probs.dim() == 2
    frames = log_probs.unsqueeze(1) if alone else log_probs
    if targets.dim() == 1 and not alone:
        raise NotImplementedError("ctc_loss of concatenated targets: pad them to (batch, longest)")
    labels = (targets.unsqueeze(0) if targets.dim() == 1 else targets).to(torch.int64)
    lengths = [
        (n if isinstance(n, Tensor) else torch.tensor(n, device=labels.device)).reshape(-1)
        for n in (input_lengths, target_lengths)
    ]
    losses = -_log_likelihood(frames, labels, lengths[0], lengths[1], blank)
    counted = torch.arange(frames.shape[0], device=labels.device).unsqueeze(1) < lengths[0]
    mass = torch.where(counted.unsqueeze(2), frames, torch.full_like(frames, IMPOSSIBLE)).exp().sum((0, 2))
    losses = losses + (mass - mass.detach())
    impossible = losses > -IMPOSSIBLE / 2
    losses = torch.where(impossible, torch.full_like(losses, 0.0 if zero_infinity else torch.inf), losses)
    if reduction == _Reduction.get_enum("none"):
        return losses.squeeze(0) if alone else losses
    if reduction == _Reduction.get_enum("mean"):
        return (losses / lengths[1].clamp(min=1).to(losses.dtype)).mean()
    return losses.sum()


COMPOSITES: dict[Any, Callable[..., Any]] = {aten.ctc_loss.IntList: _ctc, aten.ctc_loss.Tensor: _ctc}
