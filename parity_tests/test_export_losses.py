"""Losses and indexing under functorch's transforms: ensembles, per-sample gradients, Hessians and products with them.

Every function takes weights, inputs and labels; the batch is dynamic, and the file runs at three sizes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, hessian, jvp, vmap

import export

Function = Callable[[Tensor, Tensor, Tensor], Tensor]

CLASSES, FEATURES = 3, 6

GENERATOR = torch.Generator().manual_seed(0)
WEIGHTS = torch.randn(CLASSES, FEATURES, generator=GENERATOR)
ENSEMBLE = torch.stack([WEIGHTS, -0.5 * WEIGHTS])
INPUTS = torch.randn(5, FEATURES, generator=GENERATOR)
LABELS = torch.tensor([0, 1, 2, 0, 1])
SIZES = (5, 2, 1)
RELATIVE_TOLERANCE = 3e-5
"""Of the largest element, for float32 against float64."""


def logits(w: Tensor, x: Tensor) -> Tensor:
    """Return one row of class scores per input."""
    return F.linear(x, w)


def targets(x: Tensor) -> Tensor:
    """Return one distribution over the classes per input."""
    return x[:, :CLASSES].softmax(1)


LOSSES: dict[str, Function] = {
    "cross_entropy": lambda w, x, t: F.cross_entropy(logits(w, x), t),
    "cross_entropy_weights": lambda w, x, t: F.cross_entropy(logits(w, x), t, weight=w.new_tensor([1.0, 2.0, 0.5])),
    "cross_entropy_smooth": lambda w, x, t: F.cross_entropy(logits(w, x), t, label_smoothing=0.1),
    "cross_entropy_ignored": lambda w, x, t: F.cross_entropy(logits(w, x), t, reduction="sum", ignore_index=1),
    "cross_entropy_probabilities": lambda w, x, t: F.cross_entropy(logits(w, x), targets(x)),
    "cross_entropy_sequence": lambda w, x, t: F.cross_entropy(logits(w, x)[None].transpose(1, 2), t[None]),
    "nll": lambda w, x, t: F.nll_loss(logits(w, x).log_softmax(1), t),
    "binary_cross_entropy": lambda w, x, t: F.binary_cross_entropy(logits(w, x).sigmoid(), targets(x)),
    "binary_cross_entropy_with_logits": lambda w, x, t: F.binary_cross_entropy_with_logits(logits(w, x), targets(x)),
    "kl_div": lambda w, x, t: F.kl_div(logits(w, x).log_softmax(1), targets(x), reduction="batchmean"),
    "kl_div_log": lambda w, x, t: F.kl_div(
        logits(w, x).log_softmax(1), targets(x).log(), reduction="sum", log_target=True
    ),
    "mean_by_size": lambda w, x, t: (logits(w, x) - targets(x)).square().sum() / x.shape[0],
    "one_hot": lambda w, x, t: (logits(w, x).log_softmax(1) * F.one_hot(t, CLASSES)).sum() * -1.0,
    "smooth_l1": lambda w, x, t: F.smooth_l1_loss(logits(w, x), targets(x), beta=0.7),
    "huber": lambda w, x, t: F.huber_loss(logits(w, x), targets(x), delta=0.7),
    "poisson": lambda w, x, t: F.poisson_nll_loss(logits(w, x), targets(x)),
    "margin_ranking": lambda w, x, t: F.margin_ranking_loss(logits(w, x), targets(x), x[:, CLASSES:].sign()),
    "hinge_embedding": lambda w, x, t: F.hinge_embedding_loss(logits(w, x), x[:, CLASSES:].sign()),
    "cosine_embedding": lambda w, x, t: F.cosine_embedding_loss(logits(w, x), targets(x), x[:, 0].sign()),
    "triplet": lambda w, x, t: F.triplet_margin_loss(logits(w, x), targets(x), x[:, CLASSES:]),
    "triplet_swapped": lambda w, x, t: F.triplet_margin_loss(logits(w, x), targets(x), x[:, CLASSES:], 2.0, swap=True),
    "gather": lambda w, x, t: logits(w, x).gather(1, t[:, None]),
    "take_along_dim": lambda w, x, t: torch.take_along_dim(logits(w, x), t[:, None], 1),
    "embedding": lambda w, x, t: F.embedding(t, w) * x,
    "embedding_padded": lambda w, x, t: F.embedding(t, w, padding_idx=1) * x,
    "index_select": lambda w, x, t: w.index_select(0, t) * x,
    "index_add": lambda w, x, t: w.new_zeros(CLASSES, CLASSES).index_add(0, t, logits(w, x), alpha=0.5),
    "index_copy": lambda w, x, t: logits(w, x).index_copy(1, torch.tensor([2, 0]), x[:, :2]),
    "scatter": lambda w, x, t: logits(w, x).scatter(1, t[:, None], x[:, :1]),
    "scatter_number": lambda w, x, t: logits(w, x).scatter(1, t[:, None], 0.5),
    "scatter_add": lambda w, x, t: logits(w, x).scatter_add(1, t[:, None], logits(w, x)[:, 1:2]),
    "scatter_reduce": lambda w, x, t: logits(w, x).scatter_reduce(1, t[:, None], x[:, :1], "amax"),
    "sort": lambda w, x, t: logits(w, x).sort(1).values,
    "topk": lambda w, x, t: logits(w, x).topk(2, 1).values,
    "attention": lambda w, x, t: F.scaled_dot_product_attention(*(logits(w, x)[None, None] * i for i in (1, 2, 3))),
    "attention_masked": lambda w, x, t: F.scaled_dot_product_attention(
        *(logits(w, x)[None, None] * i for i in (1, 2, 3)), attn_mask=t[None, :] == t[:, None]
    ),
}

EAGER_REFUSES: dict[str, tuple[str, ...]] = {
    "one_hot": ("samples",),  # PyTorch's one_hot asks for the largest label
    "huber": ("product",),  # PyTorch has no forward derivative of its gradient
    "attention": ("product", "hessian"),  # PyTorch's fused attention has no second derivative
    "attention_masked": ("product", "hessian"),
}
"""What PyTorch itself cannot do: {function: transforms}."""


def transformed(fn: Function) -> dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]]:
    """Return the function's transforms; they take the weights, an ensemble of weights, the inputs and the labels."""

    def loss(w: Tensor, x: Tensor, t: Tensor) -> Tensor:
        value = fn(w, x, t)
        return value.square().sum() if value.dim() else value

    def one(w: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return loss(w, x[None], t[None])

    return {
        "ensemble": lambda w, many, x, t: vmap(fn, (0, None, None))(many, x, t),
        "ensemble gradients": lambda w, many, x, t: vmap(grad(loss), (0, None, None))(many, x, t),
        "samples": lambda w, many, x, t: vmap(grad(one), (None, 0, 0))(w, x, t),
        "product": lambda w, many, x, t: jvp(lambda w: grad(loss)(w, x, t), (w,), (w.cos(),))[1],
        "hessian": lambda w, many, x, t: hessian(loss)(w, x, t),
    }


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
