"""Chooses the zoo's models: one or two of each architecture, as small as the library lets them be made.

`python -m parity_tests.zoo.choosing` writes `models.json`. It need be run again only for newer libraries: models that
do not run in PyTorch itself at a small size are left out, whatever the reason.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import json
import re
import signal
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from export.verdict.locating.failures import FAILURES
from parity_tests.zoo.making import LIBRARIES, TABLE, VOCABULARY, Entry, entries, inputs, make, save

SECONDS = 40
"""What one model may take to be made and called a few times while it is made smaller."""
CALL_SECONDS, PARAMETERS = 2.0, 9_000_000
"""What a call and a model may be at most, made small."""
HELD_OUT = 12
"""Of so many models one is held out."""

SMALLER: tuple[dict[str, Any], ...] = (
    {"depth": 2},
    {"depths": [1, 1, 1, 1]},
    {"depths": [1, 1, 1]},
    {"layers": [1, 1, 1, 1]},
    {"layers": [1, 1, 1]},
    {"num_layers": [1, 1, 1, 1]},
    {"num_blocks": [1, 1, 1, 1]},
    {"block_config": [2, 2, 2, 2]},
    {"embed_dim": 48, "num_heads": 3},
    {"embed_dim": 64, "num_heads": 2},
    {"embed_dim": 32},
    {"dims": [16, 24, 32, 48]},
    {"dims": [16, 32, 64, 128]},
    {"embed_dims": [16, 24, 32, 48]},
    {"embed_dims": [16, 32, 64, 128]},
    {"channels": [16, 24, 32, 48]},
    {"growth_rate": 8},
    {"base_width": 16},
    {"num_classes": 10},
)
"""Options of timm's and torchvision's classes, each taken where the model is smaller with it and still runs."""
REFUSALS: tuple[type[Exception], ...] = (*FAILURES, ImportError)
"""What a model that cannot be made or called at a small size may raise."""
IMAGE_SIZES = (64, 96, 128, 160, 192, 224, 256)


class TooSlowError(Exception):
    """A model that takes too long to be chosen."""


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise `TooSlowError` inside after so many seconds."""

    def stop(*_: Any) -> None:
        raise TooSlowError

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def weight(entry: Entry) -> tuple[int, float] | None:
    """Return a model's parameters and the seconds of a call; None if it does not run."""
    try:
        module = make(entry)
        if any(isinstance(leaf, nn.parameter.UninitializedParameter) for leaf in module.parameters()):
            return None
        with torch.no_grad():
            module(**_named(entry, inputs(entry, 2, 0)))
            began = time.perf_counter()
            module(**_named(entry, inputs(entry, 3, 1)))
        return sum(leaf.numel() for leaf in module.parameters()), time.perf_counter() - began
    except TooSlowError:
        raise
    except REFUSALS:  # a model that PyTorch itself does not run is none of ours
        return None


def _named(entry: Entry, given: dict[str, Any]) -> dict[str, Any]:
    return given


def smaller(entry: Entry) -> Entry | None:
    """Return the entry with the smallest image and the options that make the model smaller; None if it never runs."""
    try:
        with limit(SECONDS):
            found = None
            for size in IMAGE_SIZES:
                for options in ({"img_size": size}, {"image_size": size}, {}):
                    tried = Entry(
                        entry.library, entry.name, entry.architecture, {**entry.options, **options}, _image(entry, size)
                    )
                    found = weight(tried)
                    if found:
                        break
                if found:
                    break
            else:
                return None
            names = set(inspect.signature(type(make(tried)).__init__).parameters)
            if "kwargs" in names or "cfg" in names:
                names |= {name for options in SMALLER for name in options}
            for options in SMALLER:
                if set(options) <= names:
                    next_one = Entry(
                        tried.library, tried.name, tried.architecture, {**tried.options, **options}, tried.takes
                    )
                    now = weight(next_one)
                    if now and now[0] < found[0]:
                        tried, found = next_one, now
    except TooSlowError:
        return None
    return tried if found[0] <= PARAMETERS and found[1] <= CALL_SECONDS else None


def _image(entry: Entry, size: int) -> dict[str, list[int]]:
    return {"x": [3, size, size]}


