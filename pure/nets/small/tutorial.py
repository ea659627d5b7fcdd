"""Small networks of the tutorials this library grew out of, and a residual MLP."""

from __future__ import annotations

from typing import Literal

from pure.block import Block
from pure.compose import Rename, Sequential
from pure.errors import ArgumentError, nearest
from pure.layers import Activation, Conv2d, Linear
from pure.layers.activation import ActivationLike
from pure.skips import AvgPoolProject, Crop, Dynamic, Identity, Interpolate, Pad, Project, Residual

__all__ = [
    "dynamic_net",
    "residual_block",
    "residual_mlp",
    "residual_mlp_block",
    "simple_block",
    "simple_block_with_skip",
    "tutorial_resnet",
]

ShortcutName = Literal["identity", "project", "pad", "pad_centred", "crop", "interpolate", "avgpool"]


def _mlp(in_features: int, hidden_features: int, out_features: int, activation: ActivationLike = "relu") -> Sequential:
    return Sequential(
        fc1=Linear(in_features, hidden_features),
        act=Activation(activation),
        fc2=Linear(hidden_features, out_features),
    )


def simple_block(in_features: int, hidden_features: int, out_features: int) -> Block:
    """Return y = W₂ relu(W₁ x + b₁) + b₂, (batch, in_features) to (batch, out_features).

    Leaves: `fc1.weight`, `fc1.bias`, `fc2.weight`, `fc2.bias`.

    Args:
        in_features: size of the input.
        hidden_features: size between the two maps.
        out_features: size of the output.

    Example:
        >>> import torch
        >>> from pure import tree
        >>> tree.names(simple_block(2, 3, 4).init(torch.Generator())[0])
        ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias']
    """
    return _mlp(in_features, hidden_features, out_features)


def simple_block_with_skip(in_features: int, hidden_features: int, out_features: int) -> Block:
    """Return y = x + W₂ relu(W₁ x + b₁) + b₂, with the leaves of `simple_block`.

    Args:
        in_features: size of the input.
        hidden_features: size between the two maps.
        out_features: size of the output, equal to `in_features` unless the sum is to fail.

    Raises:
        ShapeError: on the first call, if `in_features` and `out_features` differ.

    Example:
        >>> simple_block_with_skip(3, 4, 3).out_shape((5, 3))
        (5, 3)
    """
    branch = _mlp(in_features, hidden_features, out_features)
    return Rename(Residual(branch), {"branch.fc1": "fc1", "branch.fc2": "fc2"})


def dynamic_net(
    in_features: int,
    hidden_features: int,
    out_features: int,
    *,
    threshold: float = 0.5,
    mode: Literal["select", "branch", "static"] = "select",
) -> Block:
    """Return y = fc3(relu(fc2(h)) if control > threshold else h) with h = relu(fc1(x)).

    extras: `control`, one value for the batch or one per sample, (batch,).
    Leaves: `fc1`, `fc2`, `fc3`, each with `weight` and `bias`.

    Args:
        in_features: size of the input.
        hidden_features: size of h.
        out_features: size of the output.
        threshold: above which the middle layer runs.
        mode: how the choice is made, see `pure.skips.Dynamic`.

    Example:
        >>> import torch
        >>> net = dynamic_net(3, 4, 2)
        >>> params, _ = net.init(torch.Generator().manual_seed(0))
        >>> net(params, torch.ones(5, 3), extras={"control": torch.tensor(1.0)}).shape
        torch.Size([5, 2])
    """
    middle = Sequential(fc2=Linear(hidden_features, hidden_features), act=Activation("relu"))
    net = Sequential(
        fc1=Linear(in_features, hidden_features),
        act=Activation("relu"),
        middle=Dynamic(middle, threshold=threshold, mode=mode),
        fc3=Linear(hidden_features, out_features),
    )
    return Rename(net, {"fc1": "fc1", "middle.branch.fc2": "fc2", "fc3": "fc3"})


def _shortcut(name: str, in_channels: int, out_channels: int, padded: bool) -> Block:
    """Return the named shortcut around two 3×3 convolutions, made to fit the channels and, if unpadded, the map."""
    project = Project(in_channels, out_channels)
    channels = Identity() if in_channels == out_channels else project
    pads = {"pad": Pad(), "pad_centred": Pad(where="centred")}
    by_name: dict[str, Block] = {
        "identity": Identity(),
        "project": project if padded else Crop(project),
        **{key: pad if padded else Crop(pad) for key, pad in pads.items()},
        "crop": Crop(channels),
        "interpolate": Interpolate(channels),
        "avgpool": AvgPoolProject(in_channels, out_channels, stride=1, norm=False),
    }
    if name not in by_name:
        raise ArgumentError(f"shortcut {name!r} is unknown{nearest(name, by_name)}: one of {', '.join(by_name)}")
    return by_name[name]


