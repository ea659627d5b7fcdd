"""To and from `torch.nn.Module`, and the checkpoints of torchvision, timm and transformers."""

from pure.interop.checkpoints import from_state_dict, to_state_dict
from pure.interop.files import read, write
from pure.interop.mismatch import CheckpointError
from pure.interop.modules import BlockModule, ModuleBlock, from_module, to_module
from pure.interop.schemes.vit import resize_positions

__all__ = [
    "BlockModule",
    "CheckpointError",
    "ModuleBlock",
    "from_module",
    "from_state_dict",
    "read",
    "resize_positions",
    "to_module",
    "to_state_dict",
    "write",
]
