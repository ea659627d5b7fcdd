"""Changed copies of a network: some blocks with another scale, a skip, other initial values, another gate bias."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection

from pure.block import Block, specification
from pure.compose import Initialize, Repeat, Sequential
from pure.compose.repeat import replace_field
from pure.errors import ArgumentError
from pure.flow.auditing.block_chain import Chain
from pure.initializers import Constant, KaimingNormal
from pure.layers import Linear
from pure.skips import Residual, Weighted
from pure.skips.additive.shortcut import Identity
from pure.tree import flatten

__all__ = ["Change", "deep_norm", "edited", "gate_bias", "he_init", "scaled_branch", "skipped"]

Change = Callable[[Block], Block]


def edited(block: Block, names: Collection[str], change: Change) -> Block:
    """Return the network with `change` made to the named links of its chain.

    Args:
        block: the network.
        names: as `Chain` names them.
        change: from a link's block to the one in its place.

    Raises:
        ArgumentError: some but not all blocks of a `Repeat`, which share one description.
    """
    return _edited(block, frozenset(names), change, "", outermost=True)


def _edited(block: Block, names: frozenset[str], change: Change, name: str, outermost: bool = False) -> Block:
    if type(block) is Initialize and name not in names:
        return dataclasses.replace(block, block=_edited(block.block, names, change, name, outermost))
    own = Chain(block, {}, {})
    if name in names or (len(own) == 1 and type(block) not in (Sequential, Repeat)):
        return change(block) if name in names else block
    if type(block) is Repeat:
        inside = {f"{_dot(name)}{link.name}" for link in own}
        if not inside & names:
            return block
        if not inside <= names:
            raise ArgumentError(
                f"{name or 'Repeat'}: {len(inside & names)} of its {len(inside)} blocks are to change, but they share "
                "one description: write them out as Sequential, or give Repeat a `vary`"
            )
        return dataclasses.replace(block, block=_edited(block.block, names, change, f"{_dot(name)}0"))
    if type(block) is Sequential:
        children = {key: _edited(child, names, change, f"{_dot(name)}{key}") for key, child in block.items}
        return Sequential(**children)
    return block


def _dot(name: str) -> str:
    return f"{name}." if name else ""


def scaled_branch(block: Block, factor: float) -> Block:
    """Return the block with the scale of its outermost branch times `factor`.

    Raises:
        ArgumentError: no `Residual` or `Weighted` in it.

    Example:
        >>> scaled_branch(Residual(Linear(2, 2), scale=0.5), 0.5).scale
        0.25
    """
    if isinstance(block, Residual | Weighted):
        return dataclasses.replace(block, scale=block.scale * factor)
    return _inside(block, lambda child: scaled_branch(child, factor), "no Residual or Weighted to scale")


def _inside(block: Block, change: Change, why: str) -> Block:
    """Return the block with its first child changed that can be."""
    for name, child in block.children().items():
        if child.children() or isinstance(child, Residual | Weighted):
            return (
                replace_field(block, name, change(child))
                if type(block) is not Sequential
                else _swap(block, name, change(child))
            )
    raise ArgumentError(f"{type(block).__name__}: {why}")


def _swap(chain: Block, name: str, child: Block) -> Block:
    return Sequential(**{key: child if key == name else old for key, old in chain.children().items()})


def skipped(block: Block, scale: float) -> Block:
    """Return x + scale · block(x); its parameters then stand under `branch`."""
    return Residual(block, scale=scale)


def he_init(block: Block) -> Block:
    """Return the block with He's normal rule for every weight of two axes or more; biases keep theirs."""
    weights = [name for name, leaf in flatten(specification(block)[0]).items() if leaf.ndim > 1]
    if not weights:
        raise ArgumentError(f"{type(block).__name__}: no weights to draw")
    return Initialize(block, dict.fromkeys(weights, KaimingNormal()))


def deep_norm(block: Block, alpha: float, beta: float) -> Block:
    """Return norm(αx + β²f(x)) for a block norm(x + f(x)): β² in front of the branch does what β in its 2 layers does.

    Raises:
        ArgumentError: the block is not a plain residual sum with a norm behind it.

    Source: Wang et al. 2022 (2203.00555), section 4.
    """
    items = list(block.children().items())
    for name, child in items:
        if isinstance(child, Weighted):
            return _swap(block, name, dataclasses.replace(child, carry=alpha, scale=beta**2 * child.scale))
        if type(child) is Residual and type(child.shortcut) is Identity and child.activation == "identity":
            return _swap(block, name, Weighted(child.branch, carry=alpha, scale=beta**2 * child.scale))
    raise ArgumentError(f"{type(block).__name__}: expected a residual sum with a norm behind it")


def gate_bias(block: Block, value: float) -> Block:
    """Return the block whose gates' linear maps start at a bias of `value`.

    Raises:
        ArgumentError: no child named `gate` that is a `Linear` with a bias.

    Example:
        >>> from pure.skips import Highway
        >>> gate_bias(Highway.dense(2, gate_bias=-9.0), -2.0).gate.bias_init
        Constant(value=-2.0)
    """
    gate = block.children().get("gate")
    if not isinstance(gate, Linear) or not gate.bias:
        raise ArgumentError(f"{type(block).__name__}: expected a child `gate` that is a Linear with a bias")
    return replace_field(block, "gate", dataclasses.replace(gate, bias_init=Constant(value)))


def gate_bias_for(depth: int) -> float:
    """Return the bias b with σ(b) = 1/depth, so that a stack of `depth` gates opens once in all.

    Source: Tallec and Ollivier 2018 (1804.11188), chrono initialisation.

    >>> round(gate_bias_for(50), 3)
    -3.892
    """
    return -math.log(max(depth - 1, 1))
