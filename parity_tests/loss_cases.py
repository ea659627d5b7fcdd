"""Every loss and indexing operator of PyTorch as a function of weights, inputs and labels, and its transforms."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, hessian, jvp, vmap

__all__ = [
    "CLASSES",
    "ENSEMBLE",
    "FEATURES",
    "INPUTS",
    "LABELS",
    "LOSSES",
    "MORE_LOSSES",
    "WEIGHTS",
    "Function",
    "transformed",
]

Function = Callable[[Tensor, Tensor, Tensor], Tensor]

CLASSES, FEATURES = 3, 6

GENERATOR = torch.Generator().manual_seed(0)
WEIGHTS = torch.randn(CLASSES, FEATURES, generator=GENERATOR)
ENSEMBLE = torch.stack([WEIGHTS, -0.5 * WEIGHTS])
INPUTS = torch.randn(5, FEATURES, generator=GENERATOR)
LABELS = torch.tensor([0, 1, 2, 0, 1])


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


def _signs(x: Tensor) -> Tensor:
    """Return labels of ±1."""
    return x[:, CLASSES:].sign()


def _ctc(w: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Score three frames a sample against one label that is not the blank."""
    frames = torch.stack([logits(w, x * i) for i in (1.0, 0.5, 2.0)]).log_softmax(-1)
    lengths = torch.ones_like(t)
    return F.ctc_loss(frames, t.clamp(min=1)[:, None], lengths * 3, lengths)


