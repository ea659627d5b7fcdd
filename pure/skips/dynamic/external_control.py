"""Dynamic depth: a branch that runs only when a control signal exceeds a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pure import tree
from pure.block import EMPTY, Applied, Block, Extras, Params, Shape, State
from pure.children import extra_keys, refuse, run_child
from pure.errors import ArgumentError, ShapeError
from pure.layers.alignment import align
from pure.skips.dynamic.branching import condition
from pure.tags import tag, watching
from pure.tree import Tree

__all__ = ["Dynamic"]

Mode = Literal["select", "branch", "static"]


@dataclass(frozen=True, repr=False)
class Dynamic(Block):
    """y = f(x) if extras["control"] > threshold else x.

    Three modes that agree:

    - "select" (default) computes f and selects by `torch.where`; differentiable and mappable by every `torch.func`
      transform, as in training.
    - "branch" computes f only when it is needed, by `torch.cond`: for inference, and an `If` in ONNX. The transforms
      that PyTorch does not define for `torch.cond` (grad, vjp, jvp) need "select".
    - "static" takes a Python bool and leaves the other path out of the program.

    extras: `control`, a float or a tensor of shape () or (1,) for the whole batch, or (batch,) for one a sample; in
    static mode a bool.

    Tags: "gate" (1 where f is taken), "stream" (y).

    Args:
        branch: f, a block that keeps the input's shape and, in "branch" mode, has no state.
        threshold: f runs where the control is strictly greater; a NaN control never exceeds it.
        mode: "select", "branch" or "static".

    Raises:
        ArgumentError: no control, a control of the wrong kind, or an unknown mode.
        ShapeError: a control of another shape, or a branch that changes the shape.

    Example:
        >>> from pure.layers import Activation
        >>> block = Dynamic(Activation("relu"))
        >>> block({}, torch.tensor([[-1.0], [-1.0]]), {}, {"control": torch.tensor([0.9, 0.1])})
        tensor([[ 0.],
                [-1.]])
    """

    branch: Block
    threshold: float = 0.5
    mode: Mode = "select"

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ArgumentError(f"Dynamic mode={self.mode!r}: expected one of {', '.join(get_args(Mode))}")

    @property
    def has_params(self) -> bool | None:
        """Whether the branch has."""
        return self.branch.has_params

    def children(self) -> dict[str, Block]:
        """Return the branch."""
        return {"branch": self.branch}

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Return f(x) or x, and the new state where f was taken."""
        if self.has_params is not None and len(params) != int(self.has_params):
            raise extra_keys(self, params)
        if "control" not in extras:
            raise ArgumentError(
                f"Dynamic: extras hold {sorted(extras)}, expected 'control': pass extras={{'control': c}}"
            )
        if not isinstance(x, Tensor):
            refuse(self, x, TypeError())
        control = extras["control"]
        if self.mode == "static":
            return self._static(params, x, state, extras, training, noise, control)
        taken = self._taken(control, x)
        if self.mode == "branch":
            return self._branch(params, x, state, extras, training, noise, taken), state
        new_state: State = {}
        f = self._run(params, x, state, extras, training, noise, new_state)
        if watching():
            tag(taken.to(x.dtype), "gate", kind="gate")
        y = torch.where(taken if taken.ndim == 0 else align(taken, x), f, x)
        if new_state:
            kept = taken.any()
            new_state = tree.tree_map(lambda new, old: torch.where(kept, new, old), new_state, state)
        return tag(y, "stream"), new_state

    def _run(
        self,
        params: Params,
        x: Any,
        state: State,
        extras: Extras,
        training: bool,
        noise: Any,
        new_state: State,
    ) -> Any:
        f = run_child(self, "branch", self.branch, params, x, state, extras, training, noise, new_state)
        if f.shape != x.shape:
            raise ShapeError(
                f"Dynamic: branch {tuple(f.shape)} for input {tuple(x.shape)}: a skipped branch keeps the shape"
            )
        return f

    def _static(
        self,
        params: Params,
        x: Any,
        state: State,
        extras: Extras,
        training: bool,
        noise: Any,
        control: Any,
    ) -> tuple[Any, State]:
        if not isinstance(control, bool):
            raise ArgumentError(
                f"Dynamic static mode: control is {type(control).__name__}, expected a Python bool: "
                "use mode='select' or 'branch' for a tensor"
            )
        if not control:
            return tag(x, "stream"), state
        new_state: State = {}
        return tag(self._run(params, x, state, extras, training, noise, new_state), "stream"), new_state

    def _taken(self, control: Any, x: Tensor) -> Tensor:
        """Return the comparison with the threshold, of shape (), or (batch,)."""
        if isinstance(control, bool) or not isinstance(control, float | int | Tensor):
            raise ArgumentError(f"Dynamic: control is {type(control).__name__}, expected a float or a tensor")
        value = torch.as_tensor(control, device=x.device)
        if value.ndim == 1 and value.shape[0] == 1:
            value = value.reshape(())
        if value.ndim > 1 or (value.ndim == 1 and value.shape[0] != x.shape[0]):
            raise ShapeError(
                f"Dynamic: control of shape {tuple(value.shape)} for a batch of {x.shape[0]}: "
                "expected () or (1,) for the batch, or one a sample"
            )
        return value > self.threshold

    def _branch(
        self,
        params: Params,
        x: Any,
        state: State,
        extras: Extras,
        training: bool,
        noise: Any,
        taken: Tensor,
    ) -> Any:
        if state:
            raise ArgumentError(
                f"Dynamic branch mode: {self.branch} has state, which torch.cond cannot return: use 'select'"
            )

        def run(x: Tensor) -> Tensor:
            f: Tensor = self._run(params, x, state, extras, training, noise, {})
            return (f if taken.ndim == 0 else torch.where(align(taken, x), f, x)).contiguous()

        def skip(x: Tensor) -> Tensor:
            return x.clone(memory_format=torch.contiguous_format)  # torch.cond wants equal strides, and no alias

        y = condition(taken if taken.ndim == 0 else taken.any(), run, skip, (x,))
        return tag(y, "stream")
