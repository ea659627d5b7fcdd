"""Advice from the numbers of an audit: each rule is one function, with the change that it proposes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from statistics import median
from typing import Any, Final

from pure.flow.auditing.audit_result import Advice, Audit, BlockFlow
from pure.flow.auditing.block_chain import Chain
from pure.flow.auditing.remedies import (
    Change,
    deep_norm,
    gate_bias,
    gate_bias_for,
    he_init,
    scaled_branch,
    skipped,
)

__all__ = ["advise"]

LOG10_STREAM: Final = 3.0
"""A stream's second moment that changes less than a thousandfold over the depth is left alone."""

LOG10_GRADIENT: Final = 4.0
"""The same for the square of the gradient: a hundredfold norm."""

MAX_DEAD_RATIO: Final = 1e-3
MIN_DOMINATING_FACTOR: Final = 10.0
MIN_SATURATED_SHARE: Final = 0.9


Rule = Callable[[Audit, list[BlockFlow], Chain], Advice | None]


def advise(audit: Audit, chain: Chain) -> Audit:
    """Return the audit with advice, the most urgent first. Of the rules on growth and decay the first alone speaks."""
    family = [audit.blocks[name] for name in audit.family]
    found: list[Advice] = []
    for group in (CAUSES, SYMPTOMS):
        said = next(filter(None, (rule(audit, family, chain) for rule in group)), None)
        found += [said] if said is not None and not (group is SYMPTOMS and found) else []
    found += filter(None, (rule(audit, family, chain) for rule in LOCAL))
    return dataclasses.replace(audit, advice=tuple(found))


def _advice(
    rule: str,
    said: str,
    fix: str,
    numbers: dict[str, float],
    evidence: str,
    names: Any = (),
    change: Change | None = None,
) -> Advice:
    return Advice(rule, f"{said}: {fix}.", numbers, evidence, fix, tuple(names), change)


def _stopped(audit: Audit, family: list[BlockFlow], chain: Chain) -> Advice | None:
    stop = audit.stop
    if stop is None:
        return None
    where = f"block {stop.depth} ({stop.name or 'the network'})"
    numbers = {"depth": float(stop.depth), "log10_largest_before": stop.largest}
    if stop.bad_parameter:
        said = f"The first NaN or infinity comes out of {where}, whose parameter {stop.bad_parameter} holds one itself"
        return _advice("not finite", said, "restore it from a checkpoint before it went wrong", numbers, "stop")
    grown = audit.stream_growth
    said = f"The first {stop.found} comes out of {where}, in {stop.dtype}; 10^{stop.largest:.1f} went in"
    if grown is None or grown.factor <= 1:
        fix = "look for a division by 0, a logarithm or a root in that block"
        return _advice("not finite", said, fix, numbers, "stop")
    numbers |= {"factor": grown.factor, "low": grown.low, "high": grown.high}
    said += f", after a growth of the stream's second moment by {grown}"
    names, depth = _whole_family(chain, audit)
    return _scaling("not finite", said, numbers, "stop", grown.factor, depth, names, family)


def _whole_family(chain: Chain, audit: Audit) -> tuple[list[str], int]:
    """Return the family's names as far as the chain goes on behind a stop."""
    names = [link.name for link in chain if link.kind == _kind(chain, audit)]
    return names, len(names)


def _kind(chain: Chain, audit: Audit) -> tuple[str, ...]:
    first = audit.family[0] if audit.family else ""
    return next((link.kind for link in chain if link.name == first), ())


def _scaling(
    rule: str,
    said: str,
    numbers: dict[str, float],
    evidence: str,
    factor: float,
    depth: int,
    names: list[str],
    family: list[BlockFlow],
) -> Advice:
    """Return the advice to scale branches, or weights where there are no branches, so that the growth ends near e."""
    if any(block.branch for block in family):
        scale = 1 / math.sqrt(depth * max(factor - 1, 1e-12))
        numbers |= {"scale": scale, "one_over_root_depth": depth**-0.5, "blocks": float(depth)}
        fix = (
            f"scale the branches by 1/√L = {depth**-0.5:.2g}, here by {scale:.2g}, which makes the growth of "
            f"{depth} blocks about e"
        )
        return _advice(rule, said, fix, numbers, evidence, names, lambda block: scaled_branch(block, scale))
    return _redraw(rule, said, numbers, evidence, names)


