"""What a model of the zoo is, and how it and its inputs are made from an entry of `models.json`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LIBRARIES", "Entry", "entries", "inputs", "make", "save"]

LIBRARIES = ("timm", "torchvision", "transformers", "pytorchcv", "x-transformers")
TABLE = Path(__file__).with_name("models.json")
VOCABULARY = 96
"""How many tokens the small language models know; inputs hold none of the first six, which may mean padding."""


@dataclass(frozen=True)
class Entry:
    """A model and its input.

    Attributes:
        library: the package that it is of, as it is installed.
        name: the model's name there; of transformers, the class.
        architecture: what kind it is: timm's module, the model type of transformers, the others' name without its size.
        options: keyword arguments that make it small; of transformers, of its configuration.
        takes: each input's name with its sizes behind the batch.
        held_out: whether it was left alone while faults were mended.
    """

    library: str
    name: str
    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    takes: dict[str, list[int]] = field(default_factory=dict)
    held_out: bool = False

    @property
    def label(self) -> str:
        """`library:name`."""
        return f"{self.library}:{self.name}"

    def is_text(self, name: str) -> bool:
        """Whether an input holds token indices, `(batch, length)`."""
        return name.endswith("ids") or self.library == "x-transformers"


def entries() -> list[Entry]:
    """Return the models of the table."""
    return [Entry(**row) for row in json.loads(TABLE.read_text(encoding="utf-8"))]


def save(chosen: list[Entry]) -> None:
    """Write the table, a model a line."""
    lines = ",\n".join(json.dumps(asdict(entry)) for entry in chosen)
    TABLE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def make(entry: Entry) -> nn.Module:
    """Return the model in evaluation mode with random weights.

    Normalisations hold statistics that are not 0 and 1, and no matrix is constant: a router of zeros, as some start
    with, gives every expert the same score, and PyTorch and ONNX Runtime each pick others of equal scores.
    """
    torch.manual_seed(0)
    module = _made(entry).eval()
    generator = torch.Generator().manual_seed(1)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
        elif name.endswith("running_var"):
            buffer.copy_(1 + 0.1 * torch.rand(buffer.shape, generator=generator))
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim >= 2 and parameter.numel() > 1 and parameter.min() == parameter.max():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module


def inputs(entry: Entry, batch: int, seed: int, longer: int = 0) -> dict[str, Tensor]:
    """Return inputs by name, `(batch, …)`; texts by so many tokens longer than the entry says."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randint(6, VOCABULARY, (batch, sizes[0] + longer), generator=generator)
            if entry.is_text(name)
            else torch.randn((batch, *sizes), generator=generator)
        )
        for name, sizes in entry.takes.items()
    }


def _made(entry: Entry) -> nn.Module:
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.options.items()}
    if entry.library == "timm":
        return importlib.import_module("timm").create_model(entry.name, pretrained=False, **options)
    if entry.library == "torchvision":
        return importlib.import_module("torchvision.models").get_model(entry.name, weights=None, **options)
    if entry.library == "pytorchcv":
        return importlib.import_module("pytorchcv.model_provider").get_model(entry.name, pretrained=False, **options)
    if entry.library == "transformers":
        return _transformer(entry.name, entry.options)
    return _of_x_transformers(entry.options)


def _transformer(name: str, options: Mapping[str, Any]) -> nn.Module:
    transformers = importlib.import_module("transformers")
    model_class = getattr(transformers, name)
    return model_class(model_class.config_class(**options))


def _of_x_transformers(options: Mapping[str, Any]) -> nn.Module:
    library = importlib.import_module("x_transformers")
    layers = getattr(library, options["layers"])(**options["attention"])
    wrapper = getattr(library, options["wrapper"])
    return wrapper(attn_layers=layers, **options["of_wrapper"])
