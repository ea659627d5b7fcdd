"""Residual networks for images against timm and pytorchcv, or a plain module."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from pytorchcv.models.preresnet_cifar import CIFARPreResNet
from pytorchcv.models.pyramidnet_cifar import CIFARPyramidNet
from pytorchcv.models.resnet_cifar import CIFARResNet
from pytorchcv.models.wrn_cifar import CIFARWRN
from timm.layers import BatchNormAct2d, create_conv2d
from timm.models import nfnet, resnetv2
from timm.models import resnet as timm_resnet
from torch import Tensor, nn

from parity_tests.oracles.additive import Padded, renamed
from parity_tests.oracles.masks import masked, replay
from parity_tests.oracles.oracle import Flat, Oracle


class PaddedNet(nn.Module):
    """A stem, three padded blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(Padded(4, 4, 1), Padded(4, 6, 2), Padded(6, 8, 2))
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(F.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


NESTED = (r"stage(\d)\.(\d)\.", lambda m: f"features.stage{m[1]}.unit{int(m[2]) + 1}.")
INSIDE = (
    (r"(unit\d+\.)(?:residual\.)?(?:branch\.)?norm(\d)\.", r"\1body.conv\2.bn."),
    (r"(unit\d+\.)(?:residual\.)?branch\.conv(\d)\.", r"\1body.conv\2.conv."),
    (r"(unit\d+\.)residual\.shortcut\.conv\.", r"\1identity_conv."),
)
ENDS = ((r"^norm\.", "features.post_activ.bn."), (r"^fc\.", "output."))
CIFAR_PLAIN = renamed(
    NESTED,
    (r"(unit\d+\.)branch\.bn(\d)\.", r"\1body.conv\2.bn."),
    (r"(unit\d+\.)branch\.conv(\d)\.", r"\1body.conv\2.conv."),
    (r"(unit\d+\.)shortcut\.conv\.", r"\1identity_conv.conv."),
    (r"(unit\d+\.)shortcut\.norm\.", r"\1identity_conv.bn."),
    (r"^conv1\.", "features.init_block.conv."),
    (r"^bn1\.", "features.init_block.bn."),
    *ENDS,
)
CIFAR_PREACT = renamed(NESTED, *INSIDE, (r"^conv1\.", "features.init_block."), *ENDS)
CIFAR_PYRAMID = renamed(
    NESTED,
    *INSIDE,
    (r"(unit\d+\.)body\.conv3\.bn\.", r"\1bn."),
    (r"^conv1\.", "features.init_block.conv."),
    (r"^bn1\.", "features.init_block.bn."),
    *ENDS,
)
STAGED = (r"^stages\.(\d)\.(\d)\.", r"stages.\1.blocks.\2.")


def with_kernel(names: Callable[[Flat], Flat]) -> Callable[[Flat], Flat]:
    """Give the head's weight the two axes of a 1×1 convolution."""

    def wrapped(flat: Flat) -> Flat:
        head = "head.fc.weight"
        return {name: leaf[..., None, None] if name == head else leaf for name, leaf in names(flat).items()}

    return wrapped


ORACLES = {
    "resnet": Oracle(
        lambda: timm_resnet.ResNet(timm_resnet.BasicBlock, (1, 1, 2, 1), 3, channels=(4, 6, 6, 8)),
        renamed((r"\.branch\.", "."), (r"shortcut\.conv", "downsample.0"), (r"shortcut\.norm", "downsample.1")),
    ),
    "resnet_d": Oracle(
        lambda: masked(
            timm_resnet.ResNet(
                timm_resnet.Bottleneck,
                (1, 1, 2, 1),
                3,
                channels=(4, 4, 6, 6),
                stem_width=4,
                stem_type="deep",
                avg_down=True,
                block_args={"attn_layer": "se"},
            ),
            0.3,
        ),
        renamed(
            (r"\.branch\.", "."),
            (r"shortcut\.project\.conv", "downsample.1"),
            (r"shortcut\.project\.norm", "downsample.2"),
        ),
        replay,
    ),
    "resnet_v2": Oracle(
        lambda: masked(
            resnetv2.ResNetV2([1, 2], (32, 40), 3, stem_chs=8, conv_layer=create_conv2d, norm_layer=BatchNormAct2d),
            0.3,
        ),
        with_kernel(
            renamed(
                STAGED,
                (r"\.residual\.shortcut\.", ".downsample."),
                (r"\.(?:residual\.)?branch\.", "."),
                (r"^head\.", "head.fc."),
            )
        ),
        replay,
    ),
    "norm_free_resnet": Oracle(
        lambda: masked(
            nfnet.NormFreeNet(nfnet._nfres_cfg((2, 1), (32, 40)), 3, stem_chs=8),
            0.3,
        ),
        renamed(
            (r"\.residual\.shortcut\.", ".downsample."), (r"\.(?:residual\.)?branch\.", "."), (r"^head\.", "head.fc.")
        ),
        replay,
    ),
    "cifar_resnet": Oracle(PaddedNet, renamed((r"^stage(\d)\.0\.branch\.", lambda m: f"blocks.{int(m[1]) - 1}."))),
    "cifar_resnet_projected": Oracle(lambda: CIFARResNet([[4], [6], [8]], 4, False, num_classes=3), CIFAR_PLAIN),
    "cifar_preresnet": Oracle(lambda: CIFARPreResNet([[16], [24], [32]], 4, True, num_classes=3), CIFAR_PREACT),
    "cifar_wide_resnet": Oracle(lambda: CIFARWRN([[6], [8], [10]], 3, num_classes=3), CIFAR_PREACT),
    "cifar_pyramidnet": Oracle(lambda: CIFARPyramidNet([[6], [9], [11]], 4, False, num_classes=3), CIFAR_PYRAMID),
}
