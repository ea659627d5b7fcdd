"""Losses and indexing under functorch's transforms: ensembles, per-sample gradients, Hessians and products with them.

Every function takes weights, inputs and labels; the batch is dynamic, and the file runs at three sizes of it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import export
from parity_tests.loss_cases import ENSEMBLE, INPUTS, LABELS, LOSSES, WEIGHTS, transformed

SIZES = (5, 2, 1)
RELATIVE_TOLERANCE = 3e-5
"""Of the largest element, for float32 against float64."""


EAGER_REFUSES: dict[str, tuple[str, ...]] = {
    "one_hot": ("samples",),  # PyTorch's one_hot asks for the largest label
    "huber": ("product",),  # PyTorch has no forward derivative of its gradient
    "attention": ("product", "hessian"),  # PyTorch's fused attention has no second derivative
    "attention_masked": ("product", "hessian"),
}
"""What PyTorch itself cannot do: {function: transforms}."""


@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")  # PyTorch's own, in its forward derivatives
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # PyTorch's own, where vmap loops
@pytest.mark.parametrize("name", LOSSES)
def test_transforms_of_losses_and_indexing_with_a_dynamic_batch(name: str, tmp_path: Path) -> None:
    used = {label: fn for label, fn in transformed(LOSSES[name]).items() if label not in EAGER_REFUSES.get(name, ())}

    def whole(w: Tensor, many: Tensor, x: Tensor, t: Tensor) -> dict[str, Tensor]:
        return {label.replace(" ", "_"): fn(w, many, x, t) for label, fn in used.items()}

    batch = {0: "batch"}
    args = (WEIGHTS, ENSEMBLE, INPUTS, LABELS)
    export.to_onnx(whole, args, tmp_path / "f.onnx", dynamic=(None, None, batch, batch))
    file = export.load(tmp_path / "f.onnx", device="cpu")
    for size in SIZES:
        some = (WEIGHTS, ENSEMBLE, INPUTS[:size], LABELS[:size])
        expected = whole(*(arg.double() if arg.is_floating_point() else arg for arg in some))
        actual = file(*some)
        for label, value in expected.items():
            scale = max(value.abs().max().item(), 1e-3)
            found = actual[label].double()
            torch.testing.assert_close(found, value, rtol=0, atol=RELATIVE_TOLERANCE * scale, msg=f"{label} at {size}")


@pytest.mark.parametrize(("name", "label"), [(name, label) for name, used in EAGER_REFUSES.items() for label in used])
def test_what_eager_refuses_is_known(name: str, label: str) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        transformed(LOSSES[name])[label](WEIGHTS, ENSEMBLE, INPUTS, LABELS)
