"""Training is a pure function too: batch statistics, gradients and optimiser steps in one file, judged as any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad_and_value

import export
import pure
from pure import nets, optim
from pure.block import Block
from pure.layers.activation import ACTIVATIONS

STEPS = 2
BATCHES = ({1: "batch"}, {1: "batch"})


def conv_net(activation: str = "relu") -> Block:
    """A residual network with BatchNorm."""
    branch = pure.Sequential(
        conv=pure.Conv2d(8, 8, 3, padding=1), norm=pure.BatchNorm(8), act=pure.Activation(activation)
    )
    return pure.Sequential(
        stem=pure.Conv2d(3, 8, 3, stride=2, padding=1),
        norm=pure.BatchNorm(8),
        layer=pure.Residual(branch),
        pool=pure.GlobalAvgPool(),
        head=pure.Linear(8, 4),
    )


def mlp() -> Block:
    """A perceptron with BatchNorm of rank 2, whose momentum is a cumulative mean."""
    return pure.Sequential(
        fc1=pure.Linear(6, 12),
        norm=pure.BatchNorm(12, momentum=None),
        act=pure.Activation("tanh"),
        fc2=pure.Linear(12, 4),
    )


def started(block: Block, x_shape: tuple[int, ...]) -> tuple[Any, Any, Tensor]:
    """Parameters, a state that has seen a batch, and an input."""
    generator = torch.Generator().manual_seed(0)
    params, state = block.init(generator)
    x = torch.randn(x_shape, generator=generator)
    return params, block.apply(params, x, state, {}, True)[1], x


def training(block: Block, optimizer: optim.GradientTransformation, steps: int) -> Callable[..., Any]:
    """k steps: (params, state, optimiser's state, batches) → the same three, and the losses."""

    def train(params: Any, state: Any, opt_state: Any, images: Tensor, labels: Tensor) -> dict[str, Any]:
        losses = []
        for k in range(steps):

            def loss(params: Any, k: int = k, state: Any = state) -> tuple[Tensor, Any]:
                y, new_state = block.apply(params, images[k], state, {}, True)
                return F.cross_entropy(y, labels[k]), new_state

            grads, (value, state) = grad_and_value(loss, has_aux=True)(params)
            params, opt_state = optimizer.step(grads, opt_state, params)
            losses.append(value)
        return {"params": params, "state": state, "opt_state": opt_state, "losses": torch.stack(losses)}

    return train


def batches(steps: int, size: int, *shape: int, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(steps, size, *shape, generator=generator)
    return images, torch.randint(0, classes, (steps, size), generator=generator)


def leaves_of(trees: dict[str, Any]) -> set[str]:
    return {f"out.{name}.{leaf}" for name, tree in trees.items() for leaf in pure.flatten(tree)}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(("make", "x_shape"), [(conv_net, (4, 3, 8, 8)), (mlp, (6, 6))], ids=["conv", "mlp"])
def test_the_new_state_of_batch_norm_is_an_output(
    make: Callable[[], Block], x_shape: tuple[int, ...], dynamic: bool, tmp_path: Path
) -> None:
    block = make()
    params, state, x = started(block, x_shape)

    def step(p: Any, s: Any, x: Tensor) -> Any:
        y, new_state = block.apply(p, x, s, {}, True)
        return {"y": y, "state": new_state}

    path = tmp_path / "f.onnx"
    axes = (None, None, {0: "batch"}) if dynamic else None
    export.to_onnx(step, (params, state, x), path, dynamic=axes)
    verdict = export.verify(step, (params, state, x), path, dynamic=axes)
    assert verdict.passed, verdict.table()
    assert {row.leaf for row in verdict.rows if row.leaf != "(all)"} == {"out.y", *leaves_of({"state": state})}
    ran = export.load(path)(params, state, x)["state"]
    for name, leaf in pure.flatten(ran).items():
        assert not torch.equal(leaf, pure.flatten(state)[name]), f"{name} moved"


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_a_state_that_stays_as_it_is_is_an_output_all_the_same(training: bool, tmp_path: Path) -> None:
    block = conv_net()
    params, state, x = started(block, (4, 3, 8, 8))
    path = tmp_path / "f.onnx"
    fn = lambda p, s, x: block.apply(p, x, s, {}, training)  # noqa: E731
    export.to_onnx(fn, (params, state, x), path)
    assert export.verify(fn, (params, state, x), path).passed
    file = export.load(path)
    assert {leaf.name for leaf in file.outputs} == {"out.0", *(f"out.1.{name}" for name in pure.flatten(state))}
    given = pure.tree.tree_map(lambda leaf: leaf + 1, state)
    _, after = file(params, given, x)
    same = [torch.equal(leaf, pure.flatten(given)[name]) for name, leaf in pure.flatten(after).items()]
    assert all(same) if not training else not any(same)


def test_arguments_and_constants_are_outputs_under_their_own_names(tmp_path: Path) -> None:
    fixed = torch.arange(3.0)

    def fn(params: dict[str, Tensor], x: Tensor) -> Any:
        return {"params": params, "same": x, "twice": (x, x), "fixed": fixed, "sum": x + params["a"]}

    args = {"a": torch.ones(3), "b": torch.zeros(2, 2)}, torch.tensor([1.0, 2.0, 3.0])
    path = tmp_path / "f.onnx"
    export.to_onnx(fn, args, path)
    assert export.verify(fn, args, path).passed
    file = export.load(path)
    names = [leaf.name for leaf in file.outputs]
    assert set(names) == {
        *("out.params.a", "out.params.b", "out.same", "out.twice.0", "out.twice.1", "out.fixed", "out.sum")
    }
    params, x = {"a": torch.full((3,), 5.0), "b": torch.full((2, 2), 6.0)}, torch.tensor([7.0, 8.0, 9.0])
    out = file(params, x)
    assert torch.equal(out["params"]["b"], params["b"]), "an argument that nothing else uses comes back too"
    assert torch.equal(out["same"], x)
    assert torch.equal(out["twice"][1], x)
    assert torch.equal(out["fixed"], fixed)


OPTIMIZERS = {
    "momentum": lambda: optim.sgd(0.05, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda: optim.sgd(0.05, momentum=0.9, nesterov=True),
    "adamw": lambda: optim.adamw(1e-2),
    "schedule": lambda: optim.sgd(lambda step: 0.1 / (1.0 + step)),
}


@pytest.mark.parametrize(
    ("name", "dynamic"),
    [
        ("momentum", False),
        ("nesterov", False),
        ("adamw", False),
        ("adamw", True),
        ("schedule", False),
    ],
)
def test_steps_of_an_optimiser_are_one_file(name: str, dynamic: bool, tmp_path: Path) -> None:
    block, optimizer = mlp(), OPTIMIZERS[name]()
    params, state, _ = started(block, (6, 6))
    images, labels = batches(STEPS, 6, 6)
    args = (params, state, optimizer.init(params), images, labels)
    path = tmp_path / "train.onnx"
    axes = (None, None, None, *BATCHES) if dynamic else None
    train = training(block, optimizer, STEPS)
    export.to_onnx(train, args, path, dynamic=axes)
    verdict = export.verify(train, args, path, dynamic=axes)
    assert verdict.passed, verdict.table()
    trees = {"params": params, "state": state, "opt_state": args[2]}
    assert {row.leaf for row in verdict.rows if row.leaf != "(all)"} == {"out.losses", *leaves_of(trees)}
    after = export.load(path)(*args)
    counts = [int(leaf) for leaf_name, leaf in pure.flatten(after["opt_state"]).items() if leaf_name.endswith("step")]
    assert counts == [STEPS] * len(counts)
    assert after["losses"].shape == (STEPS,)
    again = export.load(path)(after["params"], after["state"], after["opt_state"], images, labels)
    assert again["losses"][-1] < after["losses"][0], "the file's outputs are its next inputs, and it learns"


def test_a_training_step_that_forgets_weight_decay_fails(tmp_path: Path) -> None:
    block = mlp()
    params, state, _ = started(block, (6, 6))
    right = optim.sgd(0.05, momentum=0.9, weight_decay=1e-4)
    wrong = optim.chain(optim.scale(1.0), optim.trace(0.9), optim.scale_by_learning_rate(0.05))  # the same state
    args = (params, state, right.init(params), *batches(STEPS, 6, 6))
    path = tmp_path / "train.onnx"
    export.to_onnx(training(block, wrong, STEPS), args, path)
    verdict = export.verify(training(block, right, STEPS), args, path)
    assert {row.leaf.split(".")[1] for row in verdict.rows if row.status == "fail"} >= {"params", "opt_state"}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_steps_of_a_convolutional_network_are_one_file(dynamic: bool) -> None:
    block, optimizer = conv_net(), optim.sgd(0.05, momentum=0.9, weight_decay=1e-4)
    params, state, _ = started(block, (4, 3, 8, 8))
    args = (params, state, optimizer.init(params), *batches(STEPS, 4, 3, 8, 8))
    axes = (None, None, None, *BATCHES) if dynamic else None
    verdict = export.verify(training(block, optimizer, STEPS), args, dynamic=axes)
    assert verdict.passed, verdict.table()


def resnet(block: Block) -> tuple[Callable[..., Any], tuple[Any, ...], tuple[Tensor, Tensor]]:
    """One step of training, its trees, and five batches; at a rate of 0.05 float32 loses every digit in five steps."""
    optimizer = optim.sgd(1e-3, momentum=0.9, weight_decay=1e-4)
    params, state = block.init(torch.Generator().manual_seed(0))
    step = training(block, optimizer, 1)
    return step, (params, state, optimizer.init(params)), batches(5, 8, 3, 32, 32, classes=5)


def five(step: Callable[..., Any], trees: tuple[Any, ...], images: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Five steps, each from what the one before it returned."""
    seen = []
    for k in range(5):
        seen.append(step(*trees, images[k : k + 1], labels[k : k + 1]))
        trees = seen[-1]["params"], seen[-1]["state"], seen[-1]["opt_state"]
    return seen


@pytest.mark.slow
def test_five_steps_of_a_smooth_resnet_track_eager_within_its_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With relu, one flip within rounding moves all that follows; with silu, file and eager differ by rounding."""
    monkeypatch.setitem(ACTIVATIONS, "relu", F.silu)
    step, trees, (images, labels) = resnet(nets.resnet18(num_classes=5))
    path = tmp_path / "step.onnx"
    export.to_onnx(step, (*trees, images[:1], labels[:1]), path)
    assert "Relu" not in {node.op_type for node in onnx.load(path).graph.node}
    wide = tuple(pure.cast(tree, torch.float64) for tree in trees)
    runs = five(export.load(path), trees, images, labels), five(step, trees, images, labels)
    reference = five(step, wide, images.double(), labels)
    file, eager, exact = (pure.flatten(run[-1]) for run in (*runs, reference))
    start = pure.flatten(dict(zip(("params", "state", "opt_state"), trees, strict=True)))
    squares = torch.zeros(2, dtype=torch.float64)
    for name, target in exact.items():
        if not target.is_floating_point():
            assert torch.equal(file[name], target), name
        elif name in start:
            moved = (target - start[name]).square().mean()
            squares += torch.stack([(run[name].double() - target).square().mean() / moved for run in (file, eager)])
    theirs, own = (squares / len(start)).sqrt().tolist()
    assert own < 0.02, "rounding is a small part of what training changed, so that the ratio tells much"
    assert theirs < 2 * own


@pytest.mark.slow
def test_the_fifth_step_of_a_resnet_is_right_from_where_eager_stands() -> None:
    """With relu, each step is judged from eager's own state: either side of a flip within rounding is right there."""
    step, trees, (images, labels) = resnet(nets.resnet18(num_classes=5))
    fourth = five(step, trees, images, labels)[3]
    trees = fourth["params"], fourth["state"], fourth["opt_state"]
    verdict = export.verify(step, (*trees, images[4:], labels[4:]))
    assert verdict.passed, verdict.table()
