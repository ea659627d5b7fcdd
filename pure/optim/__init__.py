"""Optimisers as pairs of pure functions, `init(params)` and `update(grads, state, params)`, in optax's form.

    optimizer = chain(clip_by_global_norm(1.0), adamw(warmup_cosine_decay_schedule(0.0, 1e-3, 100, 10_000)))
    opt_state = optimizer.init(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = apply_updates(params, updates)

`optimizer.step(grads, opt_state, params)` does the last two lines at once. Trees in, trees out; nothing is changed in
place, so that steps compose with `torch.func.vmap` (an ensemble trained at once), `torch.compile` and export.
"""

from pure.optim.loss_scaling import dynamic_loss_scale
from pure.optim.optimizers import adam, adamw, lamb, lion, sgd
from pure.optim.orthogonal import muon, orthogonalize, scale_by_muon
from pure.optim.schedules import (
    constant_schedule,
    cosine_decay_schedule,
    cosine_onecycle_schedule,
    exponential_decay,
    join_schedules,
    linear_onecycle_schedule,
    linear_schedule,
    piecewise_constant_schedule,
    warmup_cosine_decay_schedule,
)
from pure.optim.selection import apply_if_finite, masked, multi_transform
from pure.optim.transformation import GradientTransformation, apply_updates, chain
from pure.optim.transforms import (
    add_decayed_weights,
    clip,
    clip_by_global_norm,
    ema,
    global_norm,
    scale,
    scale_by_adam,
    scale_by_learning_rate,
    scale_by_lion,
    scale_by_schedule,
    scale_by_trust_ratio,
    trace,
)

__all__ = [
    "GradientTransformation",
    "adam",
    "adamw",
    "add_decayed_weights",
    "apply_if_finite",
    "apply_updates",
    "chain",
    "clip",
    "clip_by_global_norm",
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "dynamic_loss_scale",
    "ema",
    "exponential_decay",
    "global_norm",
    "join_schedules",
    "lamb",
    "linear_onecycle_schedule",
    "linear_schedule",
    "lion",
    "masked",
    "multi_transform",
    "muon",
    "orthogonalize",
    "piecewise_constant_schedule",
    "scale",
    "scale_by_adam",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_muon",
    "scale_by_schedule",
    "scale_by_trust_ratio",
    "sgd",
    "trace",
    "warmup_cosine_decay_schedule",
]
