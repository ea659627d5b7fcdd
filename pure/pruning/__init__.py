"""Pruning of single weights (by masks), whole channels, or whole residual blocks."""

from pure.pruning.channels import PrunedChannels, prune_channels
from pure.pruning.coupling import ChannelGroup, Member, coupled_channels
from pure.pruning.depth import block_importance, remove_blocks
from pure.pruning.importance import channel_importance
from pure.pruning.masks import Sparsity, apply_masks, magnitude_masks, sparsity
from pure.pruning.rebuild import resized

__all__ = [
    "ChannelGroup",
    "Member",
    "PrunedChannels",
    "Sparsity",
    "apply_masks",
    "block_importance",
    "channel_importance",
    "coupled_channels",
    "magnitude_masks",
    "prune_channels",
    "remove_blocks",
    "resized",
    "sparsity",
]
