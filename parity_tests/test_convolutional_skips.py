"""Convolutional and dense skips refuse what does not fit in words that help, and tag what flows through them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pure import capture, tree
from pure.block import Block
from pure.compose import Sequential
from pure.errors import ArgumentError, DtypeError, PureError, RankError, ShapeError
from pure.layers import Conv2d, Dropout, Linear
from pure.layers.axes import MoveAxis, Upsample
from pure.layers.channel_norm import ChannelNorm, GlobalResponseNorm
from pure.nets.convolutional.unet import unet
from pure.skips import Crop
from pure.skips.additive.inverted import inverted_residual
from pure.skips.additive.long_skip import LongSkip
from pure.skips.dense.cross_stage_partial import SplitSkip, cross_stage
from pure.skips.dense.dense_layers import dense_block, dense_layer
from pure.skips.dense.dual_path import DualPath, dual_path_block
from pure.skips.dense.one_shot_aggregation import OneShot, one_shot_aggregation

SMALL = (2, 4, 7, 7)


def called(block: Block, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Any:
    params, state = block.init(torch.Generator().manual_seed(0))
    return block(params, torch.ones(shape, dtype=dtype), state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LongSkip(Linear(2, 2), "add"), "join='add'"),
        (lambda: LongSkip(torch.tanh), "wrap it in Function"),
        (lambda: SplitSkip(Linear(2, 2), 0), "carried=0"),
        (lambda: DualPath(Linear(2, 2), 0), "added=0"),
        (lambda: OneShot(Linear(2, 2)), "expected a Sequential"),
        (lambda: OneShot(Sequential()), "at least one block"),
        (lambda: dual_path_block(4, 4, 4, 2, stride=2), "project=True"),
        (lambda: cross_stage(4, 7, Linear(3, 3)), "cannot be halved"),
        (lambda: inverted_residual(4, 4, 3), "stride=3"),
        (lambda: inverted_residual(4, 4, expand=0), "leaves no channels"),
        (lambda: dense_layer(4, 3, 0), "bottleneck=0"),
        (lambda: GlobalResponseNorm(4, axis=0), "axis=0"),
        (lambda: MoveAxis(0, 1), "is the batch"),
        (lambda: Upsample(0), "scale of at least 1"),
        (lambda: unet(3, 2, ()), r"widths=\(\)"),
        (lambda: unet(3, 2, (4,), padding=2), "padding=2"),
    ],
)
def test_impossible_blocks_are_refused(make: Callable[[], Block], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize(
    ("block", "shape", "error", "message"),
    [
        (LongSkip(Conv2d(4, 4, 3)), SMALL, ShapeError, r"Crop\(\) or Interpolate\(\)"),
        (LongSkip(Conv2d(4, 3, 3, padding=1), "sum"), SMALL, ShapeError, "cannot add"),
        (LongSkip(Conv2d(4, 3, 3), "product", Crop()), SMALL, ShapeError, "cannot add"),
        (SplitSkip(Conv2d(2, 3, 3), 2), SMALL, ShapeError, "equal sizes but for axis 1"),
        (SplitSkip(Conv2d(2, 3, 3), 4), SMALL, ShapeError, "no channel"),
        (OneShot(Sequential(Conv2d(4, 3, 3))), SMALL, ShapeError, "'0' gives"),
        (DualPath(Conv2d(4, 3, 3, padding=1), 4), SMALL, ShapeError, "channels that are added"),
        (ChannelNorm(3), SMALL, ShapeError, "does not fit"),
        (ChannelNorm(3), (4,), RankError, "expected"),
        (GlobalResponseNorm(4), SMALL, ShapeError, "4 channels on axis -1"),
        (GlobalResponseNorm(4), (2, 4), RankError, "spatial axes"),
        (MoveAxis(4, 1), SMALL, ShapeError, "does not fit"),
        (Upsample(2), (2, 4), RankError, "spatial axes"),
        (unet(4, 2, (2, 3)), SMALL, ShapeError, "halves evenly"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    block: Block, shape: tuple[int, ...], error: type[PureError], message: str
) -> None:
    with pytest.raises(error, match=message):
        called(block, shape)


@pytest.mark.parametrize("block", [ChannelNorm(4), GlobalResponseNorm(4, axis=1)])
def test_norms_refuse_a_second_dtype(block: Block) -> None:
    with pytest.raises(DtypeError):
        called(block, SMALL, torch.float64)


@pytest.mark.parametrize(
    ("block", "names"),
    [
        (LongSkip(Conv2d(4, 3, 1)), ["branch", "stream"]),
        (SplitSkip(Conv2d(2, 3, 1), 2), ["branch", "stream"]),
        (DualPath(Conv2d(4, 5, 1), 4), ["branch", "stream"]),
        (dense_block(4, 2, 3), [f"denselayer{i}.{what}" for i in (1, 2) for what in ("branch", "stream")]),
        (
            one_shot_aggregation(4, 3, 4, 2, residual=True),
            ["branch.layers.branch[0]", "branch.layers.branch[1]", "branch.layers.stream", "branch", "stream"],
        ),
    ],
)
def test_branches_and_streams_are_tagged(block: Block, names: list[str]) -> None:
    params, state = block.init(torch.Generator().manual_seed(0))
    x = torch.randn(SMALL, generator=torch.Generator().manual_seed(1))
    y, seen = capture(block)(params, x, state)
    assert list(seen) == names
    assert torch.equal(y, block(params, x, state))


def test_a_branch_of_a_split_draws_noise_for_its_own_channels() -> None:
    block = SplitSkip(Dropout(0.5), 3)
    noise = block.noise((2, 8, 4), torch.Generator().manual_seed(0))
    assert {name: tuple(leaf.shape) for name, leaf in tree.flatten(noise).items()} == {"branch.mask": (2, 5, 4)}


def test_the_global_response_norm_is_the_identity_at_first() -> None:
    block = GlobalResponseNorm(4)
    params, _ = block.init(torch.Generator())
    x = torch.randn(2, 3, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(params, x), x)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_unets_of_every_rank_and_of_one_level(dims: Any) -> None:
    shape = (2, 3, *(8,) * dims)
    assert called(unet(3, 2, (2, 3, 4), dims=dims), shape).shape == (2, 2, *shape[2:])
    assert called(unet(3, 2, (4,), dims=dims), shape).shape == (2, 2, *shape[2:])


def test_the_unpadded_unet_has_the_size_of_the_paper() -> None:
    assert unet(1, 2, (2, 2, 2, 2, 2), padding=0).out_shape((1, 1, 572, 572)) == (1, 2, 388, 388)
