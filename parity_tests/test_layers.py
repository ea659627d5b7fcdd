"""Leaf blocks equal their torch.nn versions for every option, bit for bit at initialisation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pure
from pure import tree
from pure.errors import ArgumentError, DeviceError, DtypeError, NoiseError, RankError, ShapeError, TreeError
from pure.layers.activation import ACTIVATIONS

PAIRS: list[tuple[pure.Block, Callable[[], nn.Module], tuple[int, ...]]] = [
    (pure.Linear(5, 3), lambda: nn.Linear(5, 3), (4, 5)),
    (pure.Linear(5, 3, bias=False), lambda: nn.Linear(5, 3, bias=False), (2, 4, 5)),
    (pure.Conv1d(4, 6, 3, 2, 1, 1, 2), lambda: nn.Conv1d(4, 6, 3, 2, 1, 1, 2), (2, 4, 11)),
    (pure.Conv2d(4, 6, (3, 2), (1, 2), (1, 0), 1), lambda: nn.Conv2d(4, 6, (3, 2), (1, 2), (1, 0), 1), (2, 4, 9, 8)),
    (pure.Conv2d(4, 4, 3, groups=4, dilation=2), lambda: nn.Conv2d(4, 4, 3, groups=4, dilation=2), (2, 4, 9, 8)),
    (pure.Conv2d(3, 5, (3, 5), padding="same"), lambda: nn.Conv2d(3, 5, (3, 5), padding="same"), (2, 3, 9, 8)),
    (pure.Conv2d(3, 5, 3, padding="valid", bias=False), lambda: nn.Conv2d(3, 5, 3, bias=False), (2, 3, 9, 8)),
    (pure.Conv3d(2, 4, 3, padding=1), lambda: nn.Conv3d(2, 4, 3, padding=1), (2, 2, 4, 5, 6)),
    (pure.LayerNorm((4, 5)), lambda: nn.LayerNorm((4, 5)), (3, 4, 5)),
    (pure.LayerNorm(5, bias=False, eps=1e-3), lambda: nn.LayerNorm(5, bias=False, eps=1e-3), (3, 4, 5)),
    (pure.LayerNorm(5, affine=False), lambda: nn.LayerNorm(5, elementwise_affine=False), (3, 5)),
    (pure.RMSNorm(5), lambda: nn.RMSNorm(5, eps=1e-6), (3, 5)),
    (pure.GroupNorm(2, 6), lambda: nn.GroupNorm(2, 6), (3, 6, 5)),
    (pure.GroupNorm(3, 6, affine=False), lambda: nn.GroupNorm(3, 6, affine=False), (3, 6, 5, 5)),
    (pure.MaxPool(3, 2, 1), lambda: nn.MaxPool2d(3, 2, 1), (2, 3, 9, 8)),
    (pure.MaxPool(2, ceil_mode=True), lambda: nn.MaxPool1d(2, ceil_mode=True), (2, 3, 9)),
    (pure.AvgPool(3, 2, 1, count_include_pad=False), lambda: nn.AvgPool2d(3, 2, 1, False, False), (2, 3, 9, 8)),
    (pure.AvgPool(2), lambda: nn.AvgPool3d(2), (2, 3, 4, 4, 4)),
    (pure.GlobalAvgPool(), lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), (2, 3, 9, 8)),
    (pure.Flatten(), nn.Flatten, (2, 3, 4)),
]


@pytest.mark.parametrize(
    ("block", "make", "shape"), PAIRS, ids=lambda value: str(value) if isinstance(value, pure.Block) else ""
)
def test_equals_the_module(block: pure.Block, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        module = make()
    params, _ = block.init(torch.Generator().manual_seed(11))
    flat = tree.flatten(params)
    assert {name: leaf.shape for name, leaf in flat.items()} == {n: p.shape for n, p in module.named_parameters()}
    for name, theirs in module.named_parameters():
        assert torch.equal(flat[name], theirs)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y, expected = block(pure.cast(params, torch.float64), x), module.double()(x).detach()
    assert float((y - expected).abs().max()) <= 1e-12
    assert block.out_shape(shape) == tuple(expected.shape)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_equals_torch_and_never_writes_in_place(name: str) -> None:
    x = torch.linspace(-8, 8, 41, dtype=torch.float64).reshape(1, -1)
    before = x.clone()
    expected = {
        "gelu_tanh": lambda v: F.gelu(v, approximate="tanh"),
        "identity": lambda v: v,
        "quick_gelu": lambda v: v * torch.sigmoid(1.702 * v),
    }.get(name) or getattr(F, name)
    assert torch.equal(pure.Activation(name)({}, x), expected(x))
    assert torch.equal(x, before)


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 5), (3, 4, 5, 2), (2, 4, 3, 2, 2)], ids=str)
def test_batch_norm_follows_the_module_over_several_steps(momentum: float | None, shape: tuple[int, ...]) -> None:
    block = pure.BatchNorm(4, momentum=momentum)
    params, state = block.init(torch.Generator(), torch.float64)
    module = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](
        4, momentum=momentum
    )
    module = module.double()
    draw = torch.Generator().manual_seed(0)
    for _ in range(3):
        x = torch.randn(shape, generator=draw, dtype=torch.float64) * 3 + 1
        y, state = block.apply(params, x, state, {}, True)
        assert float((y - module(x).detach()).abs().max()) <= 1e-12
        for name, buffer in module.named_buffers():
            assert float((state[name] - buffer).abs().max()) <= 1e-12
    assert float((block(params, x, state) - module.eval()(x).detach()).abs().max()) <= 1e-12
    assert state["num_batches_tracked"].dtype == torch.int64


def test_batch_norm_statistics_stay_wide_for_half_precision() -> None:
    block = pure.BatchNorm(4)
    params, state = block.init(torch.Generator(), torch.bfloat16)
    x = (torch.randn(64, 4, generator=torch.Generator().manual_seed(0)) + 100).bfloat16()
    y, new_state = block.apply(params, x, state, {}, True)
    assert y.dtype == torch.bfloat16
    assert new_state["running_mean"].dtype == torch.float32
    assert float((new_state["running_mean"] / 0.1 - x.float().mean(0)).abs().max()) < 1e-4


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 1), (1, 4, 1, 1)], ids=str)
def test_batch_norm_of_one_value_a_channel_is_an_error_in_training_only(shape: tuple[int, ...]) -> None:
    block = pure.BatchNorm(4)
    params, state = block.init(torch.Generator())
    with pytest.raises(ShapeError, match=r"one value a channel.*larger batch"):
        block.apply(params, torch.ones(shape), state, {}, True)
    assert block(params, torch.ones(shape), state).shape == shape


def test_dropout_keeps_its_rate_scale_and_mask() -> None:
    block = pure.Dropout(0.25)
    noise = block.noise((1000, 100), torch.Generator().manual_seed(0))
    y, _ = block.apply({}, torch.ones(1000, 100), {}, {}, True, noise)
    kept = float(noise["mask"].mean())
    assert abs(kept - 0.75) < 5 * (0.25 * 0.75 / 1e5) ** 0.5, "five standard errors"
    assert torch.equal(y, noise["mask"] / 0.75)
    assert torch.equal(block({}, torch.ones(2, 2)), torch.ones(2, 2))
    assert pure.Dropout(0.0).apply({}, torch.ones(2, 2), {}, {}, True)[0].sum() == 4
    with pytest.raises(NoiseError, match="mask"):
        block.apply({}, torch.ones(2, 3), {}, {}, True, {"mask": torch.ones(2, 2)})


@pytest.mark.parametrize(
    ("block", "x", "error", "words"),
    [
        (pure.Linear(3, 2), torch.zeros(3), RankError, "unsqueeze"),
        (pure.Linear(3, 2), torch.zeros(2, 4), ShapeError, r"\(2, 4\)"),
        (pure.Linear(3, 2), torch.zeros(2, 3, dtype=torch.float64), DtypeError, "float64.*float32"),
        (pure.Conv2d(3, 2, 3), torch.zeros(3, 8, 8), RankError, r"batch, 3, H, W"),
        (pure.Conv2d(3, 2, 3), torch.zeros(1, 4, 8, 8), ShapeError, "does not fit"),
        (pure.Conv1d(3, 2, 3), torch.zeros(1, 3, 8, 8), RankError, r"batch, 3, W"),
        (pure.BatchNorm(3), torch.zeros(3), RankError, "batch, 3"),
        (pure.BatchNorm(3), torch.zeros(2, 4), ShapeError, "does not fit"),
        (pure.LayerNorm(3), torch.zeros(3), RankError, "batch axis"),
        (pure.RMSNorm(3), torch.zeros(3), RankError, "batch"),
        (pure.GroupNorm(1, 3), torch.zeros(3), RankError, "batch, 3"),
        (pure.MaxPool(2), torch.zeros(2, 3), RankError, "spatial"),
        (pure.Flatten(), torch.zeros(2), RankError, "unsqueeze"),
    ],
    ids=repr,
)
def test_bad_inputs_are_typed_errors(block: pure.Block, x: torch.Tensor, error: type[Exception], words: str) -> None:
    params, state = block.init(torch.Generator().manual_seed(0))
    with pytest.raises(error, match=words):
        block(params, x, state)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pure.Conv2d(3, 4, 3, groups=2), "groups=2"),
        (lambda: pure.Conv2d(3, 4, (3, 3, 3)), "kernel_size"),
        (lambda: pure.Conv2d(3, 4, 3, padding="full"), "'same', 'valid'"),
        (lambda: pure.GroupNorm(2, 5), "do not divide"),
        (lambda: pure.Activation("rellu"), "did you mean 'relu'"),
        (lambda: pure.Dropout(1.0), r"\[0, 1\)"),
        (lambda: pure.Repeat(pure.Linear(2, 2), 0), "at least 1"),
        (lambda: pure.Parallel(join="concat"), "no children"),
        (lambda: pure.Parallel(pure.Linear(1, 1), join="max"), "join"),
        (lambda: pure.Sequential(pure.Linear(1, 1), fc=pure.Linear(1, 1)), "not both"),
        (lambda: pure.Sequential(torch.relu), "wrap it in Function"),
        (lambda: pure.Residual(torch.relu), "wrap it in Function"),
        (lambda: pure.Function(3), "can be called"),
        (lambda: pure.Linear(3, 4).init(0), "torch.Generator"),
    ],
)
def test_bad_descriptions_are_typed_errors(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        make()


@pytest.mark.parametrize(
    "block",
    [
        pure.Linear(3, 2),
        pure.Conv1d(3, 2, 1),
        pure.BatchNorm(3),
        pure.LayerNorm(3),
        pure.RMSNorm(3),
        pure.GroupNorm(1, 3),
    ],
    ids=repr,
)
def test_params_and_inputs_of_two_dtypes_are_a_typed_error(block: pure.Block) -> None:
    params, state = block.init(torch.Generator().manual_seed(0))
    x = torch.zeros(2, 3, 3, dtype=torch.float64)
    with pytest.raises(DtypeError, match=r"float64.*float32.*pure\.cast"):
        block(params, x, state)


@pytest.mark.parametrize("block", [pure.Linear(3, 2), pure.BatchNorm(3), pure.LayerNorm(3)], ids=repr)
def test_params_and_inputs_on_two_devices_are_a_typed_error(block: pure.Block) -> None:
    params, state = block.init(torch.Generator().manual_seed(0))
    with pytest.raises(DeviceError, match=r"meta.*cpu.*move one"):
        block(params, torch.zeros(2, 3, device="meta"), state)


@pytest.mark.parametrize(
    ("block", "shape"),
    [
        (pure.BatchNorm(3), (4, 3)),
        (pure.LayerNorm(3), (4, 3)),
        (pure.RMSNorm(3), (4, 3)),
        (pure.GroupNorm(1, 3), (4, 3)),
        (pure.Conv1d(3, 3, 1), (4, 3, 2)),
        (pure.Linear(3, 3), (4, 3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_misspelt_or_mis_shaped_leaf_is_never_left_out_or_broadcast(block: pure.Block, shape: Any) -> None:
    params, state = block.init(torch.Generator().manual_seed(0))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for name, leaf in params.items():
        rest = {key: value for key, value in params.items() if key != name}
        for wrong in ({**rest, "misspelt": leaf}, {**rest, name: leaf[:1]}):
            for training in (False, True):
                with pytest.raises(TreeError, match=name):
                    block.apply(wrong, x, state, {}, training)


def test_dropout_scales_in_the_dtype_of_its_input() -> None:
    block = pure.Dropout(0.1)
    noise = block.noise((1, 100), torch.Generator().manual_seed(0))
    y, _ = block.apply({}, torch.ones(1, 100, dtype=torch.float64), {}, {}, True, noise)
    assert float(y.max()) == 1 / 0.9
