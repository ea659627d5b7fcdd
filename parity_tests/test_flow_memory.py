"""What an audit and an initialisation hold at once: counted tensor by tensor, so that no clock or machine has a say.

Claims: beside the blocks' inputs an audit holds no more at depth 40 than at depth 16; beyond its budget for those it
holds 2√depth of them; a `Repeat` is drawn into its place, with one block's parameters beside it and not all of them.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from pure import Repeat, Residual, Sequential, flow, nets, tree
from pure.layers import LayerNorm, Linear
from pure.skips import Highway, pre_norm

BATCH, WIDTH = 4, 8
STREAM = BATCH * WIDTH * 4
"""Bytes of one stream in float32."""


class Held(TorchDispatchMode):
    """Follows every storage that an operation made, forward or backward, until it is freed.

    Attributes:
        most: the largest number of bytes held at the end of any operation.
    """

    def __init__(self):
        super().__init__()
        self.most = 0
        self._alive = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [leaf for leaf in tree.leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        before = {leaf.untyped_storage()._cdata for leaf in given}
        out = func(*args, **(kwargs or {}))
        for leaf in tree.leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in before:
                storage = leaf.untyped_storage()
                self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self.most = max(self.most, sum(size for _, size in self._alive.values()))
        return out


def drawn(net):
    return net.init(torch.Generator().manual_seed(0))[0]


def held_by_audit(block, depth, **options):
    net = Repeat(block, depth)
    params, x = drawn(net), torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(1))
    with Held() as held:
        flow.audit(net, params, x, loss=lambda y: y.square().mean(), **options)
    return held.most


BLOCKS = {
    "residual": nets.residual_mlp_block(WIDTH, 2 * WIDTH),
    "pre-norm": pre_norm(Linear(WIDTH, WIDTH), LayerNorm(WIDTH)),
    "highway": Highway.dense(WIDTH),
    "no branch": Sequential(Linear(WIDTH, WIDTH), LayerNorm(WIDTH)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_an_audit_holds_one_stream_a_block_and_nothing_else(name):
    shallow, deep = (held_by_audit(BLOCKS[name], depth) for depth in (16, 40))
    assert 0 < deep - shallow <= (40 - 16) * STREAM


@pytest.mark.parametrize("name", BLOCKS)
def test_beyond_its_budget_it_holds_two_roots_of_the_depth(name):
    shallow, deep = (held_by_audit(BLOCKS[name], depth, budget_mib=0) for depth in (9, 36))
    assert deep - shallow <= 2 * (math.isqrt(36) - math.isqrt(9)) * STREAM


def held_by_init(net):
    with Held() as held:
        drawn(net)
    return held.most


@pytest.mark.parametrize("depth", [2, 50])
def test_a_repeat_is_drawn_in_place(depth):
    """What is held beside the stack is what one block's initialisation holds."""
    block = BLOCKS["residual"]
    size = sum(leaf.nbytes for leaf in tree.leaves(drawn(block)))
    one = held_by_init(block)
    assert held_by_init(Repeat(block, depth)) == depth * size + one
    assert held_by_init(Repeat(Repeat(block, depth), 3)) == 3 * depth * size + depth * size + one


def test_the_count_sees_what_is_held():
    with Held() as held:
        a = torch.zeros(256)
        b = a + 1.0
        view = b[:4]
        assert held.most == 2048
        del a, b
        torch.zeros(8)
        assert held.most == 2048
        assert sum(size for _, size in held._alive.values()) == 1024 + 32
        del view
        many = [torch.zeros(256) for _ in range(3)]
    assert held.most == 1024 * len(many)


@pytest.mark.parametrize("block", [*BLOCKS.values(), Residual(Repeat(Linear(3, 3), 2))], ids=[*BLOCKS, "nested"])
def test_a_repeat_draws_the_numbers_of_its_blocks_in_turn(block):
    generator = torch.Generator().manual_seed(0)
    expected = tree.stack([block.init(generator)[0] for _ in range(5)])
    found = drawn(Repeat(block, 5))
    assert tree.names(found) == tree.names(expected)
    for name, leaf in tree.flatten(expected).items():
        assert torch.equal(tree.flatten(found)[name], leaf)
