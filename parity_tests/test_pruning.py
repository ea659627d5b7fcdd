"""Pruning: masks hold exact counts, coupled channels go together, and the smaller block computes what zeros compute."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from parity_tests.oracles.oracle import shifted
from pure import (
    Activation,
    BatchNorm,
    Block,
    Conv2d,
    DenseSkip,
    DropPath,
    Flatten,
    Function,
    GlobalAvgPool,
    GroupNorm,
    Highway,
    LayerNorm,
    Linear,
    MaxPool,
    MixedPrecision,
    Parallel,
    Project,
    Rename,
    Repeat,
    Residual,
    RMSNorm,
    Scale,
    Sequential,
    grad,
    nets,
    tree,
)
from pure.block import check_params
from pure.catalogue import CASES
from pure.errors import ArgumentError, TreeError, UnsupportedError
from pure.initializers import Constant
from pure.layers import Attention
from pure.pruning import (
    apply_masks,
    block_importance,
    channel_importance,
    coupled_channels,
    magnitude_masks,
    prune_channels,
    remove_blocks,
    resized,
    sparsity,
)
from pure.skips import GLU

FLOAT64 = 1e-12


def drawn(block: Block, seed: int = 0) -> tuple[Any, Any]:
    """Parameters and statistics in float64 without a value that is 0 or 1 by default."""
    params, state = block.init(torch.Generator().manual_seed(seed), torch.float64)
    return shifted(params, seed), shifted(tree.cast(state, torch.float64), seed + 1)


def normal(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def basic(in_channels: int, out_channels: int, stride: int = 1, norm: Callable[[int], Block] = BatchNorm) -> Block:
    branch = Sequential(
        conv1=Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        norm1=norm(out_channels),
        act=Activation("relu"),
        conv2=Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        norm2=norm(out_channels),
    )
    if stride == 1 and in_channels == out_channels:
        return Residual(branch, activation="relu")
    return Residual(branch, Project(in_channels, out_channels, stride, bias=False, norm=True), activation="relu")


def resnet(norm: Callable[[int], Block] = BatchNorm) -> Block:
    return Sequential(
        conv1=Conv2d(3, 8, 3, padding=1, bias=False),
        bn1=norm(8),
        act=Activation("relu"),
        pool=MaxPool(2),
        layer1=Sequential(basic(8, 8, norm=norm), basic(8, 8, norm=norm)),
        layer2=Sequential(basic(8, 12, 2, norm), basic(12, 12, norm=norm)),
        gap=GlobalAvgPool(),
        fc=Linear(12, 5),
    )


def densenet() -> Block:
    def layer(channels: int) -> Block:
        return DenseSkip(
            Sequential(norm=BatchNorm(channels), act=Activation("relu"), conv=Conv2d(channels, 4, 3, padding=1))
        )

    return Sequential(
        stem=Conv2d(3, 6, 3, padding=1),
        layers=Sequential(layer(6), layer(10), layer(14)),
        transition=Conv2d(18, 6, 1),
        more=Sequential(layer(6), Activation("silu"), layer(10)),
        flat=Flatten(),
        head=Linear(14 * 16, 3),
    )


def inverted(groups: int = 8) -> Block:
    """An inverted residual block: depthwise, or in groups of channels."""
    return Sequential(
        stem=Conv2d(3, 4, 1),
        block=Residual(
            Sequential(
                expand=Conv2d(4, 8, 1, bias=False),
                norm=BatchNorm(8),
                act=Activation("hardswish"),
                depth=Conv2d(8, 8, 3, padding=1, groups=groups),
                project=Conv2d(8, 4, 1),
                drop=DropPath(0.1),
            )
        ),
        head=Conv2d(4, 3, 1),
    )


def halves(x: Tensor) -> Tensor:
    value, gate = x.chunk(2, 1)
    return value * torch.sigmoid(gate)


def gated_mlp() -> Block:
    return Sequential(fc=Linear(3, 16), glu=Function(halves), out=Linear(8, 2))


def conv_highway() -> Block:
    layer = Highway(Conv2d(6, 6, 3, padding=1), Conv2d(6, 6, 1, bias_init=Constant(-2.0)))
    return Sequential(stem=Conv2d(3, 6, 1), one=layer, two=layer, head=Conv2d(6, 2, 1))


def scaled() -> Block:
    branch = Sequential(fc1=Linear(8, 12), act=Activation("gelu"), fc2=Linear(12, 8), scale=Scale(8, 0.5))
    return Sequential(stem=Linear(4, 8), blocks=Repeat(Residual(branch), 3), head=Linear(8, 2))


def transformer_mlp() -> Block:
    branch = Sequential(norm=LayerNorm(8), fc1=Linear(8, 12), act=Activation("gelu"), fc2=Linear(12, 8))
    return Sequential(stem=Linear(4, 8), block=Residual(branch), norm=RMSNorm(8), head=Linear(8, 2))


def parallel() -> Block:
    arms = Parallel(Linear(6, 5), Sequential(Linear(6, 5), Activation("tanh")), join="product")
    return Sequential(stem=Linear(4, 6), arms=arms, head=Linear(5, 2))


NETS: dict[str, tuple[Callable[[], Block], tuple[int, ...]]] = {
    "simple_block": (lambda: nets.simple_block(6, 8, 3), (2, 6)),
    "simple_block_with_skip": (lambda: nets.simple_block_with_skip(6, 8, 6), (2, 6)),
    "residual_block": (lambda: nets.residual_block(4, 6, 1, "project"), (2, 4, 7, 7)),
    "tutorial_resnet": (lambda: nets.tutorial_resnet((4, 6, 8)), (2, 4, 7, 7)),
    "tutorial_resnet_pad": (lambda: nets.tutorial_resnet((4, 6, 8), shortcut="pad"), (2, 4, 7, 7)),
    "skip_mlp": (lambda: nets.skip_mlp(6, 8, 3, 4), (2, 6)),
    "dense_mlp": (lambda: nets.dense_mlp(6, 8, 3, 3, 4), (2, 6)),
    "highway_mlp": (lambda: nets.highway_mlp(6, 8, 3, 4), (2, 6)),
    "resnet": (resnet, (2, 3, 16, 16)),
    "resnet_group_norm": (lambda: resnet(lambda channels: GroupNorm(4, channels)), (2, 3, 16, 16)),
    "densenet": (densenet, (2, 3, 4, 4)),
    "depthwise": (inverted, (2, 3, 5, 5)),
    "grouped": (lambda: inverted(4), (2, 3, 5, 5)),
    "gated_mlp": (gated_mlp, (2, 3)),
    "conv_highway": (conv_highway, (2, 3, 5, 5)),
    "scaled_repeat": (scaled, (2, 4)),
    "transformer_mlp": (transformer_mlp, (2, 5, 4)),
    "parallel": (parallel, (2, 4)),
    "mixed_precision": (lambda: MixedPrecision(nets.simple_block(6, 8, 3), torch.float64), (2, 6)),
}


def far(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max() / a.abs().max())


# Masks


@pytest.mark.parametrize("amount", [0.0, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("scope", ["global", "leaf"])
def test_masks_hold_the_exact_count_and_the_smallest_values(amount: float, scope: Any) -> None:
    params, _ = resnet().init(torch.Generator().manual_seed(0))
    masks = magnitude_masks(params, amount, scope=scope)
    tree.check(masks, params)
    flat, ours = tree.flatten(params), tree.flatten(masks)
    chosen = [name for name, leaf in flat.items() if leaf.ndim > 1]
    for names in [chosen] if scope == "global" else [[name] for name in chosen]:
        values = torch.cat([flat[name].abs().flatten() for name in names])
        kept = torch.cat([ours[name].flatten() for name in names])
        assert int((kept == 0).sum()) == int(amount * len(values) + 0.5)
        assert set(kept.unique().tolist()) <= {0.0, 1.0}
        if 0 < amount < 1:
            assert values[kept == 0].max() <= values[kept == 1].min()
    assert all(bool(mask.all()) for name, mask in ours.items() if name not in chosen)


def test_equal_values_are_cut_in_tree_order() -> None:
    params = {"a": torch.ones(2, 2), "b": torch.ones(2, 2)}
    masks = magnitude_masks(params, 0.625)
    assert masks["a"].flatten().tolist() == [0, 0, 0, 0]
    assert masks["b"].flatten().tolist() == [0, 1, 1, 1]


def test_masks_choose_leaves_by_pattern_or_function() -> None:
    params, _ = nets.simple_block(3, 4, 2).init(torch.Generator().manual_seed(0))
    by_pattern = sparsity(magnitude_masks(params, 0.5, where="fc2.*"))
    assert by_pattern.zeros == {"fc1.weight": 0, "fc1.bias": 0, "fc2.weight": 5, "fc2.bias": 0} or (
        by_pattern.zeros["fc2.weight"] + by_pattern.zeros["fc2.bias"] == 5 and not by_pattern.zeros["fc1.weight"]
    )
    by_function = magnitude_masks(params, 1.0, where=lambda name, leaf: name.endswith("bias"))
    assert sparsity(by_function).zeros == {"fc1.weight": 0, "fc1.bias": 4, "fc2.weight": 0, "fc2.bias": 2}
    with pytest.raises(TreeError, match="matches none"):
        magnitude_masks(params, 0.5, where="fc3.*")
    with pytest.raises(ArgumentError, match=r"in \[0, 1\]"):
        magnitude_masks(params, 1.5)
    with pytest.raises(ArgumentError, match="'global' or 'leaf'"):
        magnitude_masks(params, 0.5, scope="block")  # type: ignore[arg-type]


def test_masked_gradients_are_the_gradients_of_the_masked_function() -> None:
    block = nets.simple_block(3, 4, 2)
    params, _ = drawn(block)
    masks = magnitude_masks(params, 0.5)
    x = normal(5, 3)

    def loss(params: Any) -> Tensor:
        return block(apply_masks(params, masks), x).square().mean()

    found = tree.flatten(grad(loss)(params))
    at_masked = tree.flatten(grad(lambda p: block(p, x).square().mean())(apply_masks(params, masks)))
    for name, mask in tree.flatten(masks).items():
        torch.testing.assert_close(found[name], at_masked[name] * mask, rtol=0, atol=1e-15)
    ensemble = tree.stack([params, params])
    ys = torch.func.vmap(lambda p: block(apply_masks(p, masks), x))(ensemble)
    torch.testing.assert_close(ys[1], block(apply_masks(params, masks), x))
    with pytest.raises(TreeError, match="masks"):
        apply_masks(params, {"fc1": masks["fc1"]})


def test_the_report_says_how_sparse_each_leaf_is() -> None:
    params, _ = nets.simple_block(10, 10, 10).init(torch.Generator().manual_seed(0))
    report = sparsity(apply_masks(params, magnitude_masks(params, 0.75, scope="leaf")))
    assert report["fc1.weight"] == report["fc2.weight"] == 0.75
    assert report.total == 150 / 220
    assert "fc1.weight" in str(report)
    assert "75.00%" in str(report)
    assert report.to_dict()["leaves"]["fc1.bias"] == {"zeros": 0, "count": 10}


# Coupled channels


def groups_of(block: Block, x_shape: tuple[int, ...]) -> dict[str, Any]:
    params, state = drawn(block)
    return {group.name: group for group in coupled_channels(block, params, x_shape, state)}


def places(group: Any) -> set[str]:
    return {f"{member.name}[{member.axis}]" for member in group.members}


def test_all_writers_of_a_residual_stream_share_their_channels() -> None:
    found = groups_of(resnet(), (1, 3, 16, 16))
    assert [len(group) for group in found.values()] == [8, 8, 8, 12, 12, 12]
    stream = found["conv1.weight"]
    writers = {member.name for member in stream.members if member.role == "writes"}
    assert writers == {"conv1.weight", "layer1.0.branch.conv2.weight", "layer1.1.branch.conv2.weight"}
    readers = {member.name for member in stream.members if member.role == "reads"}
    assert readers == {
        "layer1.0.branch.conv1.weight",
        "layer1.1.branch.conv1.weight",
        "layer2.0.branch.conv1.weight",
        "layer2.0.shortcut.conv.weight",
    }
    wide = found["layer2.0.branch.conv2.weight"]
    assert {"layer2.0.shortcut.conv.weight[0]", "layer2.0.shortcut.norm.weight[0]", "fc.weight[1]"} <= places(wide)
    assert {m.name for m in wide.members if m.role == "gains"} == {
        "layer2.0.branch.norm2.weight",
        "layer2.0.shortcut.norm.weight",
        "layer2.1.branch.norm2.weight",
    }
    assert {m.name for m in wide.members if m.tree == "state"} >= {"layer2.0.shortcut.norm.running_var"}


def test_concatenated_layers_keep_channels_of_their_own() -> None:
    found = groups_of(nets.dense_mlp(6, 8, 3, 3, 4), (1, 6))
    assert [len(group) for group in found.values()] == [8, 4, 4, 4]
    last = found["layers.2.branch.linear.weight"]
    (head,) = (member for member in last.members if member.name == "head.weight")
    assert head.indices == ((16,), (17,), (18,), (19,))


def test_a_flattened_channel_is_read_once_a_position() -> None:
    block = Sequential(conv=Conv2d(1, 3, 1), flat=Flatten(), fc=Linear(12, 2))
    (group,) = groups_of(block, (1, 1, 2, 2)).values()
    (read,) = (member for member in group.members if member.name == "fc.weight")
    assert read.indices == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))


def test_groups_go_as_a_whole() -> None:
    depthwise = groups_of(inverted(8), (1, 3, 5, 5))["block.branch.expand.weight"]
    assert len(depthwise) == 8
    grouped = groups_of(inverted(4), (1, 3, 5, 5))["block.branch.expand.weight"]
    assert len(grouped) == 4
    assert {"block.branch.depth.weight[0]", "block.branch.project.weight[1]"} <= places(grouped)
    normed = Sequential(conv=Conv2d(1, 6, 1), norm=GroupNorm(3, 6), head=Conv2d(6, 1, 1))
    (group,) = groups_of(normed, (1, 1, 2, 2)).values()
    assert group.members[0].indices == ((0, 1), (2, 3), (4, 5))
    one = Sequential(conv=Conv2d(1, 6, 1), norm=GroupNorm(1, 6), head=Conv2d(6, 1, 1))
    assert not groups_of(one, (1, 1, 2, 2))


def test_halves_that_are_multiplied_go_together() -> None:
    (group,) = groups_of(gated_mlp(), (1, 3)).values()
    (writer,) = (member for member in group.members if member.name == "fc.weight")
    assert writer.indices[0] == (0, 8)
    assert len(group) == 8


def test_what_a_statistic_runs_over_stays() -> None:
    assert list(groups_of(transformer_mlp(), (1, 5, 4))) == ["block.branch.fc1.weight"]
    softmax = Sequential(fc=Linear(2, 4), soft=Function(lambda x: x.softmax(-1)), out=Linear(4, 2))
    mean = Sequential(fc=Linear(2, 4), mean=Function(lambda x: x - x.mean(-1, keepdim=True)), out=Linear(4, 2))
    heads = Sequential(fc=Linear(2, 4), split=Function(lambda x: x.reshape(-1, 2, 2).flip(1)), out=Linear(2, 2))
    for block in (softmax, mean, heads):
        assert not groups_of(block, (1, 2))


REDUCTIONS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True),
    lambda x: x / torch.linalg.vector_norm(x, 1, dim=-1, keepdim=True),
    lambda x: x / x.norm(),
    lambda x: x - x.amax(1, keepdim=True),
    lambda x: x * x.var(1, keepdim=True),
    lambda x: x * x.std(),
    lambda x: x * x.argmax(1, keepdim=True),
    lambda x: x - x.logsumexp(1, keepdim=True),
    lambda x: x - x.max(1, keepdim=True).values,
    lambda x: x - x.max(),
    lambda x: x * torch.var_mean(x, 1, keepdim=True)[0],
    lambda x: x.cumsum(1),
    lambda x: x.log_softmax(1),
    lambda x: x.roll(1, 1),
    lambda x: x * x.mean(),
    lambda x: x * x.sum(1)[:, None],
]


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_a_reduction_pins_the_axes_it_runs_over_and_no_other(reduce: Callable[[Tensor], Tensor]) -> None:
    over_channels = Sequential(fc=Linear(2, 4), odd=Function(reduce), out=Linear(4, 2))
    assert not groups_of(over_channels, (3, 2))
    x = normal(5, 7)
    if torch.equal(reduce(x)[:1], reduce(x[:1])):  # along its axis 1 alone
        over_batch = Sequential(fc=Linear(2, 4), odd=Function(lambda x: reduce(x.t()).t()), out=Linear(4, 2))
        (group,) = groups_of(over_batch, (3, 2)).values()
        assert len(group) == 4


def test_groups_of_one_leaf_have_names_of_their_own() -> None:
    def two(params: Any, x: Tensor) -> Tensor:
        first, second = torch.nn.functional.linear(x, params["fc"]).split([3, 5], 1)
        return first @ params["one"] + second @ params["two"]

    def init(generator: torch.Generator) -> Any:
        shapes = {"fc": (8, 2), "one": (3, 2), "two": (5, 2)}
        return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    found = groups_of(Function(two, init), (1, 2))
    assert {name: len(group) for name, group in found.items()} == {"fc": 3, "fc#2": 5}
    assert places(found["fc#2"]) == {"fc[0]", "two[0]"}


@pytest.mark.parametrize("name", ["linear", "conv2d", "batch_norm", "highway", "dense_block"])
def test_input_and_output_are_not_cut(name: str) -> None:
    (row,) = (row for row in CASES if row.name == name)
    block, params, state, x, extras = row.example()
    assert coupled_channels(block, params, x, state, extras) == ()


def test_an_operation_that_is_not_understood_is_named() -> None:
    block = Sequential(fc=Linear(3, 4), odd=Function(lambda x: x.sort(1).values), out=Linear(4, 2))
    params, state = drawn(block)
    with pytest.raises(UnsupportedError, match=r"aten\.sort"):
        coupled_channels(block, params, (1, 3), state)


# Pruned channels


@pytest.mark.parametrize("importance", ["l1", "l2", "random"])
@pytest.mark.parametrize("name", NETS)
def test_the_smaller_block_computes_what_zeros_compute(name: str, importance: str) -> None:
    make, x_shape = NETS[name]
    block = make()
    params, state = drawn(block)
    generator = torch.Generator().manual_seed(3)
    rule: Any = importance
    if importance == "random":
        rule = lambda group, params: torch.rand(len(group), generator=generator)  # noqa: E731
    before = [leaf.clone() for leaf in tree.leaves((params, state))]
    cut = prune_channels(block, params, x_shape, state, keep=0.5, importance=rule)
    assert all(map(torch.equal, before, tree.leaves((params, state))))
    assert cut.groups
    assert cut.block is not None, cut.reason
    check_params(cut.block, cut.params, cut.state)
    assert tree.count(cut.params) < tree.count(params)
    x = normal(*x_shape)
    y = cut.block(cut.params, x, cut.state)
    assert far(block(cut.zeroed, x, state), y) < FLOAT64
    assert far(block(params, x, state), y) > 1e-3


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_every_row_is_pruned_rightly_or_refused(row: Any) -> None:
    """No silently wrong group: the last channel of every group can be cut, or the row is a typed error."""
    block, params, state, x, extras = row.example(dtype=torch.float64)
    params, state = shifted(params, 1), shifted(tree.cast(state, torch.float64), 2)
    try:
        groups = coupled_channels(block, params, x, state, extras)
    except UnsupportedError:
        return
    masks = {group.name: torch.arange(len(group)) < len(group) - 1 for group in groups}
    cut = prune_channels(block, params, x, state, extras, keep=masks)
    if cut.block is None:
        assert cut.reason
        return
    zeroed = tree.leaves(block(cut.zeroed, x, state, extras))
    smaller = tree.leaves(cut.block(cut.params, x, cut.state, extras))
    for one, other in zip(zeroed, smaller, strict=True):
        assert far(one, other) < FLOAT64


def test_given_masks_are_kept_to() -> None:
    block = nets.skip_mlp(6, 8, 3, 4)
    params, _ = drawn(block)
    mask = torch.tensor([True, False, True, True, False, True, True, False])
    cut = prune_channels(block, params, (1, 6), keep={"stem.linear.weight": mask})
    torch.testing.assert_close(cut.params["head"]["weight"], params["head"]["weight"][:, mask])
    inner = params["layers"]["2"]["branch"]["linear"]["weight"]
    torch.testing.assert_close(cut.params["layers"]["2"]["branch"]["linear"]["weight"], inner[mask][:, mask])
    assert "5 of 8 channels stay" in str(cut)
    with pytest.raises(ArgumentError, match="did you mean 'stem"):
        prune_channels(block, params, (1, 6), keep={"stem.liner.weight": mask})
    with pytest.raises(ArgumentError, match="at least one"):
        prune_channels(block, params, (1, 6), keep={"stem.linear.weight": mask & ~mask})
    with pytest.raises(ArgumentError, match="in \\(0, 1\\]"):
        prune_channels(block, params, (1, 6), keep=0.0)
    with pytest.raises(ArgumentError, match="'group' or 'global'"):
        prune_channels(block, params, (1, 6), scope="leaf")  # type: ignore[arg-type]


def test_a_part_can_be_asked_of_some_groups() -> None:
    block = Sequential(
        embed=Linear(6, 8), attend=Residual(Attention(8, 2)), feed=Residual(GLU(8, 12)), head=Linear(8, 3)
    )
    params, state = drawn(block)
    cut = prune_channels(block, params, (2, 5, 6), state, keep={"feed.*": 0.25})
    assert {name: int(mask.sum()) for name, mask in cut.masks.items() if not mask.all()} == {
        "feed.branch.gate.weight": 3
    }
    assert cut.block is not None, cut.reason
    x = normal(2, 5, 6)
    assert far(block(cut.zeroed, x), cut.block(cut.params, x)) < FLOAT64
    whole = prune_channels(block, params, (2, 5, 6), state, keep=0.5)
    assert whole.block is None, "attention has one size for queries and values"
    assert "no sizes of Attention" in whole.reason
    with pytest.raises(ArgumentError, match="no channel group is named"):
        prune_channels(block, params, (2, 5, 6), state, keep={"food.*": 0.25})
    with pytest.raises(ArgumentError, match="in \\(0, 1\\]"):
        prune_channels(block, params, (2, 5, 6), state, keep={"feed.*": 2})
    with pytest.raises(ArgumentError, match="'group'"):
        prune_channels(block, params, (2, 5, 6), state, keep={"feed.*": 0.5}, scope="global")


def test_what_is_not_finite_proves_nothing() -> None:
    block = nets.simple_block(2, 8, 4)
    params, state = drawn(block)
    params["fc2"]["bias"][0] = float("nan")
    cut = prune_channels(block, params, (1, 2), state)
    assert cut.block is None
    assert "does not compute" in cut.reason


def test_importance_is_what_its_name_says() -> None:
    block = resnet()
    params, state = drawn(block)
    groups = {group.name: group for group in coupled_channels(block, params, (1, 3, 16, 16), state)}
    stream, inner = groups["conv1.weight"], groups["layer1.0.branch.conv1.weight"]
    flat = tree.flatten(params)
    writers = ["conv1.weight", "layer1.0.branch.conv2.weight", "layer1.1.branch.conv2.weight"]
    l1 = sum(flat[name].abs().sum((1, 2, 3)) for name in writers)
    torch.testing.assert_close(channel_importance(stream, params, "l1"), l1)
    l2 = flat["layer1.0.branch.conv1.weight"].flatten(1).norm(dim=1)
    torch.testing.assert_close(channel_importance(inner, params, "l2"), l2)
    gamma = flat["layer1.0.branch.norm1.weight"].abs()
    torch.testing.assert_close(channel_importance(inner, params, "gamma"), gamma)
    with pytest.raises(ArgumentError, match="did you mean 'gamma'"):
        channel_importance(inner, params, "gama")
    with pytest.raises(ArgumentError, match="one score for each of 8"):
        channel_importance(inner, params, lambda group, params: torch.ones(2))
    fc = coupled_channels(nets.simple_block(2, 3, 4), nets.simple_block(2, 3, 4).init(torch.Generator())[0], (1, 2))
    with pytest.raises(UnsupportedError, match="no batch or group norm"):
        channel_importance(fc[0], params, "gamma")


def test_one_threshold_over_all_gains_is_network_slimming() -> None:
    block = resnet()
    params, state = drawn(block)
    cut = prune_channels(block, params, (1, 3, 16, 16), state, importance="gamma", scope="global", keep=0.5)
    scores = torch.cat([channel_importance(group, params, "gamma") for group in cut.groups])
    masks = torch.cat(list(cut.masks.values()))
    assert int(masks.sum()) in (30, 31, 32)  # half of 60, and at least one a group
    assert scores[masks].mean() > scores[~masks].mean()
    assert all(bool(mask.any()) for mask in cut.masks.values())
    assert cut.block is not None


def test_a_size_that_no_leaf_shows_leaves_no_smaller_block() -> None:
    norm = Function(lambda x: x * x.new_tensor([1.0, 2.0, 3.0, 4.0]))  # as wide as the stream, whatever is cut
    block = Sequential(fc=Linear(2, 4), norm=norm, out=Linear(4, 2))
    params, state = drawn(block)
    assert not coupled_channels(block, params, (1, 2), state)
    hidden = Sequential(conv=Conv2d(2, 4, 1), norm=GroupNorm(2, 4, affine=False), out=Conv2d(4, 2, 1))
    params, state = drawn(hidden)
    cut = prune_channels(hidden, params, (1, 2, 3, 3), state)
    assert cut.block is None
    assert "zeroed parameters" in cut.reason or "refuses" in cut.reason
    assert cut.params["conv"]["weight"].shape == (2, 2, 1, 1)


def test_resized_says_what_it_cannot_do() -> None:
    with pytest.raises(UnsupportedError, match="no sizes of Linear"):
        resized(Linear(4, 6), {"weight": torch.zeros(3, 4), "bias": torch.zeros(5)})
    assert resized(LayerNorm((6, 4)), {"weight": torch.zeros(3, 4), "bias": torch.zeros(3, 4)}) == LayerNorm((3, 4))
    state = {"running_mean": torch.zeros(3), "running_var": torch.ones(3), "num_batches_tracked": torch.tensor(0)}
    assert resized(BatchNorm(6, affine=False), {}, state) == BatchNorm(3, affine=False)
    depthwise = {"weight": torch.zeros(6, 1, 3, 3), "bias": torch.zeros(6)}
    assert resized(Conv2d(8, 16, 3, groups=8), depthwise) == Conv2d(3, 6, 3, groups=3)


# Whole blocks


def zero_branch(params: Any, *paths: str) -> Any:
    flat = {
        name: torch.zeros_like(leaf) if any(name.startswith(f"{path}.branch.") for path in paths) else leaf
        for name, leaf in tree.flatten(params).items()
    }
    return tree.unflatten(flat)


def test_importance_is_branch_over_stream() -> None:
    block = nets.skip_mlp(6, 8, 3, 3)
    params, _ = drawn(block)
    params = zero_branch(params, "layers.1")
    x = normal(4, 6)
    found = block_importance(block, params, x)
    assert list(found) == ["layers.0", "layers.1", "layers.2"]
    assert found["layers.1"] == 0
    stem = torch.relu(torch.nn.functional.linear(x, *params["stem"]["linear"].values()))
    branch = torch.relu(torch.nn.functional.linear(stem, *params["layers"]["0"]["branch"]["linear"].values())) / 3**0.5
    assert found["layers.0"] == pytest.approx(float(branch.norm() / (stem + branch).norm()), rel=1e-12)
    residual = nets.residual_mlp_block(3, 4)
    assert list(block_importance(residual, residual.init(torch.Generator())[0], torch.ones(1, 3))) == [""]


def unactivated() -> Block:
    return Sequential(
        stem=Conv2d(3, 8, 3, padding=1),
        layers=Sequential(one=basic(8, 8), down=basic(8, 12, 2), two=basic(12, 12), three=basic(12, 12)),
        gap=GlobalAvgPool(),
        fc=Linear(12, 5),
    )


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: nets.skip_mlp(6, 8, 3, 4), ["layers.0", "layers.3"]),
        (lambda: nets.residual_mlp(6, 8, 3, 0.5, "tanh"), ["1"]),
        (lambda: Residual(Sequential(a=Linear(6, 6), b=Residual(Linear(6, 6)))), ["branch.b"]),
        (lambda: Sequential(a=Parallel(Residual(Linear(6, 6)), Linear(6, 6)), b=Linear(6, 2)), ["a.0"]),
        (lambda: Rename(Sequential(Residual(Linear(6, 6)), Linear(6, 2)), {"0.branch": "fc", "1": "out"}), ["0"]),
        (lambda: MixedPrecision(nets.residual_mlp(6, 8, 2), torch.float64), ["0"]),
    ],
)
def test_removing_a_zero_branch_changes_no_bit(make: Callable[[], Block], names: list[str]) -> None:
    block = make()
    params, state = drawn(block)
    if isinstance(block, Rename):
        params = {**params, "fc": tree.tree_map(torch.zeros_like, params["fc"])}
    else:
        params = zero_branch(params, *names)
    x = normal(4, 6)
    smaller, kept, left = remove_blocks(block, params, state, names)
    check_params(smaller, kept, left)
    assert set(tree.names(kept)) < set(tree.names(params))
    assert torch.equal(smaller(kept, x, left), block(params, x, state))


def test_an_activation_behind_the_sum_stays() -> None:
    block = unactivated()
    params, state = drawn(block)
    for norm in ("layers.one", "layers.three"):
        params = zero_branch(params, norm)
    x = normal(2, 3, 8, 8)
    smaller, kept, left = remove_blocks(block, params, state, ["layers.one", "layers.three"])
    assert torch.equal(smaller(kept, x, left), block(params, x, state))
    assert list(smaller.children()["layers"].children()) == ["one", "down", "two", "three"]
    assert list(kept["layers"]) == list(left["layers"]) == ["down", "two"]


def test_slices_of_stacked_parameters_go() -> None:
    branch = Sequential(norm=BatchNorm(6), fc=Linear(6, 6), drop=DropPath(0.1))
    block = Sequential(blocks=Repeat(Residual(branch), 4, vary={"branch.drop.rate": (0.0, 0.1, 0.2, 0.3)}))
    params, state = drawn(block)
    stacked = params["blocks"]["branch"]["fc"]
    zeros = torch.tensor([1.0, 0, 1, 0])
    stacked = {name: (leaf.movedim(0, -1) * zeros).movedim(-1, 0) for name, leaf in stacked.items()}
    params = {"blocks": {"branch": {**params["blocks"]["branch"], "fc": stacked}}}
    x = normal(4, 6)
    importance = block_importance(block, params, x, state)
    assert list(importance) == [f"blocks.{depth}" for depth in range(4)]
    smaller, kept, left = remove_blocks(block, params, state, importance, threshold=0.0)
    assert smaller.children()["blocks"].depth == 2
    assert dict(smaller.children()["blocks"].vary) == {"branch.drop.rate": (0.0, 0.2)}
    assert torch.equal(smaller(kept, x, left), block(params, x, state))
    gone, nothing, _ = remove_blocks(block, params, state, list(importance))
    assert nothing == {}
    assert torch.equal(gone(nothing, x), x)


def test_what_lies_inside_every_depth_goes_at_once_or_is_refused() -> None:
    inner = Sequential(a=Residual(Linear(6, 6)), b=Residual(Linear(6, 6)))
    for block, prefix in ((Repeat(inner, 2), ""), (Repeat(Repeat(inner, 3), 2), None)):
        params, _ = drawn(block)
        params = zero_branch(params, "a")
        names = [f"{i}.a" for i in range(2)] if prefix == "" else [f"{i}.{j}.a" for i in range(2) for j in range(3)]
        smaller, kept, _ = remove_blocks(block, params, {}, names)
        x = normal(4, 6)
        assert torch.equal(smaller(kept, x), block(params, x))
        with pytest.raises(UnsupportedError, match="some depths"):
            remove_blocks(block, params, {}, names[:-1])
    deep = Repeat(Repeat(Residual(Linear(6, 6)), 3), 2)
    params, _ = drawn(deep)
    params = tree.tree_map(lambda leaf: leaf * torch.tensor([1.0, 0, 1]).reshape(1, 3, *[1] * (leaf.ndim - 2)), params)
    smaller, kept, _ = remove_blocks(deep, params, {}, ["0.1", "1.1"])
    assert kept["branch"]["weight"].shape == (2, 2, 6, 6)
    assert torch.equal(smaller(kept, x), deep(params, x))


def test_blocks_that_cannot_go_are_refused() -> None:
    block = unactivated()
    params, state = drawn(block)
    with pytest.raises(UnsupportedError, match="identity shortcut"):
        remove_blocks(block, params, state, ["layers.down"])
    with pytest.raises(UnsupportedError, match="identity shortcut"):
        remove_blocks(block, params, state, ["stem"])
    with pytest.raises(ArgumentError, match="did you mean 'three'"):
        remove_blocks(block, params, state, ["layers.thre"])
    with pytest.raises(ArgumentError, match="give the importances"):
        remove_blocks(block, params, state, ["layers.one"], threshold=0.5)
    with pytest.raises(ArgumentError, match=r"\['layers.one'\]"):
        remove_blocks(block, params, state, "layers.one")
    with pytest.raises(ArgumentError, match="give the threshold too"):
        remove_blocks(block, params, state, {"layers.one": 0.5})
    importance = block_importance(block, params, normal(2, 3, 8, 8), state)
    smaller, kept, _ = remove_blocks(block, params, state, importance, threshold=float("inf"))
    assert list(kept["layers"]) == ["down"]
    assert smaller.out_shape((1, 3, 8, 8)) == (1, 5)
    activated = Repeat(Residual(Linear(6, 6), activation="relu"), 3)
    with pytest.raises(UnsupportedError, match="activation"):
        remove_blocks(activated, drawn(activated)[0], {}, ["1"])
