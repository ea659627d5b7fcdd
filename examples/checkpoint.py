"""A checkpoint with torchvision's names, written and read by pure.interop alone, learns other digits by another head.

python examples/checkpoint.py
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

import export
import pure
from pure import interop, nets, optim

SMALL = {"depths": (1, 1), "block": "basic", "widths": (8, 16), "stem_channels": 8, "stem": "3x3", "in_channels": 1}


def publish(path: Path, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Train a small ResNet on the digits 0 to 4, and write it with torchvision's names."""
    block = nets.resnet_v1(num_classes=5, **SMALL)
    params, state = block.init(torch.Generator().manual_seed(0))

    def loss(params: Any, state: Any) -> tuple[torch.Tensor, Any]:
        y, state = block.apply(params, images, state, {}, True, {})
        return cross_entropy(y, labels), state

    optimizer, step = optim.adamw(1e-2), pure.value_and_grad(loss, has_aux=True)
    opt_state = optimizer.init(params)
    for _ in range(60):
        (_, state), gradient = step(params, state)
        params, opt_state = optimizer.step(gradient, opt_state, params)
    tensors = interop.to_state_dict(block, params, state)
    interop.write(tensors, path)
    print(f"wrote {len(tensors)} tensors: {', '.join(list(tensors)[:3])}, …, fc.weight {[*tensors['fc.weight'].shape]}")


def main() -> None:
    """Read the checkpoint under a head of ten classes, train the head on all digits, save, load, export."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    labels = torch.from_numpy(digits.target)
    held_out, seen = slice(None, 400), slice(400, None)
    known = labels[seen] < 5

    block = nets.resnet_v1(num_classes=10, **SMALL)
    with tempfile.TemporaryDirectory() as folder:
        publish(Path(folder) / "published.safetensors", images[seen][known][:256], labels[seen][known][:256])
        drawn = torch.Generator().manual_seed(1)  # for the new head
        path = Path(folder) / "published.safetensors"
        params, state = interop.from_state_dict(block, path, ignore="fc", generator=drawn)
    head, frozen = pure.partition(params, "fc.*")

    def loss(head: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return cross_entropy(block(pure.combine(frozen, head), x, state), y)

    def accuracy(params: Any) -> float:
        return float((block(params, images[held_out], state).argmax(1) == labels[held_out]).float().mean())

    optimizer, step = optim.adamw(3e-2), pure.value_and_grad(loss)
    opt_state = optimizer.init(head)
    before = accuracy(params)
    for epoch in range(8):
        order = torch.randperm(1280, generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(128):
            _, gradient = step(head, images[seen][batch], labels[seen][batch])
            head, opt_state = optimizer.step(gradient, opt_state, head)
    trained = pure.combine(frozen, head)
    print(f"held-out accuracy {before:.0%} → {accuracy(trained):.0%}; {pure.count(frozen):,} values frozen")

    with tempfile.TemporaryDirectory() as folder:
        interop.write(interop.to_state_dict(block, trained, state), Path(folder) / "tuned.safetensors")
        loaded, statistics = interop.from_state_dict(block, Path(folder) / "tuned.safetensors")
        same = all(map(torch.equal, pure.tree.leaves(loaded), pure.tree.leaves(trained)))
        verdict = export.verify(block, (loaded, images[:64], statistics), dynamic=(None, {0: "batch"}, None))
        print(f"loaded again: the same bits: {same}; ONNX verdict: {verdict.status}")


if __name__ == "__main__":
    main()
