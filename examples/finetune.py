"""A torchvision-style module becomes a block, is trained with one half frozen, saved, loaded and exported.

python examples/finetune.py
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

import export
import pure
from pure import interop, optim


def main() -> None:
    """Train the last layer of a small convolutional network on a made-up target."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
    block, params, state = interop.from_module(module)
    trainable, frozen = pure.partition(params, "4.*")

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 3, 8, 8, generator=generator)
    target = x.mean(dim=(2, 3))[:, :2]

    def loss(trainable: Any) -> torch.Tensor:
        return (block(pure.combine(frozen, trainable), x, state) - target).square().mean()

    optimizer = optim.adamw(1e-2)
    step = pure.value_and_grad(loss)
    opt_state = optimizer.init(trainable)
    before, _ = step(trainable)
    for _ in range(50):
        value, gradient = step(trainable)
        trainable, opt_state = optimizer.step(gradient, opt_state, trainable)
    print(f"loss {float(before):.4f} → {float(value):.4f}, {pure.count(frozen)} values frozen")

    with tempfile.TemporaryDirectory() as folder:
        pure.save(pure.combine(frozen, trainable), Path(folder) / "net.safetensors")
        loaded = pure.load(Path(folder) / "net.safetensors")
        verdict = export.verify(block, (loaded, x, state), dynamic=(None, {0: "batch"}, None))
        print("ONNX verdict:", "passed" if verdict else "failed")


if __name__ == "__main__":
    main()
