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


def branches(row: Case) -> int:
    block, params, state, x, extras = row.example()
    return len(pure.capture(block, "branch")(params, x, state, extras)[1])


SPLIT = [row for row in CASES if row.tokens is None and branches(row)]
PLAIN = [row for row in CASES if row.tokens is None and not branches(row)]


@pytest.mark.parametrize("row", SPLIT, ids=lambda row: row.name)
def test_the_components_sum_to_the_derivative_in_both_modes(row: Case) -> None:
    block, params, state, x, extras = row.example(dtype=torch.float64)
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
    with pytest.raises((UnsupportedError, DtypeError), match=r"tags no branch|does not depend on x|have no derivative"):
        flow.path_spectrum(block, params, x, torch.ones_like(x), state, extras)
