"""LAuReL: residual connections with learnt scalars and a learnt low-rank map."""

from __future__ import annotations

from pure.block import Block
from pure.compose import Sequential
from pure.errors import ArgumentError
from pure.initializers import Constant
from pure.layers.linear import Linear
from pure.layers.scale import Scale
from pure.skips.additive.residual import Residual
from pure.skips.additive.shortcut import Identity

__all__ = ["laurel"]


def laurel(branch: Block, *, features: int | None = None, rank: int | None = None, weighted: bool = True) -> Residual:
    """Return the learned augmented residual block y = α f(x) + β (x + B A x).

    At first α = β = 1 and B = 0: the plain residual block. The paper's scalars may also pass a softmax; these do not.

    Args:
        branch: f, which keeps the input's shape.
        features: size of the last axis, for the low-rank map.
        rank: rank of B A; None leaves the map out (LAuReL-RW).
        weighted: whether α and β are learnt; without them a low-rank map alone is left (LAuReL-LR).

    Raises:
        ArgumentError: a rank without features or below 1, or neither scalars nor a rank.

    Source: Menghani et al. 2024 (2411.07501), section 2: LAuReL-RW and LAuReL-LR. `EarlierOutputs` is LAuReL-PA.

    Example:
        >>> import pure, torch
        >>> block = laurel(pure.Linear(4, 4), features=4, rank=2)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> list(pure.flatten(params))[2:4]
        ['branch.alpha.weight', 'shortcut.x.branch.down.weight']
    """
    if rank is None and not weighted:
        raise ArgumentError("laurel without rank and weights is Residual: give rank=…, or weighted=True")
    shortcut: Block = Identity()
    if rank is not None:
        if features is None or rank < 1:
            raise ArgumentError(f"laurel rank={rank}, features={features}: expected features and a rank of at least 1")
        up = Linear(rank, features, bias=False, weight_init=Constant(0.0))
        shortcut = Residual(Sequential(down=Linear(features, rank, bias=False), up=up))
    if weighted:
        shortcut = Scale() if rank is None else Sequential(x=shortcut, beta=Scale())
        branch = Sequential(f=branch, alpha=Scale())
    return Residual(branch, shortcut)
