"""Reads a block as a stack of the layers, skips and gates that the laws cover."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from pure.block import Block
from pure.compose import Rename, Repeat, Sequential, Tag
from pure.compose.initialize import Initialize
from pure.errors import UnsupportedError
from pure.flow.theory.initialiser_laws import Drawn, drawn
from pure.initializers import Initializer
from pure.layers import Activation, LayerNorm, Linear, RMSNorm, Scale
from pure.layers.dropout import Dropout, DropPath
from pure.layers.linear import default_bias
from pure.skips import Highway, Residual
from pure.skips.additive.shortcut import Identity
from pure.skips.scaled.factors import Weighted

__all__ = ["Gate", "Layer", "Norm", "Part", "Skip", "Stack", "read_stack"]

NONE = Drawn(0.0, 0.0, "gaussian")


@dataclass(frozen=True)
class Layer:
    """W x + b, with a ReLU behind it or not."""

    outputs: int
    inputs: int
    weight: Drawn
    bias: Drawn = NONE
    relu: bool = False

    @property
    def gain(self) -> float:
        """E‖Ju‖² of the layer: n v, half of it behind a ReLU."""
        return self.outputs * self.weight.variance * (0.5 if self.relu else 1.0)


@dataclass(frozen=True)
class Norm:
    """The norm in front of a branch; `centred` if it takes the mean off."""

    centred: bool
    eps: float
    width: int


@dataclass(frozen=True)
class Skip:
    """carry · x + scale · (body of the branch)(inner · norm(x))."""

    body: tuple[Layer, ...]
    carry: float = 1.0
    scale: float = 1.0
    inner: float = 1.0
    norm: Norm | None = None

    @property
    def gain(self) -> float:
        """E‖·‖² of the branch's Jacobian behind the norm: scale² inner² Π gains."""
        value = (self.scale * self.inner) ** 2
        for layer in self.body:
            value *= layer.gain
        return value


@dataclass(frozen=True)
class Gate:
    """A highway layer: T ⊙ relu(W x + b) + (1 − T) ⊙ x."""

    transform: Layer
    gate: Layer


Part = Layer | Skip | Gate
Stack = tuple[Part, ...]


def read_stack(block: Block) -> Stack:
    """Return the block as a stack, first part first; wrappers, tags and what is idle in evaluation fall away.

    Args:
        block: any block.

    Raises:
        UnsupportedError: something that the laws do not cover; the message says what and why.

    Example:
        >>> from pure import nets
        >>> [type(part).__name__ for part in read_stack(nets.residual_mlp(4, 8, 2))]
        ['Skip', 'Skip']
    """
    parts = tuple(_parts(list(_flat(block, _Rules()))))
    if not parts:
        raise UnsupportedError(f"{type(block).__name__} has no layer with random weights: there is no law to hold")
    return parts


@dataclass(frozen=True)
class _Rules:
    """Initial rules set from outside by an `Initialize`, and the path of the block that they are asked for."""

    pairs: tuple[tuple[str, Initializer], ...] = ()
    path: str = ""

    def inside(self, name: str) -> _Rules:
        return replace(self, path=f"{self.path}{name}.")

    def find(self, leaf: str) -> Initializer | None:
        return next((rule for pattern, rule in self.pairs if fnmatchcase(self.path + leaf, pattern)), None)


def _flat(block: Block, rules: _Rules) -> Iterator[tuple[Block, _Rules]]:
    """Walk into chains; each block comes with the initial rules set from outside."""
    if isinstance(block, Initialize):
        if rules.pairs:
            raise UnsupportedError(
                "an Initialize inside another: theory needs one place that says how leaves are drawn"
            )
        yield from _flat(block.block, _Rules(block.rules))
    elif isinstance(block, Rename):
        if rules.pairs:
            raise UnsupportedError("a Rename inside an Initialize: theory cannot tell which leaf its rules mean")
        yield from _flat(block.block, rules)
    elif type(block) is Sequential:
        for name, child in block.items:
            yield from _flat(child, rules.inside(name))
    elif isinstance(block, Repeat):
        if rules.pairs:
            raise UnsupportedError("a Repeat inside an Initialize: its rules see stacked leaves, whose fans differ")
        for child in block.children().values():
            yield from _flat(child, rules)
    elif isinstance(block, Tag | Dropout | DropPath | Identity) or block == Activation("identity"):
        return
    else:
        yield block, rules


