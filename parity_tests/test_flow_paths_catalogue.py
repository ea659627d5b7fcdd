"""Every row of the catalogue that tags a branch splits by path length, forwards and backwards."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jvp

import pure
from pure import flow
from pure.catalogue import CASES, Case
from pure.errors import DtypeError, UnsupportedError

# Layers, gates and networks in which no branch is tagged. A row on the wrong side of this list fails its test.
UNTAGGED = {
    "linear",
    "conv1d",
    "conv2d",
    "conv2d_same",
    "conv3d",
    "batch_norm",
    "layer_norm",
    "group_norm",
    "rms_norm",
    "relu",
    "gelu",
    "silu",
    "tanh",
    "max_pool",
    "avg_pool",
    "global_avg_pool",
    "blur_pool",
    "zero_pad",
    "channel_rms_norm",
    "std_conv",
    "slim_linear",
    "flatten",
    "dropout",
    "drop_path",
    "scale",
    "squeeze_excite",
    "scaled_std_conv",
    "scaled_activation",
    "channel_norm",
    "global_response_norm",
    "global_response_norm_first",
    "move_axis",
    "upsample",
    "patch_embedding",
    "class_token",
    "mean_token",
    "learned_positions",
    "first_token",
    "attention",
    "attention_mask",
    "attention_causal",
    "attention_pool",
    "attention_grouped",
    "project",
    "fractal_block",
    "inverted_residual_strided",
    "glu",
    "geglu",
    "swiglu",
    "swiglu_packed",
    "llama_mlp",
    "spatial_gating",
    "eca",
    "cbam",
    "selective_kernel",
    "attention_gated",
    "dense_transition",
    "attention_residual_read",
    "equilibrium",
    "dynamic_select",
    "dynamic_per_sample",
    "parallel",
    "simple_block",
    "dynamic_net",
    "plain_mlp",
}
SPLIT = [row for row in CASES if row.tokens is None and row.name not in UNTAGGED]
PLAIN = [row for row in CASES if row.tokens is None and row.name in UNTAGGED]


def test_the_list_names_rows_of_the_catalogue() -> None:
    assert {row.name for row in PLAIN} == UNTAGGED


@pytest.mark.parametrize("row", SPLIT, ids=lambda row: row.name)
def test_the_components_sum_to_the_derivative_in_both_modes(row: Case) -> None:
    block, params, state, x, extras = row.example(dtype=torch.float64)
    assert pure.capture(block, "branch")(params, x, state, extras)[1]
    generator = torch.Generator().manual_seed(1)
    v = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    found = flow.path_spectrum(block, params, x, v, state, extras)
    y, whole = jvp(lambda x: block(params, x, state, extras), (x,), (v,))
    u = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    assert float((found.components.sum(0) - whole).norm()) <= 1e-12 * float(whole.norm())

    def loss(params: Any, x: Tensor) -> Tensor:
        return (block(params, x, state, extras) * u).sum()

    reverse = flow.path_spectrum_of_loss(loss, params, x)
    assert reverse.labels == found.labels
    assert reverse.paths == found.paths
    left, right = (found.components * u).flatten(1).sum(1), (reverse.components * v).flatten(1).sum(1)
    scale = float(found.components.flatten(1).norm(dim=1).max() * u.norm())
    assert float((left - right).abs().max()) <= 1e-12 * scale


@pytest.mark.parametrize("row", PLAIN, ids=lambda row: row.name)
def test_a_row_without_a_tagged_branch_is_refused(row: Case) -> None:
    block, params, state, x, extras = row.example()
    assert not pure.capture(block, "branch")(params, x, state, extras)[1]
    with pytest.raises((UnsupportedError, DtypeError), match=r"tags no branch|does not depend on x|have no derivative"):
        flow.path_spectrum(block, params, x, torch.ones_like(x), state, extras)
