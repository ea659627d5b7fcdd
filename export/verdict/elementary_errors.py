"""The error of ONNX Runtime's own elementary functions, as part of the rounding scale.

ONNX Runtime computes tanh and the logistic function of float32 by rational approximations. Its tanh is several times
coarser than PyTorch's, which is correct to half an ULP, and a derivative such as 1 - tanh² cancels near saturation and
shows that. A file has no better operator that is as fast, so where it would fail, eager is run again with ONNX
Runtime's kernels in the place of PyTorch's, and that error counts as rounding too. It is measured on the values at
hand, never assumed; and a kernel farther than `WORST_ULP` from float64 is no rounding and excuses nothing.
"""

from __future__ import annotations

import functools
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch.utils._python_dispatch import TorchDispatchMode

from export.runtime import sessions

__all__ = ["WORST_ULP", "Kernels", "coarser", "kernel"]

aten: Any = torch.ops.aten

KERNELS: dict[Any, str] = {aten.tanh.default: "Tanh", aten.sigmoid.default: "Sigmoid"}
"""Bounded functions whose kernels are coarser than PyTorch's."""

WORST_ULP = 8.0
"""The largest error of a kernel, in ULP at 1, that is still rounding; 4.5 was the largest found."""


@functools.cache
def _session(kind: str, device: str) -> Any:
    """Return a session of one node."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy")
    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"])], kind, [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return sessions.open_session(model.SerializeToString(), sessions.choose(device), spinning=False)


def kernel(kind: str, x: torch.Tensor, device: str = "cpu") -> torch.Tensor:
    """Compute an elementary function by ONNX Runtime's kernel.

    Args:
        kind: the ONNX operator.
        x: a float32 tensor.
        device: where the kernel runs.
    """
    (y,) = _session(kind, device).run(None, {"x": x.detach().cpu().reshape(-1).contiguous().numpy()})
    return torch.from_numpy(y).reshape(x.shape).to(x.device)


class Kernels(TorchDispatchMode):
    """Computes elementary functions by ONNX Runtime's kernels, where those are within `WORST_ULP` of float64.

    Args:
        device: where the kernels run.
    """

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in KERNELS or result.dtype != torch.float32 or not result.numel():
            return result
        found = kernel(KERNELS[func], args[0], self.device)
        error = float((found.double() - func(args[0].double())).abs().max())
        return found if error <= WORST_ULP * torch.finfo(torch.float32).eps else result


def coarser(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return which of these functions a file computes."""
    return tuple(sorted({node.op_type for node in model.graph.node} & set(KERNELS.values())))
