"""Every row of the catalogue can be analysed: per-sample norms equal those of materialised gradients."""

from typing import Any

import pytest
import torch
from torch.func import grad, vmap

from pure import flow, tree
from pure.catalogue import CASES, Case

WITHOUT_PARAMETERS = {
    "relu",
    "gelu",
    "silu",
    "tanh",
    "max_pool",
    "avg_pool",
    "global_avg_pool",
    "blur_pool",
    "zero_pad",
    "flatten",
    "dropout",
    "drop_path",
    "scaled_activation",
    "move_axis",
    "upsample",
    "mean_token",
    "first_token",
}
TRAINABLE = [row for row in CASES if row.name not in WITHOUT_PARAMETERS]


def test_the_rows_without_parameters_have_none() -> None:
    without = [row for row in CASES if row.name in WITHOUT_PARAMETERS]
    assert len(without) == len(WITHOUT_PARAMETERS)
    assert not any(tree.leaves(row.make().init(torch.Generator())[0]) for row in without)


@pytest.mark.parametrize("row", TRAINABLE, ids=lambda row: row.name)
def test_per_sample_norms_are_those_of_the_gradients(row: Case) -> None:
    block, params, state, x, extras = row.example(dtype=torch.float64)
    own = {name: extras[name] for name, _ in row.extras}
    fixed = {name: value for name, value in extras.items() if name not in own}
    batch = (x, own) if own else (x,)

    def loss(params: Any, sample: torch.Tensor, own: Any = None) -> torch.Tensor:
        given = {name: value[None] for name, value in (own or {}).items()}
        y: torch.Tensor = block(params, sample[None], state, {**fixed, **given})
        return y.square().sum()

    norms = flow.per_sample_norms(loss, params, *batch)
    gradients = vmap(grad(loss), (None, *(0 for _ in batch)))(params, *batch)
    expected = {name: leaf.reshape(leaf.shape[0], -1).norm(dim=1) for name, leaf in tree.flatten(gradients).items()}
    assert list(norms) == list(expected)
    largest = max(float(value.max()) for value in expected.values())
    for name, value in expected.items():
        assert float((norms[name] - value).abs().max()) <= 1e-10 * largest


@pytest.mark.parametrize("row", TRAINABLE, ids=lambda row: row.name)
def test_gradient_norms_are_those_of_the_gradient(row: Case) -> None:
    block, params, state, x, extras = row.example(dtype=torch.float64)

    def loss(params: Any, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = block(params, x, state, extras)
        return y.square().mean()

    found = flow.gradient_norms(loss, params, x)
    expected = tree.flatten(grad(loss)(params, x))
    for name, gradient in expected.items():
        assert found[name] == pytest.approx(float(gradient.norm()), rel=1e-10, abs=1e-300)
    assert found.table() is not None
