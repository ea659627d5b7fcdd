"""Models of timm and torchvision with random weights, and the size of image that each takes."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType
from typing import Any

from torch import nn

from export.app.targets.nearest_names import nearest_five
from export.app.targets.user_code import UserCode
from export.errors import ArgumentError

__all__ = ["LIBRARIES", "image_size", "model"]

LIBRARIES = ("timm", "torchvision")
IMAGE = (3, 224, 224)
"""Channels, height and width that torchvision's classifiers and segmenters take."""
IMAGE_MODELS = ("torchvision.models.segmentation",)
"""Packages below `torchvision.models` whose models take such images too; detectors and those of videos do not."""


def model(library: str, name: str) -> nn.Module:
    """Return a library's model in evaluation mode, with weights drawn from PyTorch's global generator.

    Raises:
        ArgumentError: the library is not installed, or has no such model.
    """
    made: nn.Module
    if library == "timm":
        timm = _imported(library, "timm")
        if not timm.is_model(name):
            raise ArgumentError(f"timm has no model {name!r}{nearest_five(name, timm.list_models())}")
        with UserCode(f"making timm:{name}"):
            made = timm.create_model(name, pretrained=False)
    else:
        models = _imported(library, "torchvision.models")
        if name not in models.list_models():
            raise ArgumentError(f"torchvision has no model {name!r}{nearest_five(name, models.list_models())}")
        with UserCode(f"making torchvision:{name}"):
            builder = models.get_model_builder(name)
            taken = inspect.signature(builder).parameters
            options: dict[str, Any] = {"weights": None}
            if "weights_backbone" in taken:
                options["weights_backbone"] = None  # else they would be fetched
            if name in ("googlenet", "inception_v3"):
                options["init_weights"] = True  # torchvision warns where it is left out
            made = builder(**options)
    return made.eval()


def image_size(library: str, made: nn.Module) -> tuple[int, ...] | None:
    """Return channels, height and width of a model's input; None if it takes something else."""
    if library == "timm":
        configured: dict[str, Any] = getattr(made, "default_cfg", None) or {}
        size = configured.get("input_size")
        return tuple(size) if size else None
    package = type(made).__module__
    return IMAGE if package.count(".") == 2 or package.startswith(IMAGE_MODELS) else None


def _imported(library: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in (library, module):
            raise
        raise ArgumentError(
            f"{library} is not installed, expected for {library}:NAME: pip install 'pure-export[models]'"
        ) from error
