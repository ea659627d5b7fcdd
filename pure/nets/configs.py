"""Networks from the `config.json` that lies beside a checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from pure.block import Block
from pure.errors import ArgumentError, SaveError, nearest
from pure.layers.rotary import Rotary
from pure.nets.named import FAMILIES, named
from pure.nets.transformers.bert import bert_base
from pure.nets.transformers.gemma import gemma2
from pure.nets.transformers.gpt2 import gpt2
from pure.nets.transformers.llama import llama

__all__ = ["options_of_config"]

Made = tuple[Callable[..., Block], dict[str, Any]]
"""The function that makes a network, and its options."""

TIMM_OPTIONS: Final = {
    "num_classes": "num_classes",
    "in_chans": "in_channels",
    "img_size": "image_size",
    "patch_size": "patch_size",
    "embed_dim": "features",
    "depth": "depth",
    "num_heads": "heads",
    "reg_tokens": "registers",
    "init_values": "init_values",
    "drop_path_rate": "drop_path_rate",
    "qkv_bias": "qkv_bias",
}
"""timm's name of a model argument → ours."""
WITHOUT_EFFECT: Final = ("dynamic_img_size", "strict_img_size", "global_pool", "pretrained")
"""Arguments that change no tensor; `image_size` stands for another image size."""

BODIES: Final = {"GPT2Model", "LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model", "Gemma2Model"}
"""transformers' networks without the head that gives logits."""
FROM_MODULE: Final = (
    "Any nn.Module joins in: make it with its own library, then block, params, state = pure.interop.from_module(module)"
)


