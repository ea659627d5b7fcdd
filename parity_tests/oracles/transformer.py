"""Attention and the blocks of transformers against the classes of the libraries, in float64 throughout."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.models.bert import modeling_bert
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gpt2 import modeling_gpt2
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.gptj import modeling_gptj
from transformers.models.granite import modeling_granite
from transformers.models.llama import modeling_llama
from transformers.models.olmo2 import modeling_olmo2
from transformers.models.qwen3_next import modeling_qwen3_next

from parity_tests.lifted import Lifted
from parity_tests.oracles.oracle import Flat, Oracle
from pure import tree

EAGER = {"attn_implementation": "eager"}
LLAMA: dict[str, Any] = {
    "hidden_size": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "vocab_size": 11,
    **EAGER,
}


def config(kind: str, **options: Any) -> Any:
    return getattr(transformers, f"{kind}Config")(**{"bos_token_id": None, "eos_token_id": None, **options})


GPT2 = config("GPT2", n_embd=8, n_head=2, n_layer=2, n_positions=9, vocab_size=11, **EAGER)
DROPS = {"attn_pdrop": 0.25, "resid_pdrop": 0.25}
GPT2_BLOCK = config("GPT2", n_embd=8, n_head=2, n_layer=2, **DROPS, **EAGER)
BERT: dict[str, Any] = {
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "vocab_size": 11,
    "max_position_embeddings": 9,
    **EAGER,
}
BERT_LAYER = config("Bert", **BERT, hidden_dropout_prob=0.25, attention_probs_dropout_prob=0.25)
QWEN = config(
    "Qwen3Next",
    **LLAMA,
    head_dim=4,
    rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5},
)
GEMMA = config("Gemma2", **LLAMA, head_dim=2, query_pre_attn_scalar=16, attn_logit_softcapping=2.0)
GRANITE = config("Granite", **LLAMA, residual_multiplier=0.22, attention_multiplier=0.3)
GPTJ = config("GPTJ", n_embd=8, n_head=2, n_inner=16, rotary_dim=2, attn_pdrop=0.25, resid_pdrop=0.0, **EAGER)
NEOX = config(
    "GPTNeoX",
    hidden_size=8,
    num_attention_heads=2,
    intermediate_size=16,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    **EAGER,
)


def masks(noise: Any) -> list[Tensor]:
    """The masks in the order of the tree, which is the order of the library's calls."""
    return tree.leaves(noise) if noise else []


def causal(x: Tensor) -> Tensor:
    """0 where a token may be attended to, the lowest number elsewhere, as the libraries add it."""
    tokens = x.shape[1]
    return torch.full((tokens, tokens), torch.finfo(x.dtype).min, dtype=x.dtype).triu(1)[None, None]


def padded(mask: Tensor, x: Tensor) -> Tensor:
    return torch.zeros_like(mask).masked_fill(mask <= 0, torch.finfo(x.dtype).min)[:, None, None, :]


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def decoder(rotary: type[nn.Module] | None = None) -> Callable[..., Tensor]:
    """A causal layer of the library; `rotary` makes the tables of its positions."""

    def call(module: Any, x: Any, extras: Any, noise: Any) -> Tensor:
        with Lifted(masks(noise)):
            given = {"attention_mask": causal(x)}
            if rotary is not None:
                settings = next(part.config for part in module.modules() if hasattr(part, "config"))
                given["position_embeddings"] = rotary(settings)(x, torch.arange(x.shape[1])[None])
            return first(module(x, **given))

    return call


def gptj(module: Any, x: Any, extras: Any, noise: Any) -> Tensor:
    with Lifted(masks(noise)):
        module.attn.embed_positions = modeling_gptj.create_sinusoidal_positions(9, 2)
        return first(module(x, attention_mask=causal(x), position_ids=torch.arange(x.shape[1])[None]))


def bert_layer(module: Any, x: Any, extras: Any, noise: Any) -> Tensor:
    with Lifted(masks(noise)):
        return first(module(x, padded(extras["attention_mask"], x)))


def plain(module: Any, x: Any, extras: Any, noise: Any) -> Tensor:
    with Lifted(masks(noise)):
        return module(x)


