"""Dynamic depth: a branch that runs only when a control signal exceeds a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pure import tree
from pure.block import EMPTY, Applied, Block, Reading, Shape
from pure.children import Runner, raise_unless_tensor
from pure.composite import Composite
from pure.errors import ArgumentError, ShapeError
from pure.layers.alignment import align
from pure.skips.dynamic.branching import condition
from pure.tags import tag, watching
from pure.tree import Tree

__all__ = ["Dynamic"]

Mode = Literal["select", "branch", "static"]


@dataclass(frozen=True, repr=False)
class Dynamic(Composite):
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
        super().__post_init__()

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Return f(x) or x, and the new state where f was taken."""
        if "control" not in extras:
            raise ArgumentError(
                f"Dynamic: extras hold {sorted(extras)}, expected 'control': pass extras={{'control': c}}"
            )
        if not isinstance(x, Tensor):
            raise_unless_tensor(self, x, TypeError())
        control = extras["control"]
        if self.mode != "select" and isinstance(extras, Reading):
            extras.complete = True  # what the branch reads is not known where it does not run
        run = self.runner(params, state, extras, training, noise)
        if self.mode == "static":
            return self._static(run, x, control), {**state, **run.new_state}
        taken = self._taken(control, x)
        if self.mode == "branch":
            return self._branch(run, x, taken), state
        f = self._run(run, x)
        if watching():
            tag(taken.to(x.dtype), "gate", kind="gate")
        y = torch.where(taken if taken.ndim == 0 else align(taken, x), f, x)
        new_state = run.new_state
        if new_state:
            kept = taken.any()
            new_state = tree.tree_map(lambda new, old: torch.where(kept, new, old), new_state, state)
        return tag(y, "stream"), new_state

    def _run(self, run: Runner, x: Any) -> Any:
        f = run("branch", x)
        if f.shape != x.shape:
            raise ShapeError(
                f"Dynamic: branch {tuple(f.shape)} for input {tuple(x.shape)}: a skipped branch keeps the shape"
            )
        return f

    def _static(self, run: Runner, x: Any, control: Any) -> Any:
        if not isinstance(control, bool):
            raise ArgumentError(
                f"Dynamic static mode: control is {type(control).__name__}, expected a Python bool: "
                "use mode='select' or 'branch' for a tensor"
            )
        return tag(self._run(run, x) if control else x, "stream")

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

    def _branch(self, run: Runner, x: Any, taken: Tensor) -> Any:
        run.keeps_state = False
        if run.state:
            raise ArgumentError(
                f"Dynamic branch mode: {self.branch} has state, which torch.cond cannot return: use 'select'"
            )

        def compute(x: Tensor) -> Tensor:
            f: Tensor = self._run(run, x)
            return (f if taken.ndim == 0 else torch.where(align(taken, x), f, x)).contiguous()

        def skip(x: Tensor) -> Tensor:
            return x.clone(memory_format=torch.contiguous_format)  # torch.cond wants equal strides, and no alias

        return tag(condition(taken if taken.ndim == 0 else taken.any(), compute, skip, (x,)), "stream")