def read_config(config: str | os.PathLike[str] | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a config as a mapping; a folder stands for the `config.json` in it."""
    if isinstance(config, Mapping):
        return config
    if not isinstance(config, str | os.PathLike):
        raise ArgumentError(f"config is {type(config).__name__}, expected a mapping or the path of a config.json")
    path = Path(config)
    path = path / "config.json" if path.is_dir() else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SaveError(f"cannot read {str(path)!r} as a config.json: {error}") from error
    if not isinstance(found, Mapping):
        raise SaveError(f"cannot read {str(path)!r} as a config.json: it holds {type(found).__name__}, no mapping")
    return found


def options_of_config(
    config: str | os.PathLike[str] | Mapping[str, Any],
) -> Made:
    """Return the function that makes a config's network, and its options.

    Args:
        config: a mapping, or the path of a `config.json` or of its folder; timm's (with `architecture`) or
            transformers' (with `model_type`).

    Raises:
        ArgumentError: another kind of network, or an option that changes it in a way that is not known here.
        SaveError: a file that is not there or holds no JSON mapping.
    """
    found = read_config(config)
    if "architecture" in found:
        return _timm(found)
    kind = found.get("model_type")
    if kind not in READERS:
        given = f"model_type={kind!r}" if kind is not None else f"keys {', '.join(map(str, list(found)[:6]))}"
        raise ArgumentError(
            f"config: {given}{nearest(str(kind), READERS)}: expected model_type one of {', '.join(READERS)}, or timm's "
            f"architecture. {FROM_MODULE}"
        )
    return READERS[kind](found)


def _timm(config: Mapping[str, Any]) -> Made:
    name = str(config["architecture"])
    found = named(name)
    if found is None:
        raise ArgumentError(f"config: architecture={name!r} is none of {FAMILIES}. {FROM_MODULE}")
    function, options = found
    given = {**config.get("model_args", {})}
    if "num_classes" in config:
        given = {"num_classes": config["num_classes"], **given}
    unknown = [key for key in given if key not in TIMM_OPTIONS and key not in WITHOUT_EFFECT]
    if unknown:
        raise ArgumentError(
            f"config: model_args {', '.join(unknown)} of {name!r} unknown, expected {', '.join(TIMM_OPTIONS)}: give "
            f"them as options of nets.create({name!r}, …), or {FROM_MODULE}"
        )
    ours = {TIMM_OPTIONS[key]: value for key, value in given.items() if key in TIMM_OPTIONS}
    return function, {**options, **ours}


def _only(config: Mapping[str, Any], **expected: Any) -> None:
    """Raise unless each of these entries, where it is there, has the value that is known here."""
    wrong = {key: config[key] for key, value in expected.items() if config.get(key, value) not in (value, None)}
    if wrong:
        given = ", ".join(f"{key}={value!r}" for key, value in wrong.items())
        raise ArgumentError(f"config of {config.get('model_type')!r}: {given} is not known here. {FROM_MODULE}")


def _activation(name: str) -> str:
    """Return our name of transformers' activation."""
    return {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "swish": "silu"}.get(name, name)


def _gpt2(config: Mapping[str, Any]) -> Made:
    _only(config, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    return gpt2, {
        "vocab_size": config["vocab_size"],
        "positions": config.get("n_positions", 1024),
        "features": config["n_embd"],
        "depth": config["n_layer"],
        "heads": config["n_head"],
        "hidden": config.get("n_inner"),
        "dropout": config.get("resid_pdrop", 0.1),
        "attention_dropout": config.get("attn_pdrop", 0.1),
        "embedding_dropout": config.get("embd_pdrop", 0.1),
        "activation": _activation(config.get("activation_function", "gelu_new")),
        "eps": config.get("layer_norm_epsilon", 1e-5),
        "head": not set(config.get("architectures") or ()) & BODIES,
    }


def _bert(config: Mapping[str, Any]) -> Made:
    _only(config, position_embedding_type="absolute", is_decoder=False)
    roberta = config["model_type"] == "roberta"
    return bert_base, {
        "vocab_size": config["vocab_size"],
        "positions": config["max_position_embeddings"],
        "types": config.get("type_vocab_size", 2),
        "features": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "hidden": config["intermediate_size"],
        "padding": config.get("pad_token_id", 0),
        "dropout": config.get("hidden_dropout_prob", 0.1),
        "attention_dropout": config.get("attention_probs_dropout_prob", 0.1),
        "activation": _activation(config.get("hidden_act", "gelu")),
        "eps": config.get("layer_norm_eps", 1e-12),
        "count_tokens": roberta,
    }


def _rotary(config: Mapping[str, Any]) -> Rotary:
    """Return rotary positions from the new entry `rope_parameters` or the two older ones."""
    rope = config.get("rope_parameters") or {**(config.get("rope_scaling") or {})}
    base = float(rope.get("rope_theta", config.get("rope_theta", 10000.0)))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return Rotary(base=base)
    if kind == "linear":
        return Rotary(base=base, stretch=float(rope["factor"]))
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        factor, low, high, original = (float(rope[name]) for name in names)
        return Rotary(base=base, llama3=(factor, low, high, original))
    raise ArgumentError(f"config: rope_type={kind!r}: expected default, linear or llama3. {FROM_MODULE}")


def _decoder(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what all decoders with rotary positions share."""
    return {
        "vocab_size": config["vocab_size"],
        "features": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "kv_heads": config.get("num_key_value_heads"),
        "head_features": config.get("head_dim"),
        "hidden": config["intermediate_size"],
        "eps": config.get("rms_norm_eps", 1e-6),
        "head": not set(config.get("architectures") or ()) & BODIES,
    }


def _llama(config: Mapping[str, Any]) -> Made:
    _only(config, mlp_bias=False, hidden_act="silu", use_sliding_window=False)
    kind = config["model_type"]
    options = {
        **_decoder(config),
        "rotary": _rotary(config),
        "tied": bool(config.get("tie_word_embeddings", False)),
        "attention_dropout": config.get("attention_dropout", 0.0),
        "attention_bias": kind == "qwen2" or bool(config.get("attention_bias", False)),
        "out_bias": False if kind == "qwen2" else None,
        "qk_norm": kind == "qwen3",
        "window": config.get("sliding_window") if kind == "mistral" else None,
    }
    return llama, options


def _gemma2(config: Mapping[str, Any]) -> Made:
    _only(config, attention_bias=False, hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True)
    rotary = _rotary(config)
    if rotary != Rotary(base=rotary.base):
        raise ArgumentError(f"config of 'gemma2': scaled rotary positions are not known here. {FROM_MODULE}")
    return gemma2, {
        **_decoder(config),
        "base": rotary.base,
        "query_scale": float(config.get("query_pre_attn_scalar", 256)),
        "softcap": config.get("attn_logit_softcapping"),
        "logit_softcap": config.get("final_logit_softcapping"),
        "window": config.get("sliding_window"),
    }


READERS: Final[dict[str, Callable[[Mapping[str, Any]], Made]]] = {
    "gpt2": _gpt2,
    "bert": _bert,
    "roberta": _bert,
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "gemma2": _gemma2,
}
"""transformers' `model_type` → what reads the rest of the config."""
