"""The plain `torch.nn.Module` versions of the networks, written as tutorials write them and independent of `pure`.

Submodules are constructed in the order in which their initial weights are drawn, with PyTorch's own defaults.
"""

from parity_tests.modules.basic_block import BasicBlock
from parity_tests.modules.dynamic_net import DynamicNet
from parity_tests.modules.highway import Highway
from parity_tests.modules.residual_block import ResidualBlock
from parity_tests.modules.residual_mlp import ResidualMLP, ResidualMLPBlock
from parity_tests.modules.simple_block import SimpleBlock
from parity_tests.modules.simple_block_with_skip import SimpleBlockWithSkip
from parity_tests.modules.tutorial_resnet import TutorialResNet

__all__ = [
    "BasicBlock",
    "DynamicNet",
    "Highway",
    "ResidualBlock",
    "ResidualMLP",
    "ResidualMLPBlock",
    "SimpleBlock",
    "SimpleBlockWithSkip",
    "TutorialResNet",
]