def residual_block(
    in_channels: int,
    out_channels: int,
    padding: int | Literal["same"] = 0,
    shortcut: ShortcutName | Block = "identity",
) -> Block:
    """Return y = S(x) + conv2(relu(conv1(x))) with 3×3 convolutions.

    Leaves: `conv1`, `conv2`, `shortcut`.

    As the tutorial writes it (no padding, other channels, identity) the sum is impossible, and the call says so. What
    works: "same" padding with equal channels; "project" (1×1 convolution) or "pad" (zero channels; "pad_centred")
    where channels change; "crop" or "interpolate" where the map shrinks. Each of these also mends the other mismatch:
    without padding, "project" and "pad" act on the centre of the map; with other channels, "crop" and "interpolate"
    are followed by a 1×1 convolution.

    Args:
        in_channels: channels of the stream.
        out_channels: channels of both convolutions' outputs.
        padding: of both convolutions, 0, 1 or "same".
        shortcut: a name, or any block of `pure.skips`.

    Raises:
        ArgumentError: an unknown shortcut name.
        ShapeError: on the first call, if stream and branch still differ; it names both shapes and the ways out.

    Example:
        >>> residual_block(3, 8, padding=1, shortcut="project").out_shape((2, 3, 6, 6))
        (2, 8, 6, 6)
    """
    branch = Sequential(
        conv1=Conv2d(in_channels, out_channels, 3, padding=padding),
        act=Activation("relu"),
        conv2=Conv2d(out_channels, out_channels, 3, padding=padding),
    )
    if isinstance(shortcut, str):
        shortcut = _shortcut(shortcut, in_channels, out_channels, padded=padding in (1, "same"))
    block = Residual(branch, shortcut=shortcut)
    return Rename(block, {"branch.conv1": "conv1", "branch.conv2": "conv2"})


def tutorial_resnet(
    channels: tuple[int, int, int] = (3, 64, 128),
    *,
    padding: int | Literal["same"] = 1,
    shortcut: ShortcutName = "project",
) -> Block:
    """Return the two-block ResNet: block1 (3 → 64), relu, block2 (64 → 128).

    Leaves: `block1.conv1.weight`, ….
    (batch, 3, height, width) → (batch, 128, height, width); 268,736 parameters by default.

    Args:
        channels: of the input, after the first block, after the second.
        padding: of every convolution.
        shortcut: of both blocks.

    Example:
        >>> tutorial_resnet().out_shape((2, 3, 8, 8))
        (2, 128, 8, 8)
    """
    first, second, third = channels
    return Sequential(
        block1=residual_block(first, second, padding, shortcut),
        act=Activation("relu"),
        block2=residual_block(second, third, padding, shortcut),
    )


def residual_mlp(
    features: int, hidden_features: int, depth: int, scale: float = 1.0, activation: ActivationLike = "relu"
) -> Block:
    """Return `depth` blocks x ← x + scale · W₂ activation(W₁ x).

    Leaves: `0.branch.fc1.weight`, ….
    `Repeat(residual_mlp_block(…), depth)` is the same network with its parameters stacked over the depth.

    Args:
        features: size of the stream.
        hidden_features: size between the two maps.
        depth: how many blocks.
        scale: constant in front of each branch.
        activation: a name as in `pure.layers.Activation`, or a function.

    Raises:
        ArgumentError: a depth below 1, or an unknown activation.

    Example:
        >>> residual_mlp(3, 4, 2).out_shape((5, 3))
        (5, 3)
    """
    if depth < 1:
        raise ArgumentError(f"residual_mlp depth={depth}: expected at least 1")
    block = residual_mlp_block(features, hidden_features, scale, activation)
    return Sequential(*[block] * depth)


def residual_mlp_block(
    features: int, hidden_features: int, scale: float = 1.0, activation: ActivationLike = "relu"
) -> Block:
    """Return one block x + scale · W₂ activation(W₁ x), leaves `branch.fc1` and `branch.fc2`.

    Args:
        features: size of the stream.
        hidden_features: size between the two maps.
        scale: constant in front of the branch.
        activation: a name as in `pure.layers.Activation`, or a function.

    Raises:
        ArgumentError: an unknown activation.

    Example:
        >>> residual_mlp_block(3, 4).out_shape((5, 3))
        (5, 3)
    """
    return Residual(_mlp(features, hidden_features, features, activation), scale=scale)
