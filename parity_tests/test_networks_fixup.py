"""Fixup ResNets against a plain module of the same formula, at their published sizes."""

import pytest
import torch

from parity_tests.libraries import scaled_oracles
from parity_tests.oracles.oracle import Oracle, assert_equal, differences, shifted
from pure import tree
from pure.errors import ArgumentError
from pure.nets.convolutional.fixup import fixup_resnet, fixup_resnet20, fixup_resnet110

WIDTHS = (16, 32, 64)
SIZES = {20: (fixup_resnet20, 3), 110: (fixup_resnet110, 18)}


@pytest.mark.parametrize("layers", SIZES)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_preset_equals_the_module(layers: int, training: bool) -> None:
    make, depth = SIZES[layers]
    block, depths = make(num_classes=7), (depth,) * 3
    module = scaled_oracles.FixupNetwork(depths, WIDTHS, 7, 3).double()
    params, state = block.init(torch.Generator().manual_seed(0), torch.float64)
    assert sum(leaf.numel() for leaf in module.parameters()) == sum(leaf.numel() for leaf in tree.leaves(params))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    oracle = Oracle(lambda: module, scaled_oracles.network_names(depths))
    assert_equal(oracle, differences(oracle, module, block, shifted(params, 2, 0.02), state, x, {}, training=training))


@pytest.mark.parametrize(("depths", "widths"), [((), ()), ((1, 1), (4,)), ((1, 0), (4, 8)), ((1, 1), (8, 4))])
def test_sizes_that_make_no_network_are_refused(depths: tuple[int, ...], widths: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match="expected a rising width"):
        fixup_resnet(depths, widths)
