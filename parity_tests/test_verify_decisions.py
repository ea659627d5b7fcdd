"""Where a decision lies within rounding, either side is right; nothing else is excused by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch.func import grad, vjp, vmap

import export
from parity_tests import edited_files
from pure import nets

Edit = Callable[[onnx.ModelProto], None]


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def on_the_edge(relu: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and a batch; the first sum of the first row is as near to 0 as float32 inputs allow, but below it."""
    weight, x = seeded(6, 8), seeded(4, 8, seed=1)
    rest = float(x[0, 1:].double() @ weight[0, 1:].double())
    x[0, 0] = -rest / float(weight[0, 0])
    below = x[0, 0].clone()
    while relu and float(x[0].double() @ weight[0].double()) >= 0:
        below = torch.nextafter(below, -torch.inf * weight[0, 0])
        x[0, 0] = below
    return weight, x


def loss(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (torch.relu(x @ weight.mT) + 0.1).square().mean()


def exported(fn: Callable[..., Any], args: tuple[Any, ...], folder: Path, *edits: Edit) -> Path:
    path = folder / "f.onnx"
    export.to_onnx(fn, args, path)
    model = onnx.load(path)
    for edit in edits:
        edit(model)
    edited_files.save(model, path)
    return path


def nudged(kind: str, by: float) -> Edit:
    """Add a number to the first input of the first operator of a kind."""

    def edit(model: onnx.ModelProto) -> None:
        position, node = next((i, node) for i, node in enumerate(model.graph.node) if node.op_type == kind)
        model.graph.initializer.append(numpy_helper.from_array(np.array(by, np.float32), "nudge"))
        model.graph.node.insert(position, helper.make_node("Add", [node.input[0], "nudge"], ["nudged"], name="nudge"))
        node.input[0] = "nudged"

    return edit


def scaled_output(by: float) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        name = model.graph.output[0].name
        node = next(node for node in model.graph.node if name in node.output)
        node.output[list(node.output).index(name)] = "unscaled"
        model.graph.initializer.append(numpy_helper.from_array(np.array(by, np.float32), "scale"))
        model.graph.node.append(helper.make_node("Mul", ["unscaled", "scale"], [name], name="scale"))

    return edit


def renamed(old: str, new: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        next(node for node in model.graph.node if node.op_type == old).op_type = new

    return edit


def test_a_relu_within_rounding_of_0_may_take_either_side_and_is_reported(tmp_path: Path) -> None:
    args = on_the_edge()
    plain = export.verify(grad(loss), args)
    assert plain.passed
    path = exported(grad(loss), args, tmp_path, nudged("Relu", 5e-7))
    flipped = export.load(path)(*args)
    assert (flipped - grad(loss)(*args)).abs().max() > 1e-3, "the flip is far more than rounding"
    verdict = export.verify(grad(loss), args, path)
    assert verdict.passed, verdict.table()
    (decision,) = verdict.decisions
    assert (decision.op, decision.compared, decision.open) == ("relu", 24, 1)
    assert abs(decision.margin) <= 8 * decision.rounding
    assert "in loss" in decision.source
    assert "rounding leaves 1 of 24 decisions open" in verdict.table()
    assert verdict.to_dict()["decisions"][0]["open"] == 1


def test_a_relu_whose_result_is_rearranged_before_it_is_compared_may_take_either_side(tmp_path: Path) -> None:
    def per_row(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return vmap(grad(lambda weight, row: loss(weight, row[None])), (None, 0))(weight, x)

    weight, x = on_the_edge()
    path = tmp_path / "f.onnx"
    export.to_onnx(per_row, (weight, x), path, dynamic=(None, {0: "batch"}))
    model = onnx.load(path)
    nudged("Relu", 5e-7)(model)
    edited_files.save(model, path)
    verdict = export.verify(per_row, (weight, x), path, dynamic=(None, {0: "batch"}))
    assert verdict.passed, verdict.table()
    assert sum(decision.open for decision in verdict.decisions) == 1


def test_a_flip_hides_no_other_error(tmp_path: Path) -> None:
    args = on_the_edge()
    path = exported(grad(loss), args, tmp_path, nudged("Relu", 5e-7), scaled_output(1.0001))
    verdict = export.verify(grad(loss), args, path)
    assert verdict.status == "fail"


@pytest.mark.parametrize("by", [1e-2, 1e-4, -1e-2], ids=["far", "near", "the other way"])
def test_a_mask_that_is_wrong_at_a_clear_margin_fails(by: float, tmp_path: Path) -> None:
    weight, x = seeded(32, 8), seeded(256, 8, seed=1)
    path = exported(grad(loss), (weight, x), tmp_path, nudged("LessOrEqual", by))
    # relu's result is what is compared, so that a shift down blocks small positive sums, and one up lets all through
    verdict = export.verify(grad(loss), (weight, x), path)
    assert verdict.status == "fail"
    assert verdict.divergence is not None
    assert verdict.divergence.op == "LessOrEqual"


def test_the_side_at_an_exact_zero_is_not_left_open(tmp_path: Path) -> None:
    weight, x = seeded(6, 8), seeded(4, 8, seed=1)
    x[0] = 0  # no rounding: the sums are 0, and relu's derivative there is 0

    def shifted(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return (torch.relu(x @ weight.mT) + 0.1).square().mean()

    assert export.verify(grad(shifted, 1), (weight, x)).passed
    path = exported(grad(shifted, 1), (weight, x), tmp_path, renamed("LessOrEqual", "Less"))
    verdict = export.verify(grad(shifted, 1), (weight, x), path)
    assert verdict.status == "fail"
    assert not verdict.decisions


def test_a_comparison_of_exact_inputs_leaves_nothing_open(tmp_path: Path) -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, 1 + x, x)

    x = seeded(64)
    x[3] = -1e-9
    path = exported(fn, (x,), tmp_path, nudged("Greater", 1e-8))
    assert export.verify(fn, (x,)).passed
    assert export.verify(fn, (x,), path).status == "fail"


def eager_flips() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs on which float32 takes another side of relu than float64."""
    for seed in range(2000):
        weight, x = seeded(6, 8), seeded(4, 8, seed=seed)
        rest = float(x[0, 1:].double() @ weight[0, 1:].double())
        x[0, 0] = -rest / float(weight[0, 0])
        low, high = x @ weight.mT, x.double() @ weight.double().mT
        if ((low > 0) != (high > 0)).sum() == 1 and float(low[0, 0]) * float(high[0, 0]) < 0:
            return weight, x
    raise AssertionError("no such inputs found")


def test_a_flip_of_eagers_own_excuses_no_error_of_a_wrong_file(tmp_path: Path) -> None:
    args = eager_flips()
    own = grad(loss)(*args).double()
    exact = grad(loss)(*(arg.double() for arg in args))
    assert (own - exact).abs().max() > 1e-3
    path = exported(grad(loss), args, tmp_path, scaled_output(1.0001))
    assert export.verify(grad(loss), args).passed
    assert export.verify(grad(loss), args, path).status == "fail"


def test_the_sign_in_the_derivative_of_abs_may_take_either_side_too(tmp_path: Path) -> None:
    def distance(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return (x @ weight.mT).abs().mean()

    args = on_the_edge()
    path = exported(grad(distance), args, tmp_path, nudged("Sign", 5e-7))
    verdict = export.verify(grad(distance), args, path)
    assert verdict.passed, verdict.table()
    assert [(decision.op, decision.open) for decision in verdict.decisions] == [("sgn", 1)]


def test_a_pool_picks_either_of_two_values_that_tie_within_rounding(tmp_path: Path) -> None:
    def pooled(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        y = (x @ weight.mT)[:, None, :, None]
        return (torch.nn.functional.max_pool2d(y, (2, 1)).flatten(1) * torch.tensor([1.0, 2.0, 3.0])).square().sum()

    weight, x = seeded(6, 8), seeded(4, 8, seed=1)
    first, second = (x[0].double() @ weight[i].double() for i in (0, 1))
    x[0, 0] += (second - first) / (weight[0, 0] - weight[1, 0])
    assert export.verify(grad(pooled), (weight, x)).passed
    verdicts = []
    for position in (0, 1):
        path = exported(grad(pooled), (weight, x), tmp_path, favoured(position))
        verdicts.append(export.verify(grad(pooled), (weight, x), path))
    assert all(verdicts), verdicts
    assert {decision.op for verdict in verdicts for decision in verdict.decisions} == {"max_pool2d_with_indices"}
    path = exported(grad(pooled), (weight, x), tmp_path, favoured(3, by=100))
    assert export.verify(grad(pooled), (weight, x), path).status == "fail"


def favoured(position: int, by: float = 5e-7) -> Edit:
    """Add to one value of the first row that the pool picks from."""

    def edit(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "MaxPool")
        row = np.zeros((4, 1, 6, 1), np.float32)
        row[0, 0, position] = by
        model.graph.initializer.append(numpy_helper.from_array(row, "push"))
        spot = list(model.graph.node).index(node)
        model.graph.node.insert(spot, helper.make_node("Add", [node.input[0], "push"], ["pushed"], name="push"))
        node.input[0] = "pushed"

    return edit


def test_either_of_two_positions_that_tie_within_rounding_is_right(tmp_path: Path) -> None:
    def top(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return (x @ weight.mT).abs().argmax(1)

    weight, x = seeded(6, 8), seeded(4, 8, seed=1)
    scores = (x @ weight.mT).abs()
    best, second = scores[0].topk(2).indices.tolist()
    weight[second] *= float(scores[0, best] / scores[0, second]) * (1 - 1e-7)
    chosen = int(top(weight, x)[0])
    path = exported(top, (weight, x), tmp_path, other_position(chosen, best + second - chosen))
    verdict = export.verify(top, (weight, x), path)
    assert verdict.passed, verdict.table()
    assert [decision.op for decision in verdict.decisions] == ["argmax"]
    far = next(i for i in range(6) if i not in (best, second))
    path = exported(top, (weight, x), tmp_path, other_position(chosen, far))
    assert export.verify(top, (weight, x), path).status == "fail"


def other_position(old: int, new: int) -> Edit:
    """Let the file answer `new` in the first row, where it would answer `old`."""

    def edit(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "ArgMax")
        row = np.zeros((4, 6), np.float32)
        row[0, old], row[0, new] = -100, 100
        model.graph.initializer.append(numpy_helper.from_array(row, "push"))
        position = list(model.graph.node).index(node)
        model.graph.node.insert(position, helper.make_node("Add", [node.input[0], "push"], ["pushed"], name="push"))
        node.input[0] = "pushed"

    return edit


def highway() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    block = nets.highway_mlp(6, 8, 3, 4)
    params, state = block.init(torch.Generator().manual_seed(0))
    x = seeded(4, 6, seed=3)

    def pulled(params: Any, x: torch.Tensor, v: torch.Tensor) -> Any:
        return vjp(lambda p, x: block(p, x, state), params, x)[1](v)

    return pulled, (params, x, torch.cos(torch.arange(12.0)).reshape(4, 3))


@pytest.mark.parametrize("result", ["positions", "values"])
def test_picks_that_are_all_the_other_ones_fail_however_close_they_are(result: str, tmp_path: Path) -> None:
    def best(x: torch.Tensor, sign: float = 1.0) -> torch.Tensor:
        scores = x * 3 / 3  # rounds by about as much as the two of a row differ
        place = (scores * sign).argmax(-1)
        return place if result == "positions" else torch.tensor([1.0, -1.0])[place]

    first = torch.linspace(1, 1.9, 64)
    x = torch.stack([first, torch.nextafter(first, torch.tensor(2.0))], 1)
    assert export.verify(best, (x,)).passed
    path = tmp_path / "f.onnx"
    export.to_onnx(lambda x: best(x, -1.0), (x,), path)
    verdict = export.verify(best, (x,), path)
    assert verdict.status == "fail"
    assert "each within rounding: too many" in verdict.table(full=True)


def test_onnx_runtimes_coarser_tanh_is_known_and_excuses_nothing_else(tmp_path: Path) -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return 1 - torch.tanh(x).square()

    x = torch.linspace(2, 4, 4096)
    verdict = export.verify(fn, (x,))
    assert verdict.passed, verdict.table()
    path = exported(fn, (x,), tmp_path, scaled_output(1.0001))
    assert export.verify(fn, (x,), path).status == "fail"


def test_the_backward_pass_of_a_highway_stack_is_right() -> None:
    fn, args = highway()
    verdict = export.verify(fn, args)
    assert verdict.passed, verdict.table()
