"""Advice from the numbers of an audit: each rule is one function, with the change that it proposes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Final

from pure.flow.auditing.audit_result import Advice, Audit, BlockFlow
from pure.flow.auditing.block_chain import Chain
from pure.flow.auditing.remedies import Change, deep_norm, gate_bias, gate_bias_for, he_init, scaled_branch, skipped

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


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a rule found, before it is known what to do about it; the attributes are those of `Advice`."""

    rule: str
    said: str
    evidence: str
    numbers: dict[str, float]
    names: Sequence[str] = ()

    def advice(self, fix: str, change: Change | None = None, **numbers: float) -> Advice:
        """Return the advice to do `fix`, which `change` does to the blocks of these names, with further numbers."""
        names = () if change is None else tuple(self.names)
        return Advice(self.rule, f"{self.said}: {fix}.", self.numbers | numbers, self.evidence, fix, names, change)


def _stopped(audit: Audit, family: list[BlockFlow], chain: Chain) -> Advice | None:
    stop = audit.stop
    if stop is None:
        return None
    where = f"block {stop.depth} ({stop.name or 'the network'})"
    numbers = {"depth": float(stop.depth), "log10_largest_before": stop.largest}
    if stop.bad_parameter:
        said = f"The first NaN or infinity comes out of {where}, whose parameter {stop.bad_parameter} holds one itself"
        found = Finding("not finite", said, "stop", numbers)
        return found.advice("restore it from a checkpoint before it went wrong")
    grown = audit.stream_growth
    said = f"The first {stop.found} comes out of {where}, in {stop.dtype}; 10^{stop.largest:.1f} went in"
    if grown is None or grown.factor <= 1:
        found = Finding("not finite", said, "stop", numbers)
        return found.advice("look for a division by 0, a logarithm or a root in that block")
    numbers |= {"factor": grown.factor, "low": grown.low, "high": grown.high}
    said += f", after a growth of the stream's second moment by {grown}"
    kind = _kind(chain, audit)  # the chain goes on behind the stop, where the family ends
    names = [link.name for link in chain if link.kind == kind]
    return _scaling(Finding("not finite", said, "stop", numbers, names), grown.factor, family)


def _kind(chain: Chain, audit: Audit) -> tuple[str, ...]:
    first = audit.family[0] if audit.family else ""
    return next((link.kind for link in chain if link.name == first), ())


def _scaling(found: Finding, factor: float, family: list[BlockFlow]) -> Advice:
    """Return the advice to scale branches, or weights where there are no branches, so that the growth ends near e."""
    if not any(block.branch for block in family):
        return _redraw(found)
    depth = len(found.names)
    root, scale = depth**-0.5, 1 / math.sqrt(depth * max(factor - 1, 1e-12))
    fix = (
        f"scale the branches by 1/√L = {root:.2g}, here by {scale:.2g}, which makes the growth of {depth} blocks "
        "about e"
    )
    change = partial(scaled_branch, factor=scale)
    return found.advice(fix, change, scale=scale, one_over_root_depth=root, blocks=float(depth))


def _redraw(found: Finding) -> Advice:
    return found.advice("draw the weights by He's rule (variance 2/fan_in), or add skips", he_init)


def _leak(found: Finding) -> Advice:
    bias = gate_bias_for(len(found.names))
    fix = f"start the gates' bias at −ln(L − 1) = {bias:.2f}, so that {len(found.names)} gates open once in all"
    return found.advice(fix, partial(gate_bias, value=bias), gate_bias=bias)


def _stream(audit: Audit, family: list[BlockFlow], chain: Chain) -> Advice | None:
    grown = audit.stream_growth
    if audit.stop or grown is None or not grown.exponential or abs(grown.log10_total) < LOG10_STREAM:
        return None
    numbers = {
        "factor": grown.factor,
        "low": grown.low,
        "high": grown.high,
        "log10_total": grown.log10_total,
        "log10_input_gradient": audit.log10_input_gradient,
    }
    if grown.factor > 1:
        said = f"The stream's second moment grows as {grown}, by 10^{grown.log10_total:.1f} in all"
        return _scaling(Finding("stream growth", said, "stream_growth", numbers, audit.family), grown.factor, family)
    said = f"The stream's second moment decays as {grown}, to 10^{grown.log10_total:.1f} of itself"
    found = Finding("stream decay", said, "stream_growth", numbers, audit.family)
    if family[0].gates is not None:
        return _leak(found)
    if any(block.branch for block in family):
        return found.advice("carry the stream with the factor 1 past the branches")
    return _redraw(found)


