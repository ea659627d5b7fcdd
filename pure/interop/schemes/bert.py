"""The names of transformers for BERT."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pure.interop.scheme import Rule, Scheme

__all__ = ["SCHEMES"]

LAYER = {
    "attention.add.branch.f.q": "attention.self.query",
    "attention.add.branch.f.k": "attention.self.key",
    "attention.add.branch.f.v": "attention.self.value",
    "attention.add.branch.f.out": "attention.output.dense",
    "attention.norm": "attention.output.LayerNorm",
    "mlp.add.branch.f.fc1": "intermediate.dense",
    "mlp.add.branch.f.fc2": "output.dense",
    "mlp.norm": "output.LayerNorm",
}

MODEL = Scheme(
    "transformers",
    "BERT (BertModel)",
    (
        Rule("embeddings.norm.{leaf}", "embeddings.LayerNorm.{leaf}"),
        Rule("embeddings.{table}.weight", "embeddings.{table}_embeddings.weight"),
        *(Rule(f"layers.{{i}}.{o}.{{leaf}}", f"encoder.layer.{{i}}.{t}.{{leaf}}") for o, t in LAYER.items()),
        Rule("pooler.dense.{leaf}", "pooler.dense.{leaf}"),
    ),
    ignored=(r"(bert\.|roberta\.)?embeddings\.(position_ids|token_type_ids)",),
)

SCHEMES: Final[tuple[Scheme, ...]] = (
    MODEL,
    replace(MODEL, family="BERT inside a larger model (BertForMaskedLM, …)", prefix="bert."),
    replace(MODEL, family="RoBERTa inside a larger model (RobertaForMaskedLM, …)", prefix="roberta."),
)
