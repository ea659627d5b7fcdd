"""A small ResNet learns digits, becomes 8-bit, and is judged on held-out digits; calibrated badly, it fails.

python examples/quantize.py
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

import export
import pure
from pure import nets, optim

SMALL = {"depths": (1, 1), "block": "basic", "widths": (16, 32), "stem_channels": 16, "stem": "3x3", "in_channels": 1}


def train(block: pure.Block, images: torch.Tensor, labels: torch.Tensor) -> tuple[Any, Any]:
    """Train for two epochs; return the parameters and the batch statistics."""
    params, state = block.init(torch.Generator().manual_seed(0))

    def loss(params: Any, state: Any, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, Any]:
        scores, state = block.apply(params, x, state, {}, True, {})
        return cross_entropy(scores, y), state

    optimizer, step = optim.adamw(1e-2), pure.value_and_grad(loss, has_aux=True)
    opt_state = optimizer.init(params)
    for epoch in range(2):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(64):
            (_, state), gradient = step(params, state, images[rows], labels[rows])
            params, opt_state = optimizer.step(gradient, opt_state, params)
    return params, state


def main() -> None:
    """Train, export, quantise with real digits and with bad ones, and judge both."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    labels = torch.from_numpy(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    seen, held_out = order[:1200], order[1200:]

    block = nets.resnet_v1(num_classes=10, **SMALL)
    params, state = train(block, images[seen], labels[seen])
    args = (params, images[:32], state)
    calibration = [(images[rows],) for rows in seen[:256].split(32)]
    batches = [(images[rows],) for rows in held_out.split(200)]

    with tempfile.TemporaryDirectory() as folder:
        exact, small, bad = (Path(folder) / name for name in ("exact.onnx", "small.onnx", "bad.onnx"))
        export.to_onnx(block, args, exact, bake=(0, 2), dynamic=(None, {0: "batch"}, None))
        written = export.quantize(exact, small, calibration)
        print(f"{written.size / written.source_size:.0%} of the bytes; {written.kernels}")

        verdict = export.verify_quantized(small, exact, batches, labels=labels[held_out], fn=block, args=args)
        print(verdict.table().replace(folder, ""))
        print(f"calibrated with digits: {verdict.status}")

        export.quantize(exact, bad, [(100 * x,) for (x,) in calibration])
        verdict = export.verify_quantized(bad, exact, batches, labels=labels[held_out], fn=block, args=args)
        print(f"calibrated with digits times 100: {verdict.status} at {verdict.leaves[0].sqnr_db:.1f} dB")


if __name__ == "__main__":
    main()
