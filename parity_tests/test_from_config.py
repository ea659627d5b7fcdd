"""Networks from a config.json: transformers' decoders and encoders, timm's names, sharded files, what is refused."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from parity_tests.libraries import timm, transformers
from parity_tests.network_parity import randomised
from pure import interop, nets, tree
from pure.errors import ArgumentError, SaveError

TOLERANCE = 1e-10
SMALL: dict[str, Any] = {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4}
DECODER: dict[str, Any] = {**SMALL, "num_key_value_heads": 2, "intermediate_size": 24, "tie_word_embeddings": False}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"vocab_size": 31, "n_embd": 16, "n_layer": 3, "n_head": 4}),
    "gpt2_body": ("GPT2Config", "GPT2Model", {"vocab_size": 31, "n_embd": 16, "n_layer": 2, "n_head": 4}),
    "bert": ("BertConfig", "BertModel", {**SMALL, "intermediate_size": 24}),
    "roberta": ("RobertaConfig", "RobertaModel", {**SMALL, "intermediate_size": 24, "layer_norm_eps": 1e-5}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", DECODER),
    "llama_tied": ("LlamaConfig", "LlamaForCausalLM", {**DECODER, "tie_word_embeddings": True}),
    "llama_long": ("LlamaConfig", "LlamaForCausalLM", {**DECODER, "rope_parameters": LLAMA3}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**DECODER, "sliding_window": 4}),
    "mistral_whole": ("MistralConfig", "MistralForCausalLM", {**DECODER, "sliding_window": None, "head_dim": 8}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", DECODER),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**DECODER, "head_dim": 8}),
    "gemma2": (
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {**DECODER, "tie_word_embeddings": True, "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 6},
    ),
}


@contextmanager
def in_double() -> Iterator[None]:
    """Let the library compute in float64 what it widens to float32: norms, angles and softmax."""
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(torch, "float32", torch.float64)
        patched.setattr(torch, "float", torch.float64)
        patched.setattr(torch.Tensor, "float", torch.Tensor.double)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


@pytest.mark.parametrize("name", CASES)
def test_a_saved_model_of_transformers_loads_from_its_folder_and_computes_the_same(name: str, tmp_path: Path) -> None:
    config, model, options = CASES[name]
    torch.manual_seed(0)
    with in_double():
        module = getattr(transformers, model)(getattr(transformers, config)(**options, attn_implementation="eager"))
        module = randomised(module).eval()
    if name in ("bert", "roberta"):
        module.pooler = None
    module.save_pretrained(tmp_path, max_shard_size="20KB")
    index = tmp_path / "model.safetensors.index.json"
    file = index if index.exists() else tmp_path / "model.safetensors"
    block = nets.from_config(tmp_path)
    params, state = interop.from_state_dict(block, file)
    ids = torch.randint(3, 31, (2, 9), generator=torch.Generator().manual_seed(1))
    ids[1, 7:] = 1  # RoBERTa's padding
    with torch.no_grad(), in_double():
        out = module(ids)
        expected = out.logits if "logits" in out else out.last_hidden_state
    with torch.no_grad():
        y = block(params, ids, state)
    assert float((y - expected).norm() / expected.norm()) < TOLERANCE
    given, written = interop.read(file), interop.to_state_dict(block, params, state, "transformers")
    bare = {key.removeprefix("transformer."): leaf for key, leaf in written.items()}
    for key, leaf in given.items():
        assert torch.equal(bare[key.removeprefix("transformer.")], leaf), key


def test_a_sharded_file_has_more_than_one_shard(tmp_path: Path) -> None:
    config, model, options = CASES["llama"]
    module = getattr(transformers, model)(getattr(transformers, config)(**options))
    module.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    params, _ = interop.from_state_dict(nets.from_config(tmp_path), tmp_path / "model.safetensors.index.json")
    assert torch.equal(tree.flatten(params)["head.weight"], module.lm_head.weight)


def test_older_entries_of_rotary_positions_are_read() -> None:
    options = {**DECODER, "model_type": "llama", "rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    attention = (
        nets.from_config(options).children()["body"].children()["blocks"].children()["0"].children()["attention"]
    )
    assert "stretch=2.0" in repr(attention)
    assert "base=500.0" in repr(attention)


@pytest.mark.parametrize("name", ["resnet34d", "seresnet101", "vit_small_patch14_reg4_dinov2", "mobilenetv2_120d"])
def test_names_of_timm_outside_the_list_of_networks_load(name: str) -> None:
    given = timm.create_model(name, device="meta").state_dict()
    assert name not in nets.names()
    block = nets.create(name)
    again = interop.to_state_dict(block, *interop.from_state_dict(block, given, "timm"), source="timm")
    assert {key: leaf.shape for key, leaf in again.items()} == {key: leaf.shape for key, leaf in given.items()}


def test_a_config_of_timm_gives_its_classes_and_arguments(tmp_path: Path) -> None:
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 9,
        "model_args": {"img_size": 32, "dynamic_img_size": True},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert nets.from_config(tmp_path).out_shape((2, 3, 32, 32)) == (2, 9)
    assert nets.from_config(tmp_path / "config.json", num_classes=4).out_shape((2, 3, 32, 32)) == (2, 4)


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "another network": ({"model_type": "t5"}, ArgumentError, r"model_type='t5'.*gpt2, bert.*from_module\(module\)"),
    "no kind": ({"hidden_size": 3}, ArgumentError, "keys hidden_size"),
    "another timm network": ({"architecture": "swin_tiny"}, ArgumentError, r"swin_tiny.*from_module\(module\)"),
    "an argument": (
        {"architecture": "resnet50", "model_args": {"output_stride": 8}},
        ArgumentError,
        "output_stride.*from_module",
    ),
    "another position": (
        {**DECODER, "model_type": "llama", "rope_parameters": {"rope_type": "yarn"}},
        ArgumentError,
        "rope_type='yarn'.*from_module",
    ),
    "a number": (3, ArgumentError, "config is int"),
    "no file": ("/nowhere/config.json", SaveError, "cannot read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_a_typed_error_that_says_what_to_do(case: str) -> None:
    config, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        nets.from_config(config)


def test_an_unknown_name_says_which_families_are_read_and_how_a_module_joins_in() -> None:
    with pytest.raises(ArgumentError, match=r"seresnet\*.*pure\.interop\.from_module\(module\)"):
        nets.create("efficientnet_b0")
