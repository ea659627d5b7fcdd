"""GPT-2 equals the one of transformers, with its checkpoints."""

from __future__ import annotations  # so that naming the types of transformers does not import it

from typing import Any

import pytest
import torch

from parity_tests.language_models import NONE, TOKENS, assert_equal, padding, tokens
from parity_tests.libraries import transformers
from parity_tests.network_parity import assert_round_trip, randomised
from pure import tree
from pure.errors import ShapeError, TreeError
from pure.interop.checkpoints import from_state_dict, to_state_dict
from pure.nets.transformers.gpt2 import gpt2

SIZES: dict[str, Any] = {"vocab_size": TOKENS, "positions": 9, "features": 32, "depth": 2, "heads": 4}
RATES = {"dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0}
DROPS = {"dropout": 0.2, "attention_dropout": 0.3, "embedding_dropout": 0.1}


def config(
    dropout: float, attention_dropout: float, embedding_dropout: float, **options: Any
) -> transformers.GPT2Config:
    sizes = {"vocab_size": TOKENS, "n_positions": 9, "n_embd": 32, "n_layer": 2, "n_head": 4}
    rates = {"resid_pdrop": dropout, "attn_pdrop": attention_dropout, "embd_pdrop": embedding_dropout}
    return transformers.GPT2Config(**{**sizes, **rates, **NONE, **options})


def library(kind: str = "GPT2LMHeadModel", **options: Any) -> Any:
    torch.manual_seed(0)
    return randomised(getattr(transformers, kind)(config(**{**RATES, **options})))


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("rates", [RATES, DROPS], ids=["kept", "dropped"])
def test_gpt2_equals_the_library(rates: dict[str, float], training: bool) -> None:
    assert_equal(gpt2(**SIZES, **rates), library(**rates), lambda output: output.logits, training=training)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_padded_gpt2_equals_the_library(left: bool) -> None:
    extras = {"attention_mask": padding(left=left)}
    assert_equal(gpt2(**SIZES, **RATES), library(), lambda output: output.logits, training=False, extras=extras)


def test_gpt2_of_other_sizes_equals_the_library() -> None:
    block = gpt2(
        vocab_size=TOKENS, positions=12, features=24, depth=3, heads=2, hidden=40, activation="relu", eps=1e-3, **RATES
    )
    options = {"n_positions": 12, "n_embd": 24, "n_layer": 3, "n_head": 2, "n_inner": 40, "layer_norm_epsilon": 1e-3}
    module = library(**options, activation_function="relu")
    assert_equal(block, module, lambda output: output.logits, training=False)
    assert_round_trip(block, module.state_dict(), "transformers")


def test_gpt2_without_head_equals_the_library() -> None:
    block, module = gpt2(**SIZES, **RATES, head=False), library("GPT2Model")
    assert_equal(block, module, lambda output: output.last_hidden_state, training=True)
    assert_round_trip(block, module.state_dict(), "transformers")


def test_checkpoint_comes_back_with_both_names_of_the_tied_weight() -> None:
    given = library().state_dict()
    assert_round_trip(gpt2(**SIZES), given, "transformers")
    written = to_state_dict(gpt2(**SIZES), *from_state_dict(gpt2(**SIZES), given))
    assert torch.equal(written["lm_head.weight"], written["transformer.wte.weight"])
    assert all(leaf.is_contiguous() for leaf in written.values())


def test_a_tied_weight_with_two_values_is_refused() -> None:
    given = {**library().state_dict()}
    given["lm_head.weight"] = given["lm_head.weight"] + 1
    with pytest.raises(TreeError, match=r"'lm_head\.weight' differs"):
        from_state_dict(gpt2(**SIZES), given)


def test_the_checkpoint_of_the_body_is_a_part_of_the_one_with_head() -> None:
    module = library()
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 9, 9) for i in range(2)}  # older checkpoints hold them
    alone, _ = from_state_dict(gpt2(**SIZES, head=False), {**module.transformer.state_dict(), **masks})
    params, _ = from_state_dict(gpt2(**SIZES), module.state_dict())
    torch.testing.assert_close(params, {"body": alone}, rtol=0, atol=0)


def test_initial_values_are_those_of_the_paper() -> None:
    params, _ = gpt2(vocab_size=500, positions=300, features=128, depth=8, heads=4).init(
        torch.Generator().manual_seed(0)
    )
    flat = tree.flatten(params)
    assert float(flat["body.embedding.weight"].std()) == pytest.approx(0.02, rel=0.02)
    assert float(flat["body.positions.weight"].std()) == pytest.approx(0.02, rel=0.02)
    block = {name.removeprefix("body.blocks.3."): leaf for name, leaf in flat.items() if ".blocks.3." in name}
    for name in ("attention.branch.f.qkv", "mlp.branch.f.fc1"):
        assert float(block[f"{name}.weight"].std()) == pytest.approx(0.02, rel=0.02)
        assert not block[f"{name}.bias"].any()
    for name in ("attention.branch.f.out", "mlp.branch.f.fc2"):
        assert float(block[f"{name}.weight"].std()) == pytest.approx(0.02 / 4, rel=0.02)


def test_more_tokens_than_positions_are_refused() -> None:
    block = gpt2(**SIZES)
    params, _ = block.init(torch.Generator().manual_seed(0))
    with pytest.raises(ShapeError, match="at most 9 tokens"):
        block(params, tokens(2, 10))