def _redraw(rule: str, said: str, numbers: dict[str, float], evidence: str, names: list[str]) -> Advice:
    fix = "draw the weights by He's rule (variance 2/fan_in), or add skips"
    return _advice(rule, said, fix, numbers, evidence, names, he_init)


def _stream(audit: Audit, family: list[BlockFlow], chain: Chain) -> Advice | None:
    grown = audit.stream_growth
    if audit.stop or grown is None or not grown.exponential or abs(grown.log10_total) < LOG10_STREAM:
        return None
    depth = len(family)
    numbers = {
        "factor": grown.factor,
        "low": grown.low,
        "high": grown.high,
        "log10_total": grown.log10_total,
        "log10_input_gradient": audit.log10_input_gradient,
    }
    names = list(audit.family)
    if grown.factor > 1:
        said = f"The stream's second moment grows as {grown}, by 10^{grown.log10_total:.1f} in all"
        return _scaling("stream growth", said, numbers, "stream_growth", grown.factor, depth, names, family)
    said = f"The stream's second moment decays as {grown}, to 10^{grown.log10_total:.1f} of itself"
    if family[0].gates is not None:
        return _leak("stream decay", said, numbers, "stream_growth", names, depth)
    if any(block.branch for block in family):
        fix = "carry the stream with the factor 1 past the branches"
        return _advice("stream decay", said, fix, numbers, "stream_growth")
    return _redraw("stream decay", said, numbers, "stream_growth", names)


def _leak(rule: str, said: str, numbers: dict[str, float], evidence: str, names: list[str], depth: int) -> Advice:
    bias = gate_bias_for(depth)
    numbers |= {"gate_bias": bias}
    fix = f"start the gates' bias at −ln(L − 1) = {bias:.2f}, so that {depth} gates open once in all"
    return _advice(rule, said, fix, numbers, evidence, names, lambda block: gate_bias(block, bias))


def _gradient(audit: Audit, family: list[BlockFlow], chain: Chain) -> Advice | None:
    grown = audit.gradient_growth
    if audit.stop or grown is None or not grown.exponential or abs(grown.log10_total) < LOG10_GRADIENT:
        return None
    depth = len(family)
    numbers = {
        "factor": grown.factor,
        "low": grown.low,
        "high": grown.high,
        "log10_norm_ratio": grown.log10_total / 2,
        "log10_stream_total": _total(audit),
    }
    names, kind = list(audit.family), _kind(chain, audit)
    vanishes = grown.factor < 1
    said = (
        f"The gradient {'vanishes' if vanishes else 'explodes'} towards the input: its square as {grown}, its norm by "
        f"10^{grown.log10_total / 2:.1f} in all; the stream's second moment changes by 10^{_total(audit):.1f}"
    )
    rule = "vanishing gradient" if vanishes else "exploding gradient"
    if kind[:1] == ("Sequential",) and kind[-1].endswith("Norm") and {"Residual", "Weighted"} & set(kind):
        alpha, beta = depth**0.25, (4 * depth) ** -0.25
        numbers |= {"alpha": alpha, "beta": beta}
        fix = (
            f"put the norm before the branch (pre-norm), or scale as DeepNorm does for {depth} branches: "
            f"α = {alpha:.3g} in front of the stream, β = {beta:.3g} in the branch's weights"
        )
        return _advice(
            "post-norm", said, fix, numbers, "gradient_growth", names, lambda block: deep_norm(block, alpha, beta)
        )
    if family[0].gates is not None and vanishes:
        return _leak(rule, said, numbers, "gradient_growth", names, depth)
    if any(block.branch for block in family):
        if vanishes:
            return _advice(rule, said, "carry the stream with the factor 1", numbers, "gradient_growth")
        return _scaling(rule, said, numbers, "gradient_growth", grown.factor, depth, names, family)
    scale = depth**-0.5
    numbers |= {"scale": scale}
    fix = f"add skips, x + f(x)/√L with 1/√L = {scale:.2g}, or draw the weights by He's rule"
    return _advice(rule, said, fix, numbers, "gradient_growth", names, lambda block: skipped(block, scale))