def network(read: Callable[[Any], Tensor]) -> Callable[..., Tensor]:
    """A whole model of the library, with its rotary frequencies made anew in float64; it names extras as ours do."""

    def call(module: Any, x: Any, extras: Any, noise: Any) -> Tensor:
        with Lifted(masks(noise)):
            for part in list(module.modules()):
                if hasattr(part, "rotary_emb"):
                    part.rotary_emb = type(part.rotary_emb)(part.config)
            return read(module(x, use_cache=False, **extras))

    return call


def zero_centred(module: nn.Module) -> nn.Module:
    """The library's norms scale by 1 + weight, ours by the weight: hand them ours minus 1."""

    class Less(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight - 1

    for part in list(module.modules()):
        if type(part).__name__.endswith("RMSNorm"):
            parametrize.register_parametrization(part, "weight", Less(), unsafe=True)
    return module


def renamed(names: dict[str, str], *changes: Callable[[Flat], Flat]) -> Callable[[Flat], Flat]:
    def translate(flat: Flat) -> Flat:
        flat = Oracle(nn.Identity, names).translate(flat)
        for change in changes:
            flat = change(flat)
        return flat

    return translate


def conv1d(flat: Flat) -> Flat:
    """Weights of GPT-2's affine maps are stored transposed."""
    return {name: leaf.t() if leaf.ndim == 2 and ".c_" in f".{name}" else leaf for name, leaf in flat.items()}


def by_head(parts: int, heads: int, *prefixes: str) -> Callable[[Flat], Flat]:
    """Rows of all heads' queries, then keys, … in the order head 1's query, key, …, head 2's query, …."""

    def change(flat: Flat) -> Flat:
        return {
            name: leaf.unflatten(0, (parts, heads, -1)).transpose(0, 1).flatten(0, 2)
            if name.startswith(prefixes)
            else leaf
            for name, leaf in flat.items()
        }

    return change


def query_and_gate(flat: Flat) -> Flat:
    """One matrix for queries and gates."""
    flat = dict(flat)
    if not flat:
        return flat
    together = torch.cat([flat.pop("q.weight"), flat.pop("gate.weight")])
    return by_head(2, 4, "q_proj")({**flat, "q_proj.weight": together})


def centred(flat: Flat) -> Flat:
    return {name.replace("norm.weight", "norm.parametrizations.weight.original"): leaf for name, leaf in flat.items()}


PROJECTIONS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj"}


def placed(attention: str, mlp: str, *outer: str) -> dict[str, str]:
    """Names of a block, from the library's names of its norms."""
    names = {f"attention.branch.f.{ours}": f"self_attn.{theirs}" for ours, theirs in PROJECTIONS.items()}
    names |= {f"attention.branch.f.{norm}": f"self_attn.{norm}" for norm in ("q_norm", "k_norm")}
    names |= {f"mlp.branch.f.{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
    names |= {"attention.branch.norm": attention, "mlp.branch.norm": mlp}
    return names | dict(zip(("attention.branch.out_norm", "mlp.branch.out_norm"), outer, strict=False))


BLOCK = placed("input_layernorm", "post_attention_layernorm")
GPT2_NAMES = {
    "attention.branch.norm": "ln_1",
    "mlp.branch.norm": "ln_2",
    "attention.branch.f.qkv": "attn.c_attn",
    "attention.branch.f.out": "attn.c_proj",
    "mlp.branch.f.fc1": "mlp.c_fc",
    "mlp.branch.f.fc2": "mlp.c_proj",
}
BERT_NAMES = {
    "attention.add.branch.f.q": "attention.self.query",
    "attention.add.branch.f.k": "attention.self.key",
    "attention.add.branch.f.v": "attention.self.value",
    "attention.add.branch.f.out": "attention.output.dense",
    "attention.norm": "attention.output.LayerNorm",
    "mlp.add.branch.f.fc1": "intermediate.dense",
    "mlp.add.branch.f.fc2": "output.dense",
    "mlp.norm": "output.LayerNorm",
}
BERT_TABLES = {
    "word": "word_embeddings",
    "position": "position_embeddings",
    "token_type": "token_type_embeddings",
    "norm": "LayerNorm",
}


def layers(names: dict[str, str], ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}{i}.{a}": f"{theirs}{i}.{b}" for i in range(2) for a, b in names.items()}


class Positions(nn.Module):
    """x + W[:tokens]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(9, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight[None, : x.shape[1]]


class First(nn.Module):
    """x[:, 0]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.select(1, 0)


class Pooled(nn.Module):
    """One learnt query over the tokens behind the first, by PyTorch's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.latent = nn.Parameter(torch.zeros(1, 1, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.attention(self.latent.expand(len(x), 1, 8), x[:, 1:], x[:, 1:])[0]
        return pooled[:, 0]


def packed_pool(flat: Flat) -> Flat:
    """Return the pool's leaves, if there are any, under the names of `Pooled`."""
    found = {"latent": flat["latent.weight"]} if flat else {}
    for end in ("weight", "bias") if flat else ():
        found[f"attention.in_proj_{end}"] = torch.cat([flat[f"q.{end}"], flat[f"kv.{end}"]])
        found[f"attention.out_proj.{end}"] = flat[f"out.{end}"]
    return found


class Masked(nn.Module):
    """Attention with a mask of the tokens, one head after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.out = nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor, mask: Tensor, kept: Tensor | None) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        found = []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            scores = torch.einsum("bqd,bkd->bqk", q[..., part], k[..., part]) / 2
            some = (mask > 0).any(-1)[:, None, None]
            weights = torch.where(some, scores.exp() * (mask > 0)[:, None, :], torch.ones_like(scores))
            weights = weights / weights.sum(-1, keepdim=True)
            if kept is not None:
                weights = weights * kept[:, head] / 0.75
            found.append(torch.einsum("bqk,bkd->bqd", weights, v[..., part]))
        return self.out(torch.cat(found, -1))


def masked(module: nn.Module, x: Any, extras: Any, noise: Any) -> Tensor:
    return module(x, extras["mask"], None if noise is None else noise["dropout"]["mask"])


def resformer() -> nn.Module:
    """Imported late: the library compiles functions as it is imported, by a deprecated part of PyTorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import x_transformers
    return x_transformers.Decoder(
        dim=8,
        depth=3,
        heads=2,
        attn_dim_head=4,
        custom_layers=("a", "a", "a"),
        add_value_residual=True,
        learned_value_residual_mix=False,
        norm_add_unit_offset=False,
    )


ORACLES = {
    "embedding": Oracle(lambda: nn.Embedding(7, 4, padding_idx=2)),
    "learned_positions": Oracle(Positions),
    "bert_embeddings": Oracle(lambda: modeling_bert.BertEmbeddings(BERT_LAYER), BERT_TABLES, plain),
    "first_token": Oracle(First),
    "attention": Oracle(
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        {"qkv.weight": "in_proj_weight", "qkv.bias": "in_proj_bias", "out": "out_proj"},
        lambda module, x, extras, noise: module(x, x, x, need_weights=True)[0],
    ),
    "attention_pool": Oracle(
        Pooled,
        packed_pool,
    ),
    "attention_mask": Oracle(Masked, call=masked),
    "attention_causal": Oracle(
        lambda: modeling_gpt2.GPT2Attention(
            config("GPT2", n_embd=8, n_head=2, attn_pdrop=0.25, resid_pdrop=0.0, **EAGER), layer_idx=0
        ),
        renamed({"qkv": "c_attn", "out": "c_proj"}, conv1d),
        decoder(),
    ),
    "attention_grouped": Oracle(
        lambda: modeling_llama.LlamaAttention(config("Llama", **LLAMA, attention_dropout=0.25), 0),
        PROJECTIONS,
        decoder(modeling_llama.LlamaRotaryEmbedding),
    ),
    "attention_gated": Oracle(
        lambda: zero_centred(modeling_qwen3_next.Qwen3NextAttention(QWEN, 0)),
        renamed({"k": "k_proj", "v": "v_proj", "out": "o_proj"}, query_and_gate, centred),
        decoder(modeling_qwen3_next.Qwen3NextRotaryEmbedding),
    ),
    "value_residual": Oracle(
        resformer,
        {
            **{f"layers.{i}.norm.weight": f"layers.{i}.0.0.gamma" for i in range(3)},
            **{f"layers.{i}.attention.{n}": f"layers.{i}.1.to_{n}" for i in range(3) for n in ("q", "k", "v", "out")},
            "norm.weight": "final_norm.gamma",
        },
        plain,
    ),
    "gpt2_block": Oracle(lambda: modeling_gpt2.GPT2Block(GPT2_BLOCK, 0), renamed(GPT2_NAMES, conv1d), decoder()),
    "bert_layer": Oracle(lambda: modeling_bert.BertLayer(BERT_LAYER), BERT_NAMES, bert_layer),
    "llama_block": Oracle(
        lambda: modeling_llama.LlamaDecoderLayer(config("Llama", **LLAMA), 0),
        BLOCK,
        decoder(modeling_llama.LlamaRotaryEmbedding),
    ),
    "gptj_block": Oracle(
        lambda: modeling_gptj.GPTJBlock(GPTJ, 0),
        {
            "branch.norm": "ln_1",
            **{f"branch.f.attention.{n}": f"attn.{n}_proj" for n in ("q", "k", "v", "out")},
            "branch.f.mlp.fc1": "mlp.fc_in",
            "branch.f.mlp.fc2": "mlp.fc_out",
        },
        gptj,
    ),
    "gpt_neox_block": Oracle(
        lambda: modeling_gpt_neox.GPTNeoXLayer(NEOX, 0),
        renamed(
            {
                "branch.f.attention.norm": "input_layernorm",
                "branch.f.attention.f.qkv": "attention.query_key_value",
                "branch.f.attention.f.out": "attention.dense",
                "branch.f.mlp.norm": "post_attention_layernorm",
                "branch.f.mlp.f.fc1": "mlp.dense_h_to_4h",
                "branch.f.mlp.f.fc2": "mlp.dense_4h_to_h",
            },
            by_head(3, 2, "attention.query_key_value"),
        ),
        decoder(modeling_gpt_neox.GPTNeoXRotaryEmbedding),
    ),
    "gemma2_block": Oracle(
        lambda: zero_centred(modeling_gemma2.Gemma2DecoderLayer(GEMMA, 0)),
        renamed(
            placed(
                "input_layernorm", "pre_feedforward_layernorm", "post_attention_layernorm", "post_feedforward_layernorm"
            ),
            centred,
        ),
        decoder(modeling_gemma2.Gemma2RotaryEmbedding),
    ),
    "olmo2_block": Oracle(
        lambda: modeling_olmo2.Olmo2DecoderLayer(config("Olmo2", **LLAMA, rms_norm_eps=1e-6), 0),
        placed("post_attention_layernorm", "post_feedforward_layernorm"),
        decoder(modeling_olmo2.Olmo2RotaryEmbedding),
    ),
    "granite_block": Oracle(
        lambda: modeling_granite.GraniteDecoderLayer(GRANITE, 0),
        BLOCK,
        decoder(modeling_granite.GraniteRotaryEmbedding),
    ),
    "gpt2_tiny": Oracle(
        lambda: transformers.GPT2LMHeadModel(GPT2),
        renamed(
            {
                "body.embedding": "transformer.wte",
                "body.positions": "transformer.wpe",
                "body.norm": "transformer.ln_f",
                **layers(GPT2_NAMES, "body.blocks.", "transformer.h."),
            },
            conv1d,
        ),
        network(lambda output: output.logits),
        unused=("lm_head",),
    ),
    "bert_tiny": Oracle(
        lambda: transformers.BertModel(config("Bert", **BERT)),
        {
            **{f"embeddings.{a}": f"embeddings.{b}" for a, b in BERT_TABLES.items()},
            **layers(BERT_NAMES, "layers.", "encoder.layer."),
        },
        network(lambda output: output.pooler_output),
    ),
    "llama_tiny": Oracle(
        lambda: transformers.LlamaForCausalLM(config("Llama", **LLAMA)),
        {
            "head": "lm_head",
            "body.embedding": "model.embed_tokens",
            "body.norm": "model.norm",
            **layers(BLOCK, "body.blocks.", "model.layers."),
        },
        network(lambda output: output.logits),
    ),
    "llama_tied": Oracle(
        lambda: transformers.LlamaForCausalLM(
            config("Llama", **{**LLAMA, "num_attention_heads": 2, "num_key_value_heads": 2}, tie_word_embeddings=True)
        ),
        {
            "body.embedding": "model.embed_tokens",
            "body.norm": "model.norm",
            **layers(BLOCK, "body.blocks.", "model.layers."),
        },
        network(lambda output: output.logits),
        unused=("lm_head",),
    ),
}