def _parts(blocks: Sequence[tuple[Block, _Rules]]) -> Iterator[Part]:
    """Join each Linear with the ReLU behind it."""
    index = 0
    while index < len(blocks):
        block, rules = blocks[index]
        index += 1
        if isinstance(block, Linear):
            relu = index < len(blocks) and _is_relu(blocks[index][0])
            index += relu
            yield replace(_centred(_layer(block, rules)), relu=relu)
        elif isinstance(block, Residual | Weighted):
            yield _skip(block, rules)
        elif isinstance(block, Highway):
            yield _gate(block, rules)
        else:
            raise _unknown(block)


def _unknown(block: Block) -> UnsupportedError:
    if _is_relu(block):
        return UnsupportedError(
            "a ReLU acts on the stream itself, not on a fresh weight matrix: its gates at successive blocks are nearly "
            "the same, so that the blocks are not free of each other. Laws A to F need x + α V relu(U x)"
        )
    what = f"Activation({block.name!r})" if isinstance(block, Activation) else type(block).__name__
    return UnsupportedError(f"{what}: the laws are for Linear layers with ReLU, skips around them, and highway layers")


def _is_relu(block: Block) -> bool:
    return isinstance(block, Activation) and block.name == "relu"


def _layer(block: Linear, rules: _Rules) -> Layer:
    chosen: dict[str, Initializer] = {"weight": block.weight_init}
    if block.bias:
        chosen["bias"] = block.bias_init or default_bias((block.out_features, block.in_features))
    chosen = {name: rules.find(name) or rule for name, rule in chosen.items()}
    weight = drawn(chosen["weight"], block.out_features, block.in_features)
    if weight.mean:
        raise UnsupportedError(f"a weight of mean {weight.mean:g}: the laws need weights symmetric around 0")
    bias = drawn(chosen["bias"], block.out_features, 1) if block.bias else NONE
    return Layer(block.out_features, block.in_features, weight, bias)


def _centred(layer: Layer) -> Layer:
    if layer.bias.mean:
        raise UnsupportedError(f"a bias of mean {layer.bias.mean:g}: the laws need biases symmetric around 0")
    return layer


def _skip(block: Residual | Weighted, rules: _Rules) -> Skip:
    if isinstance(block, Residual):
        if not isinstance(block.shortcut, Identity):
            raise UnsupportedError(f"a {type(block.shortcut).__name__} shortcut: the laws need the identity")
        if block.activation != "identity":
            raise UnsupportedError(
                f"{block.activation} after the sum, as in ResNet v1: it closes gates of the stream itself, which the "
                "laws leave open"
            )
    scale, norm = block.scale, None
    inside = list(_flat(block.branch, rules.inside("branch")))
    while inside and isinstance(inside[-1][0], Scale):
        factor, found = inside.pop()
        _fixed(factor, found)
        scale *= factor.value  # type: ignore[attr-defined]
    if inside and isinstance(inside[0][0], LayerNorm | RMSNorm):
        _fixed(*inside[0])
        norm = _norm(inside.pop(0)[0])
    body: list[Layer] = []
    for part in _parts(inside):
        if not isinstance(part, Layer):
            raise UnsupportedError("a skip inside a branch: the laws count the outermost branches only")
        body.append(part)
    if not body:
        raise UnsupportedError("a branch without a Linear layer: there is no law to hold")
    carry, inner = (block.carry, block.inner) if isinstance(block, Weighted) else (1.0, 1.0)
    return Skip(tuple(body), carry, scale, inner, norm)


def _fixed(block: Block, rules: _Rules) -> None:
    if rules.find("weight") or rules.find("bias"):
        raise UnsupportedError(f"an Initialize that draws the leaves of {block}: the laws take them as they are")


def _norm(block: Block) -> Norm:
    if isinstance(block, LayerNorm):
        sizes = block.leaf_shape()
        if len(sizes) != 1:
            raise UnsupportedError("LayerNorm over several axes: the laws are for (batch, features)")
        return Norm(True, block.eps, sizes[0])
    assert isinstance(block, RMSNorm)
    return Norm(False, block.eps, block.features)


def _gate(block: Highway, rules: _Rules) -> Gate:
    transform = list(_parts(list(_flat(block.transform, rules.inside("transform")))))
    gates = list(_flat(block.gate, rules.inside("gate")))
    if len(transform) != 1 or not isinstance(transform[0], Layer) or not transform[0].relu:
        raise UnsupportedError("a highway layer whose transform is not relu(W x + b): its moments are not known here")
    gate, gate_rules = gates[0] if len(gates) == 1 else (block, rules)
    if not isinstance(gate, Linear):
        raise UnsupportedError("a highway layer whose gate is not σ(W x + b): its moments are not known here")
    return Gate(transform[0], _layer(gate, gate_rules))
