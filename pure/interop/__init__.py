"""Between blocks and `torch.nn.Module`: either way, with the same dotted names."""

from pure.interop.modules import BlockModule, ModuleBlock, from_module, to_module

__all__ = ["BlockModule", "ModuleBlock", "from_module", "to_module"]
