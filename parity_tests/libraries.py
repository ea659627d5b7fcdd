"""The libraries that networks are compared with, imported when a test first uses one: together they take seconds."""

from importlib import import_module
from typing import Any


class Library:
    """A module that is imported when one of its attributes is first read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") or "pytest" in attribute or attribute == "_mock_name":  # pytest, while collecting
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)


timm: Any = Library("timm")
timm_layers: Any = Library("timm.layers")
timm_nfnet: Any = Library("timm.models.nfnet")
timm_registry: Any = Library("timm.models._registry")
timm_resnet: Any = Library("timm.models.resnet")
timm_resnetv2: Any = Library("timm.models.resnetv2")
timm_vit: Any = Library("timm.models.vision_transformer")
torchvision: Any = Library("torchvision")
vision_convnext: Any = Library("torchvision.models.convnext")
vision_densenet: Any = Library("torchvision.models.densenet")
vision_mobilenet: Any = Library("torchvision.models.mobilenetv2")
vision_resnet: Any = Library("torchvision.models.resnet")
vision_vit: Any = Library("torchvision.models.vision_transformer")
transformers: Any = Library("transformers")
pytorchcv_models: Any = Library("pytorchcv.model_provider")

# Our own modules that import them.
conv_oracles: Any = Library("parity_tests.oracles.convolutional")
placement_oracles: Any = Library("parity_tests.oracles.placement")
scaled_oracles: Any = Library("parity_tests.oracles.scaled")
transformer_oracles: Any = Library("parity_tests.oracles.transformer")
