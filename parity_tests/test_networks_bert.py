"""BERT equals the one of transformers, with its checkpoints."""

from __future__ import annotations  # so that naming the types of transformers does not import it

from typing import Any

import pytest
import torch

from parity_tests.language_models import NONE, TOKENS, assert_equal, padding, tokens
from parity_tests.libraries import transformers
from parity_tests.network_parity import assert_round_trip, randomised
from pure import tree
from pure.errors import ShapeError, TreeError
from pure.interop.checkpoints import from_state_dict
from pure.nets.transformers.bert import bert_base

SIZES: dict[str, Any] = {"vocab_size": TOKENS, "positions": 9, "features": 32, "depth": 2, "heads": 4}
KEPT = {"dropout": 0.0, "attention_dropout": 0.0}
DROPS = {"dropout": 0.2, "attention_dropout": 0.3}


def config(dropout: float = 0.0, attention_dropout: float = 0.0, **options: Any) -> transformers.BertConfig:
    sizes = {"vocab_size": TOKENS, "max_position_embeddings": 9, "hidden_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "intermediate_size": 128}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": attention_dropout}
    return transformers.BertConfig(**{**sizes, **heads, **rates, **NONE, **options})


def library(pooler: bool = False, **options: Any) -> Any:
    torch.manual_seed(0)
    return randomised(transformers.BertModel(config(**options), add_pooling_layer=pooler))


def segments() -> torch.Tensor:
    return (torch.arange(7) > torch.arange(4)[:, None]).long()


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("rates", [KEPT, DROPS], ids=["kept", "dropped"])
def test_bert_equals_the_library(rates: dict[str, float], training: bool) -> None:
    block, module = bert_base(**SIZES, **rates), library(**rates)
    assert_equal(block, module, lambda output: output.last_hidden_state, training=training)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_padded_segmented_pooled_bert_equals_the_library(training: bool) -> None:
    extras = {"attention_mask": padding(), "token_type_ids": segments()}
    block, module = bert_base(**SIZES, **DROPS, pooler=True), library(pooler=True, **DROPS)
    assert_equal(block, module, lambda output: output.pooler_output, training=training, extras=extras)


def test_bert_of_other_sizes_equals_the_library() -> None:
    block = bert_base(
        vocab_size=TOKENS,
        positions=12,
        types=3,
        features=24,
        depth=3,
        heads=2,
        hidden=40,
        padding=None,
        activation="relu",
        eps=1e-3,
        **KEPT,
    )
    sizes = {"max_position_embeddings": 12, "type_vocab_size": 3, "hidden_size": 24, "num_hidden_layers": 3}
    more = {"num_attention_heads": 2, "intermediate_size": 40, "pad_token_id": None, "layer_norm_eps": 1e-3}
    module = library(**sizes, **more, hidden_act="relu")
    assert_equal(block, module, lambda output: output.last_hidden_state, training=True)
    assert_round_trip(block, module.state_dict(), "transformers")


@pytest.mark.parametrize("pooler", [False, True])
def test_checkpoint_comes_back(pooler: bool) -> None:
    assert_round_trip(bert_base(**SIZES, pooler=pooler), library(pooler).state_dict(), "transformers")


def test_the_encoder_of_a_larger_model_is_taken() -> None:
    module = transformers.BertForMaskedLM(config()).double()
    block = bert_base(**SIZES)
    with pytest.raises(TreeError, match="unexpected 'cls"):
        from_state_dict(block, module.state_dict())
    params, _ = from_state_dict(block, module.state_dict(), ignore="cls")
    encoder = module.bert.state_dict()
    assert torch.equal(params["embeddings"]["token_type"]["weight"], encoder["embeddings.token_type_embeddings.weight"])
    own, _ = from_state_dict(block, encoder)
    torch.testing.assert_close(tree.flatten(params), tree.flatten(own), rtol=0, atol=0)


def test_the_pooler_is_left_out_by_name() -> None:
    given = library(pooler=True).state_dict()
    params, _ = from_state_dict(bert_base(**SIZES), given, ignore="pooler")
    assert "pooler" not in params


def test_token_types_of_another_shape_are_refused() -> None:
    block = bert_base(**SIZES)
    params, _ = block.init(torch.Generator().manual_seed(0))
    with pytest.raises(ShapeError, match=r"token_type_ids \(4, 6\)"):
        block(params, tokens(), {}, {"token_type_ids": segments()[:, 1:]})
    with pytest.raises(ShapeError, match=r"attention_mask \(4, 6\)"):
        block(params, tokens(), {}, {"attention_mask": padding()[:, 1:]})


def test_the_padding_row_starts_at_zero() -> None:
    params, _ = bert_base(**SIZES).init(torch.Generator().manual_seed(0))
    word = params["embeddings"]["word"]["weight"]
    assert not word[0].any()
    assert float(word[1:].std()) == pytest.approx(0.02, rel=0.2)
