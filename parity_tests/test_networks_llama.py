"""Llama equals the one of transformers, with its checkpoints."""

from typing import Any

import pytest
import torch

from parity_tests.language_models import NONE, TOKENS, assert_equal, padding
from parity_tests.libraries import transformers
from parity_tests.network_parity import assert_round_trip, randomised
from pure.interop.checkpoints import from_state_dict, to_state_dict
from pure.nets.transformers.llama import llama

SIZES: dict[str, Any] = {"vocab_size": TOKENS, "features": 32, "depth": 2, "heads": 4, "hidden": 48}


def library(kind: str = "LlamaForCausalLM", **options: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": TOKENS, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    return randomised(getattr(transformers, kind)(transformers.LlamaConfig(**{**sizes, **heads, **NONE, **options})))


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_llama_equals_the_library(rate: float, tied: bool, training: bool) -> None:
    block = llama(**SIZES, tied=tied, attention_dropout=rate)
    module = library(tie_word_embeddings=tied, attention_dropout=rate)
    assert_equal(block, module, lambda output: output.logits, training=training)
    assert_round_trip(block, module.state_dict(), "transformers")


def test_shared_heads_of_their_own_size_with_bias_equal_the_library() -> None:
    sizes = {"vocab_size": TOKENS, "features": 24, "depth": 3, "heads": 6, "kv_heads": 2, "hidden": 40}
    block = llama(**sizes, head_features=8, base=500.0, attention_bias=True, eps=1e-3)
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2}
    more = {"intermediate_size": 40, "head_dim": 8, "attention_bias": True, "rms_norm_eps": 1e-3}
    module = library(**sizes, **more, rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    assert_equal(block, module, lambda output: output.logits, training=True)
    assert_round_trip(block, module.state_dict(), "transformers")


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_padded_llama_equals_the_library(left: bool) -> None:
    block = llama(**SIZES, kv_heads=2)
    module = library(num_key_value_heads=2)
    extras = {"attention_mask": padding(left=left)}
    assert_equal(block, module, lambda output: output.logits, training=False, extras=extras)


def test_llama_without_head_equals_the_library() -> None:
    block, module = llama(**SIZES, head=False), library("LlamaModel")
    assert_equal(block, module, lambda output: output.last_hidden_state, training=True)
    assert_round_trip(block, module.state_dict(), "transformers")


def test_a_checkpoint_that_lacks_the_copy_of_the_tied_weight_is_taken() -> None:
    block = llama(**SIZES, tied=True)
    given = library(tie_word_embeddings=True).state_dict()
    short = {name: leaf for name, leaf in given.items() if name != "lm_head.weight"}
    assert to_state_dict(block, *from_state_dict(block, short)).keys() == given.keys()
