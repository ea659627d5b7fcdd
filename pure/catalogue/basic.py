"""Basic cases: shortcuts, residual, gated, dense and dynamic blocks, compositions."""

from __future__ import annotations

from typing import Final

from pure.catalogue.cases import Case
from pure.catalogue.parts import HE, IMAGE, ROWS, conv, mlp
from pure.compose import Parallel, Repeat, Sequential
from pure.layers import Activation, Conv2d, Linear
from pure.skips import AvgPoolProject, Crop, DenseSkip, Dynamic, Highway, Interpolate, Pad, Project, Residual

__all__ = ["CASES"]

CASES: Final[tuple[Case, ...]] = (
    Case("project", "shortcut", lambda: Project(4, 6, stride=2, norm=True), IMAGE, "BN(W x)", f"{HE}, option B"),
    Case(
        "pad",
        "shortcut",
        lambda: Residual(Conv2d(4, 6, 3, padding=1, stride=2), Pad(stride=2)),
        IMAGE,
        "[x, 0] + f(x)",
        f"{HE}, option A",
    ),
    Case(
        "pad_centred",
        "shortcut",
        lambda: Residual(Conv2d(4, 7, 3, padding=1), Pad(where="centred")),
        IMAGE,
        "[0, x, 0] + f(x)",
        f"{HE}, option A",
    ),
    Case("crop", "shortcut", lambda: Residual(Conv2d(4, 4, 3), Crop()), IMAGE, "centre(x) + f(x)", "1505.04597"),
    Case(
        "interpolate",
        "shortcut",
        lambda: Residual(Conv2d(4, 4, 3), Interpolate()),
        IMAGE,
        "bilinear(x) + f(x)",
        "torch.nn.functional.interpolate",
    ),
    Case(
        "avg_pool_project",
        "shortcut",
        lambda: Residual(Conv2d(4, 6, 3, stride=2, padding=1), AvgPoolProject(4, 6)),
        IMAGE,
        "BN(W pool(x)) + f(x)",
        "1812.01187, figure 2c",
    ),
    Case("residual_mlp_block", "additive", lambda: Residual(mlp(), scale=0.5), ROWS, "x + α W₂ σ(W₁ x)", HE),
    Case(
        "residual_conv",
        "additive",
        lambda: Residual(conv(4, 6, stride=2), Project(4, 6, stride=2, bias=False, norm=True), activation="relu"),
        IMAGE,
        "relu(S(x) + f(x))",
        f"{HE}, figure 2",
    ),
    Case("highway", "gated", lambda: Highway.dense(6), ROWS, "T ⊙ H(x) + (1 − T) ⊙ x", "1505.00387, equation 3"),
    Case(
        "dense_block",
        "dense",
        lambda: Sequential(DenseSkip(Linear(6, 3)), Activation("tanh"), DenseSkip(Linear(9, 3))),
        ROWS,
        "[x, f(x)]",
        "1608.06993, equation 2",
    ),
    Case(
        "dynamic_select",
        "dynamic",
        lambda: Dynamic(mlp()),
        ROWS,
        "f(x) if c > ½ else x",
        "torch.where",
        control=0.75,
    ),
    Case(
        "parallel",
        "composition",
        lambda: Parallel(Linear(6, 4), Sequential(Linear(6, 4), Activation("tanh")), join="product"),
        ROWS,
        "f₁(x) ⊙ f₂(x)",
        "composition",
    ),
    Case("repeat", "composition", lambda: Repeat(Residual(mlp()), 3), ROWS, "f ∘ f ∘ f, stacked", "composition"),
)