MORE_LOSSES: dict[str, Function] = {
    "cross_entropy_none": lambda w, x, t: F.cross_entropy(logits(w, x), t, reduction="none"),
    "cross_entropy_everything": lambda w, x, t: F.cross_entropy(
        logits(w, x), t, weight=w[:, 0].exp(), ignore_index=2, label_smoothing=0.2, reduction="sum"
    ),
    "cross_entropy_probabilities_smooth": lambda w, x, t: F.cross_entropy(
        logits(w, x), targets(x), weight=w[:, 0].exp(), label_smoothing=0.1
    ),
    "cross_entropy_image": lambda w, x, t: F.cross_entropy(
        logits(w, x)[:, :, None, None].expand(-1, -1, 2, 2), t[:, None, None].expand(-1, 2, 2)
    ),
    "nll_weights": lambda w, x, t: F.nll_loss(logits(w, x).log_softmax(1), t, weight=w[:, 0].exp(), ignore_index=1),
    "nll_none": lambda w, x, t: F.nll_loss(logits(w, x).log_softmax(1), t, reduction="none"),
    "nll_image": lambda w, x, t: F.nll_loss(
        logits(w, x).log_softmax(1)[:, :, None, None].expand(-1, -1, 2, 2), t[:, None, None].expand(-1, 2, 2)
    ),
    "binary_cross_entropy_weight": lambda w, x, t: F.binary_cross_entropy(
        logits(w, x).sigmoid(), targets(x), weight=x[:, :CLASSES].exp(), reduction="sum"
    ),
    "binary_cross_entropy_with_logits_weights": lambda w, x, t: F.binary_cross_entropy_with_logits(
        logits(w, x), targets(x), weight=x[:, :CLASSES].exp(), pos_weight=w[:, 0].exp()
    ),
    "kl_div_mean": lambda w, x, t: F.kl_div(logits(w, x).log_softmax(1), targets(x), reduction="mean"),
    "kl_div_none": lambda w, x, t: F.kl_div(logits(w, x).log_softmax(1), targets(x), reduction="none"),
    "ctc": _ctc,
    "gaussian_nll": lambda w, x, t: F.gaussian_nll_loss(logits(w, x), targets(x), logits(w, x).square() + 0.5),
    "gaussian_nll_full": lambda w, x, t: F.gaussian_nll_loss(
        logits(w, x), targets(x), targets(x) + 0.1, full=True, reduction="sum"
    ),
    "poisson_full": lambda w, x, t: F.poisson_nll_loss(
        logits(w, x).exp(), targets(x) * 5, log_input=False, full=True, reduction="sum"
    ),
    "l1": lambda w, x, t: F.l1_loss(logits(w, x), targets(x)),
    "l1_sum": lambda w, x, t: F.l1_loss(logits(w, x), targets(x), reduction="sum"),
    "mse": lambda w, x, t: F.mse_loss(logits(w, x), targets(x)),
    "mse_none": lambda w, x, t: F.mse_loss(logits(w, x), targets(x), reduction="none"),
    "smooth_l1_sum": lambda w, x, t: F.smooth_l1_loss(logits(w, x), targets(x), reduction="sum", beta=2.0),
    "huber_none": lambda w, x, t: F.huber_loss(logits(w, x), targets(x), reduction="none"),
    "soft_margin": lambda w, x, t: F.soft_margin_loss(logits(w, x), _signs(x)),
    "multi_margin": lambda w, x, t: F.multi_margin_loss(logits(w, x), t),
    "multi_margin_square": lambda w, x, t: F.multi_margin_loss(
        logits(w, x), t, p=2, margin=0.7, weight=w[:, 0].exp().detach(), reduction="sum"
    ),
    "multilabel_margin": lambda w, x, t: F.multilabel_margin_loss(
        logits(w, x), torch.stack([t, torch.full_like(t, -1), torch.zeros_like(t)], 1)
    ),
    "multilabel_soft_margin": lambda w, x, t: F.multilabel_soft_margin_loss(
        logits(w, x), (targets(x) > 0.3).to(x.dtype)
    ),
    "margin_ranking_sum": lambda w, x, t: F.margin_ranking_loss(
        logits(w, x), targets(x), _signs(x), margin=0.3, reduction="sum"
    ),
    "hinge_embedding_sum": lambda w, x, t: F.hinge_embedding_loss(logits(w, x), _signs(x), 0.5, reduction="sum"),
    "cosine_embedding_margin": lambda w, x, t: F.cosine_embedding_loss(
        logits(w, x), targets(x), x[:, 0].sign(), margin=0.2, reduction="sum"
    ),
    "triplet_distance": lambda w, x, t: F.triplet_margin_with_distance_loss(
        logits(w, x), targets(x), x[:, CLASSES:], distance_function=lambda a, b: (a - b).square().sum(-1)
    ),
    "embedding_bag_sum": lambda w, x, t: F.embedding_bag(t[:, None].expand(-1, 2), w, mode="sum") * x,
    "embedding_bag_mean": lambda w, x, t: F.embedding_bag(t, w, torch.arange(0, 1), mode="mean") * x,
    "embedding_bag_weights": lambda w, x, t: F.embedding_bag(
        t[:, None].expand(-1, 2), w, mode="sum", per_sample_weights=x[:, :2]
    ),
    "embedding_bag_max": lambda w, x, t: F.embedding_bag(t[:, None].expand(-1, 2), w, mode="max") * x,
    "embedding_frequency": lambda w, x, t: F.embedding(t, w, scale_grad_by_freq=True) * x,
    "index": lambda w, x, t: w[t] * x,
    "index_two": lambda w, x, t: logits(w, x)[torch.arange(x.shape[0]), t],
    "index_put": lambda w, x, t: w.new_zeros(CLASSES, CLASSES).index_put((t,), logits(w, x), accumulate=True),
    "index_fill": lambda w, x, t: logits(w, x).index_fill(1, torch.tensor([0, 2]), 0.5),
    "index_reduce": lambda w, x, t: w.new_ones(CLASSES, CLASSES).index_reduce(0, t, logits(w, x), "mean"),
    "masked_fill": lambda w, x, t: logits(w, x).masked_fill(t[:, None] == 1, -2.0).logsumexp(1),
    "masked_scatter": lambda w, x, t: torch.where(t[:, None] == 1, x[:, :CLASSES], logits(w, x)),
    "scatter_reduce_sum": lambda w, x, t: logits(w, x).scatter_reduce(1, t[:, None], logits(w, x)[:, :1], "sum"),
    "scatter_reduce_mean": lambda w, x, t: logits(w, x).scatter_reduce(1, t[:, None], x[:, :1], "mean"),
    "scatter_reduce_prod": lambda w, x, t: logits(w, x).scatter_reduce(1, t[:, None], x[:, :1], "prod"),
    "scatter_reduce_amin": lambda w, x, t: logits(w, x).scatter_reduce(1, t[:, None], x[:, :1], "amin"),
    "select_scatter": lambda w, x, t: torch.select_scatter(logits(w, x), x[:, 0], 1, 1),
    "slice_scatter": lambda w, x, t: torch.slice_scatter(logits(w, x), x[:, :2], 1, 0, 2),
    "diagonal": lambda w, x, t: torch.diagonal(w[:, :CLASSES]) * logits(w, x),
    "attention_causal": lambda w, x, t: F.scaled_dot_product_attention(
        *(logits(w, x)[None, None] * i for i in (1, 2, 3)), is_causal=True
    ),
}
"""The other options of the losses, and the other ways to index."""


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
        "forward": lambda w, many, x, t: fn(w, x, t),
        "mapped": lambda w, many, x, t: vmap(lambda x, t: fn(w, x[None], t[None]))(x, t),
        "samples": lambda w, many, x, t: vmap(grad(one), (None, 0, 0))(w, x, t),
        "product": lambda w, many, x, t: jvp(lambda w: grad(loss)(w, x, t), (w,), (w.cos(),))[1],
        "hessian": lambda w, many, x, t: hessian(loss)(w, x, t),
    }
