"""A language model of `pure.nets` against one of transformers with the same checkpoint, in float64."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from parity_tests.libraries import transformer_oracles
from parity_tests.network_parity import TOLERANCE
from parity_tests.oracles.oracle import relative
from pure import tree
from pure.block import Block
from pure.interop.checkpoints import from_state_dict, to_state_dict

NONE: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "attn_implementation": "eager"}
"""What every configuration of the tests has: no special tokens, and attention by plain products."""
TOKENS = 11
"""Size of the vocabulary."""


def tokens(batch: int = 4, length: int = 7) -> Tensor:
    return torch.randint(TOKENS, (batch, length), generator=torch.Generator().manual_seed(3))


def padding(batch: int = 4, length: int = 7, *, left: bool = False) -> Tensor:
    """1 where a token counts; the samples are of different lengths."""
    mask = (torch.arange(length) < torch.arange(length, length - batch, -1)[:, None]).long()
    return mask.flip(1) if left else mask


def assert_equal(
    block: Block,
    module: nn.Module,
    read: Callable[[Any], Tensor],
    *,
    training: bool,
    extras: Mapping[str, Any] | None = None,
) -> None:
    """Fail with every difference of output or parameter gradients above the tolerance, under the library's names."""
    x, extras = tokens(), extras or {}
    params, state = from_state_dict(block, {name: leaf.clone() for name, leaf in module.state_dict().items()})
    leaves, spec = tree.tree_flatten(params)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    noise = block.noise(tuple(x.shape), torch.Generator().manual_seed(1), dtype=torch.float64) if training else None
    y, _ = block.apply(tree.tree_unflatten(leaves, spec), x, state, extras, training, noise)
    module.train(training).zero_grad()
    expected = transformer_oracles.network(read)(module, x, extras, noise)
    assert expected.dtype == y.dtype == torch.float64
    found = {"output": relative({"y": y.detach()}, {"y": expected.detach()})["y"]}
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)
    if "attention_mask" in extras and y.ndim == 3:
        weights = (
            weights * extras["attention_mask"][..., None]
        )  # the library lets gradients through where all is masked
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    ours = to_state_dict(block, tree.tree_unflatten([leaf.grad for leaf in leaves], spec))
    theirs = {name: leaf.grad for name, leaf in module.named_parameters() if leaf.grad is not None}
    found |= relative({name: leaf for name, leaf in ours.items() if name in theirs}, theirs)
    wrong = {name: value for name, value in found.items() if not value <= TOLERANCE}
    assert not wrong, wrong
