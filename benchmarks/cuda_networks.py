"""The networks that are timed on a GPU: as pure blocks, and as the modules that people use, with equal weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pure
from parity_tests.modules import ResidualMLP
from pure import Block, interop, nets, tree
from pure.skips import pre_norm


class TransformerBlock(nn.Module):
    """A pre-norm transformer block, as usually written: attention, then an MLP."""

    def __init__(self, features: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(features)
        self.qkv = nn.Linear(features, 3 * features)
        self.out = nn.Linear(features, features)
        self.norm2 = nn.LayerNorm(features)
        self.fc1 = nn.Linear(features, hidden)
        self.fc2 = nn.Linear(hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        split = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        attended = F.scaled_dot_product_attention(*split)
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def transformer_block(features: int, heads: int, hidden: int) -> Block:
    """The same as a pure block."""
    attention = pre_norm(pure.Attention(features, heads, fused=True), pure.LayerNorm(features))
    first, second = pure.Linear(features, hidden), pure.Linear(hidden, features)
    mlp = pure.Sequential(fc1=first, act=pure.Activation("gelu"), fc2=second)
    return pure.Sequential(attention=attention, mlp=pre_norm(mlp, pure.LayerNorm(features)))


def torchvision_network(name: str) -> Callable[[], nn.Module]:
    """torchvision's network of that name."""

    def make() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None)

    return make


@dataclass(frozen=True)
class Network:
    """A network in both forms; `source` says whose names its state dict has, None where leaves come in order."""

    name: str
    block: Callable[[], Block]
    module: Callable[[], nn.Module]
    x_shape: tuple[int, ...]
    source: Literal["torchvision"] | None = None


NETWORKS = {
    "tiny": Network(
        "residual MLP, 2 layers of width 16, batch 4",
        lambda: nets.residual_mlp(16, 16, 2, 0.25),
        lambda: ResidualMLP(16, 16, 2, 0.25),
        (4, 16),
    ),
    "mlp": Network(
        "residual MLP, 16 layers of width 1024, batch 256",
        lambda: nets.residual_mlp(1024, 1024, 16, 0.25),
        lambda: ResidualMLP(1024, 1024, 16, 0.25),
        (256, 1024),
    ),
    "transformer": Network(
        "transformer block, 16×256 tokens of width 512",
        lambda: transformer_block(512, 8, 2048),
        lambda: TransformerBlock(512, 8, 2048),
        (16, 256, 512),
    ),
    "resnet50": Network(
        "ResNet-50, 16×3×224×224", nets.resnet50, torchvision_network("resnet50"), (16, 3, 224, 224), "torchvision"
    ),
    "densenet121": Network(
        "DenseNet-121, 16×3×224×224",
        nets.densenet121,
        torchvision_network("densenet121"),
        (16, 3, 224, 224),
        "torchvision",
    ),
}


def both(network: Network, device: str) -> tuple[Block, tree.Tree, tree.Tree, nn.Module, Tensor]:
    """The block with its trees, the module with the same weights, and an input, on the device."""
    generator = torch.Generator().manual_seed(0)
    block, module = network.block(), network.module().eval()
    params, state = block.init(generator)
    if network.source is None:
        with torch.no_grad():
            for own, leaf in zip(module.parameters(), tree.leaves(params), strict=True):
                own.copy_(leaf)
    else:
        module.load_state_dict(interop.to_state_dict(block, params, state, source=network.source))
    x = torch.randn(network.x_shape, generator=generator).to(device)

    def there(leaf: Tensor) -> Tensor:
        return leaf.to(device)

    return block, tree.tree_map(there, params), tree.tree_map(there, state), module.to(device), x