def _gradient(audit: Audit, family: list[BlockFlow], chain: Chain) -> Advice | None:
    grown = audit.gradient_growth
    if audit.stop or grown is None or not grown.exponential or abs(grown.log10_total) < LOG10_GRADIENT:
        return None
    depth = len(family)
    stream_total = audit.stream_growth.log10_total if audit.stream_growth else math.nan
    numbers = {
        "factor": grown.factor,
        "low": grown.low,
        "high": grown.high,
        "log10_norm_ratio": grown.log10_total / 2,
        "log10_stream_total": stream_total,
    }
    kind, vanishes = _kind(chain, audit), grown.factor < 1
    said = (
        f"The gradient {'vanishes' if vanishes else 'explodes'} towards the input: its square as {grown}, its norm by "
        f"10^{grown.log10_total / 2:.1f} in all; the stream's second moment changes by 10^{stream_total:.1f}"
    )
    rule = "vanishing gradient" if vanishes else "exploding gradient"
    found = Finding(rule, said, "gradient_growth", numbers, audit.family)
    if kind[:1] == ("Sequential",) and kind[-1].endswith("Norm") and {"Residual", "Weighted"} & set(kind):
        alpha, beta = depth**0.25, (4 * depth) ** -0.25
        fix = (
            f"put the norm before the branch (pre-norm), or scale as DeepNorm does for {depth} branches: "
            f"α = {alpha:.3g} in front of the stream, β = {beta:.3g} in the branch's weights"
        )
        found = dataclasses.replace(found, rule="post-norm")
        return found.advice(fix, partial(deep_norm, alpha=alpha, beta=beta), alpha=alpha, beta=beta)
    if family[0].gates is not None and vanishes:
        return _leak(found)
    if any(block.branch for block in family):
        return found.advice("carry the stream with the factor 1") if vanishes else _scaling(found, grown.factor, family)
    scale = depth**-0.5
    fix = f"add skips, x + f(x)/√L with 1/√L = {scale:.2g}, or draw the weights by He's rule"
    return found.advice(fix, partial(skipped, scale=scale), scale=scale)


def _gates(audit: Audit, family: list[BlockFlow], chain: Chain) -> Advice | None:
    gated = [block for block in audit.blocks.values() if block.gates is not None]
    for end, bound in (("shut", "below 0.01"), ("open", "above 0.99")):
        stuck = [block for block in gated if getattr(block.gates, end) > MIN_SATURATED_SHARE]
        if len(stuck) * 2 > len(gated):
            worst = sum(getattr(block.gates, end) for block in stuck) / len(stuck)
            mean = sum(block.gates.mean for block in stuck if block.gates) / len(stuck)
            said = (
                f"The gates of {len(stuck)} of {len(gated)} gated blocks are saturated {end}: {worst:.0%} of their "
                f"values are {bound}, mean {mean:.2g}"
            )
            numbers = {"blocks": float(len(stuck)), "share": worst, "mean": mean}
            found = Finding(f"gates {end}", said, "gates", numbers, [block.name for block in stuck])
            fix = "start the gates' bias between −1 and −3 (Srivastava et al. 2015), here at −2"
            return found.advice(fix, partial(gate_bias, value=-2.0), gate_bias=-2.0)
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
    found = Finding("dead branches", said, "branch_to_skip", numbers, [block.name for block in dead])
    if ratio == 0:
        return found.advice(
            "look for units that are off for every sample (a large negative bias), and draw those weights again"
        )
    factor = target / ratio
    fix = f"raise their scale {factor:.2g}-fold, to 1/√L = {target:.2g} of the stream"
    return found.advice(fix, partial(scaled_branch, factor=factor), scale=factor)


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
    found = Finding("dominating block", said, "branch_to_skip", numbers, [largest.name])
    return found.advice(f"scale that branch by {factor:.2g}", partial(scaled_branch, factor=factor))


CAUSES: Final[tuple[Rule, ...]] = (_stopped, _stream)
SYMPTOMS: Final[tuple[Rule, ...]] = (_gradient,)
LOCAL: Final[tuple[Rule, ...]] = (_gates, _dead, _dominating)
