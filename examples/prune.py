"""Three ways to prune, each judged: weights by masks, channels of a small ResNet, whole residual blocks.

python examples/prune.py
"""

from typing import Any

import torch

import export
import pure
from pure import nets, optim, pruning

DYNAMIC = (None, {0: "batch"}, None)


def weights() -> None:
    """Train under masks: the weights that were cut stay 0, because their gradient is masked too."""
    block = nets.skip_mlp(in_features=8, width=16, out_features=4, depth=6)
    params, _ = block.init(torch.Generator().manual_seed(0))
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(1))
    y = torch.relu(x[:, :4] - x[:, 4:])
    masks = pruning.magnitude_masks(params, 0.8)

    def loss(params: Any) -> torch.Tensor:
        return (block(pruning.apply_masks(params, masks), x) - y).square().mean()

    params = pruning.apply_masks(params, masks)
    optimizer, step = optim.adamw(1e-2, weight_decay=0.0), pure.value_and_grad(loss)
    state = optimizer.init(params)
    first, _ = step(params)
    for _ in range(100):
        last, gradient = step(params)
        params, state = optimizer.step(gradient, state, params)
    print(f"weights: {pruning.sparsity(params).total:.0%} zeros, loss {float(first):.3f} → {float(last):.3f}")


def channels() -> None:
    """Cut half the channels: every leaf that a channel runs through gets smaller, and so does the ONNX file."""
    block = nets.create("resnet20")
    params, state = block.init(torch.Generator().manual_seed(0))
    cut = pruning.prune_channels(block, params, (1, 3, 32, 32), state, keep=0.5, importance="l2")
    assert cut.block is not None, cut.reason
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    error = (block(cut.zeroed, x, state) - cut.block(cut.params, x, cut.state)).abs().max()
    verdict = export.verify(cut.block, (cut.params, x, cut.state), dynamic=DYNAMIC)
    sizes = f"{pure.count(params):,} → {pure.count(cut.params):,} parameters"
    print(f"channels: {sizes}, {error:.1e} from the zeroed network, verdict: {verdict.status}")


def blocks() -> None:
    """Leave out the blocks whose branch hardly adds anything to the stream."""
    block = nets.residual_mlp(features=16, hidden_features=32, depth=8, scale=0.5)
    params, state = block.init(torch.Generator().manual_seed(0))
    for index in ("2", "5"):  # as if training had found them useless
        params[index] = pure.tree.tree_map(lambda leaf: 1e-6 * leaf, params[index])
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    importance = pruning.block_importance(block, params, x, state)
    smaller, kept, left = pruning.remove_blocks(block, params, state, importance, threshold=1e-3)
    error = (block(params, x, state) - smaller(kept, x, left)).abs().max()
    verdict = export.verify(smaller, (kept, x), dynamic=DYNAMIC[:2])
    print(f"blocks: {list(kept)} of 8 stay, {error:.1e} from the whole network, verdict: {verdict.status}")


if __name__ == "__main__":
    weights()
    channels()
    blocks()