def _total(audit: Audit) -> float:
    return audit.stream_growth.log10_total if audit.stream_growth else math.nan


def _gates(audit: Audit, family: list[BlockFlow], chain: Chain) -> Advice | None:
    gated = [block for block in audit.blocks.values() if block.gates is not None]
    for end, share in (("shut", "shut"), ("open", "open")):
        stuck = [block for block in gated if getattr(block.gates, share) > MIN_SATURATED_SHARE]
        if len(stuck) * 2 > len(gated):
            worst = sum(getattr(block.gates, share) for block in stuck) / len(stuck)
            mean = sum(block.gates.mean for block in stuck if block.gates) / len(stuck)
            said = (
                f"The gates of {len(stuck)} of {len(gated)} gated blocks are saturated {end}: {worst:.0%} of their "
                f"values are {'below 0.01' if end == 'shut' else 'above 0.99'}, mean {mean:.2g}"
            )
            fix = "start the gates' bias between −1 and −3 (Srivastava et al. 2015), here at −2"
            numbers = {"blocks": float(len(stuck)), "share": worst, "mean": mean, "gate_bias": -2.0}
            names = [block.name for block in stuck]
            return _advice(f"gates {end}", said, fix, numbers, "gates", names, lambda block: gate_bias(block, -2.0))
    return None


def _dead(audit: Audit, family: list[BlockFlow], chain: Chain) -> Advice | None:
    """A branch is dead where it adds nothing AND its parameters hardly feel the loss: ReZero at its start is not."""
    limit = min(MAX_DEAD_RATIO, 0.1 / max(len(family), 1))
    dead = [
        block
        for block in audit.blocks.values()
        if block.branch_to_skip < limit
        and block.gates is None
        and not block.log10_parameter_gradient - block.log10_gradient > -2.0
    ]
    if audit.stop or not dead:
        return None
    ratio = median(block.branch_to_skip for block in dead)
    target = len(family) ** -0.5
    numbers = {"blocks": float(len(dead)), "ratio": ratio, "limit": limit, "target": target}
    said = (
        f"The branches of {len(dead)} of {len(audit)} blocks are dead, block {dead[0].name} first: they add "
        f"{ratio:.1e} of the stream, and their parameters feel less than a hundredth of its gradient"
    )
    names = [block.name for block in dead]
    if ratio == 0:
        fix = "look for units that are off for every sample (a large negative bias), and draw those weights again"
        return _advice("dead branches", said, fix, numbers, "branch_to_skip")
    factor = target / ratio
    numbers |= {"scale": factor}
    fix = f"raise their scale {factor:.2g}-fold, to 1/√L = {target:.2g} of the stream"
    return _advice(
        "dead branches", said, fix, numbers, "branch_to_skip", names, lambda block: scaled_branch(block, factor)
    )


def _dominating(audit: Audit, family: list[BlockFlow], chain: Chain) -> Advice | None:
    ratios = [block.branch_to_skip for block in family if block.branch_to_skip > 0]
    if len(ratios) < 4 or audit.stop:
        return None
    usual = median(ratios)
    largest = max((block for block in family if block.branch_to_skip > 0), key=lambda block: block.branch_to_skip)
    if largest.branch_to_skip < max(1.0, MIN_DOMINATING_FACTOR * usual):
        return None
    factor = usual / largest.branch_to_skip
    numbers = {"ratio": largest.branch_to_skip, "median": usual, "scale": factor, "depth": float(largest.depth)}
    said = (
        f"One block dominates: the branch of block {largest.name} is {largest.branch_to_skip:.3g} times the stream it "
        f"is added to, against {usual:.3g} in the middle of the {len(ratios)} blocks"
    )
    fix = f"scale that branch by {factor:.2g}"
    names = [largest.name]
    return _advice(
        "dominating block", said, fix, numbers, "branch_to_skip", names, lambda block: scaled_branch(block, factor)
    )


CAUSES: Final[tuple[Rule, ...]] = (_stopped, _stream)
SYMPTOMS: Final[tuple[Rule, ...]] = (_gradient,)
LOCAL: Final[tuple[Rule, ...]] = (_gates, _dead, _dominating)