def of_timm() -> Iterator[Entry]:
    """Yield the smallest model of each of timm's modules, and a second one of the large modules."""
    timm = importlib.import_module("timm")
    registry = importlib.import_module("timm.models._registry")
    modules = defaultdict(list)
    for name in timm.list_models():
        modules[registry._model_to_module[name]].append(name)
    for module, names in modules.items():
        sizes = {}
        for name in names[:60]:
            with contextlib.suppress(*REFUSALS), torch.device("meta"):
                sizes[name] = sum(leaf.numel() for leaf in timm.create_model(name).parameters())
        ordered = sorted(sizes, key=lambda name: sizes[name])
        for name in [*ordered[:1], *ordered[len(ordered) // 3 : len(ordered) // 3 + 1][: len(ordered) >= 7]]:
            yield Entry("timm", name, module)


def of_torchvision() -> Iterator[Entry]:
    """Yield the smallest classifier of each of torchvision's architectures, and the segmenters."""
    models = importlib.import_module("torchvision.models")
    for name in models.list_models(module=models):
        yield Entry("torchvision", name, re.split(r"_?\d|_(?:v2|b|s|m|l|t|tiny|small|base|large)\b", name)[0])


def of_pytorchcv() -> Iterator[Entry]:
    """Yield one of pytorchcv's image classifiers of each architecture."""
    provider = importlib.import_module("pytorchcv.model_provider")
    seen = set()
    for name in provider._models:
        architecture = re.split(r"\d|_|bc?-", name)[0]
        if architecture not in seen:
            seen.add(architecture)
            yield Entry("pytorchcv", name, architecture)


SHORT: tuple[tuple[str, Any], ...] = (
    (r"vocab_size$|n_vocab$", VOCABULARY),
    (r"num_key_value_heads$|num_kv_heads$|num_key_value_groups", 2),
    (r"heads$|n_head$", 4),
    (r"layers$|n_layer$|^depth$|num_blocks$", 2),
    (r"^(hidden_size|d_model|n_embd|dim|embed_dim|embedding_size|word_embed_proj_dim|hidden_dim|emb_dim)$", 32),
    (r"intermediate|ffn_dim|d_ff$|n_inner|mlp_dim|ff_dim|ffn_hidden", 64),
    (r"head_dim$|d_kv$|qk_rope_head_dim|qk_nope_head_dim|v_head_dim", 8),
    (r"lora_rank", 8),
    (r"max_position|n_positions|max_seq", 64),
    (r"experts$|n_routed_experts", 4),
    (r"per_tok$|top_k$|topk$|moe_k$", 2),
    (r"state_size$|ssm_state", 8),
    (r"image_size$", 32),
    (r"patch_size$", 8),
)
"""Whole numbers of a configuration of transformers, by the end of their names, and what they are made."""


def shortened(config: Any) -> dict[str, Any]:
    """Return the options that make a configuration of transformers small."""
    options: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        if isinstance(value, bool) or not isinstance(value, int):
            if value is None and name.endswith("num_key_value_heads"):
                continue
            if name.endswith("token_id"):
                options[name] = None
            continue
        if name.endswith("token_id"):
            options[name] = 0
            continue
        for pattern, small in SHORT:
            if re.search(pattern, name) and value > small:
                options[name] = small
                break
    options.pop("num_labels", None)
    return options


def of_transformers() -> Iterator[Entry]:
    """Yield one model of each architecture of transformers whose options make it small: texts, images or audio."""
    transformers = importlib.import_module("transformers")
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    kinds = (
        (auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, {"input_ids": [7]}),
        (auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, {"input_ids": [7]}),
        (auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, {"input_ids": [7], "decoder_input_ids": [5]}),
        (auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, {"pixel_values": [3, 32, 32]}),
        (auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES, {"pixel_values": [3, 64, 64]}),
        (auto.MODEL_FOR_CTC_MAPPING_NAMES, {"input_values": [800]}),
    )
    seen: set[str] = set()
    for table, takes in kinds:
        for kind, names in table.items():
            name = names if isinstance(names, str) else names[0]
            model_class = getattr(transformers, name, None)
            if kind in seen or name in seen or model_class is None or not hasattr(model_class, "config_class"):
                continue
            seen |= {kind, name}
            try:
                options = shortened(model_class.config_class())
            except REFUSALS:  # a configuration that cannot be made without files
                continue
            options["use_cache"] = False
            if not _is_small(model_class, options):
                continue
            yield Entry("transformers", name, kind, options, dict(takes))


def _is_small(model_class: Any, options: dict[str, Any]) -> bool:
    """Tell by a model without values whether it is small; not if it cannot be made."""
    try:
        with limit(SECONDS), torch.device("meta"):
            module = model_class(model_class.config_class(**options))
        return sum(leaf.numel() for leaf in module.parameters()) <= PARAMETERS
    except REFUSALS:  # whatever it is, the model cannot be made with these options
        return False


def of_x_transformers() -> Iterator[Entry]:
    """Yield kinds of x-transformers' layers."""
    attention = {"dim": 32, "depth": 2, "heads": 4}
    text = {"num_tokens": VOCABULARY, "max_seq_len": 32}
    for layers, extra in (
        ("Decoder", {}),
        ("Decoder", {"rotary_pos_emb": True, "use_rmsnorm": True, "ff_glu": True, "ff_swish": True}),
        ("Decoder", {"alibi_pos_bias": True, "attn_one_kv_head": True}),
        ("Encoder", {"macaron": True, "gate_residual": True}),
        ("Encoder", {"sandwich_norm": True, "rel_pos_bias": True, "attn_talking_heads": True}),
        ("Decoder", {"resi_dual": True, "attn_qk_norm": True}),
    ):
        options = {
            "layers": layers,
            "wrapper": "TransformerWrapper",
            "attention": {**attention, **extra},
            "of_wrapper": text,
        }
        label = "+".join((layers, *extra))
        yield Entry("x-transformers", label, f"x-transformers {label}", options, {"x": [7]})


def held_out(entry: Entry) -> bool:
    return int(hashlib.sha256(entry.label.encode()).hexdigest(), 16) % HELD_OUT == 0


def main(argv: Sequence[str]) -> None:
    """Choose the models of the libraries named, or of all, and write the table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sources = dict(
        zip(LIBRARIES, (of_timm, of_torchvision, of_transformers, of_pytorchcv, of_x_transformers), strict=True)
    )
    wanted = argv or LIBRARIES
    chosen = [entry for entry in entries() if entry.library not in wanted] if TABLE.exists() else []
    for library in wanted:
        for entry in sources[library]():
            began = time.perf_counter()
            images = entry.library in ("timm", "torchvision", "pytorchcv")
            found = smaller(entry) if images else _runs(entry)
            print(json.dumps([entry.label, found and found.options, round(time.perf_counter() - began, 1)]), flush=True)
            if found:
                chosen.append(Entry(**{**vars(found), "held_out": held_out(found)}))
                save(chosen)


def _runs(entry: Entry) -> Entry | None:
    try:
        with limit(SECONDS):
            found = weight(entry)
    except TooSlowError:
        return None
    return entry if found and found[0] <= PARAMETERS and found[1] <= CALL_SECONDS else None


if __name__ == "__main__":
    main(sys.argv[1:])
