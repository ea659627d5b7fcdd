"""transformers in float64: its casts to float32 are lifted, and its dropout takes masks that were drawn before."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Lifted(TorchFunctionMode):
    """Inside, every float32 that a library asks for is a float64, and dropout multiplies by the next of `masks`.

    The libraries compute norms, rotary tables and softmax by `.to(torch.float32)`, `.float()` and
    `softmax(…, dtype=torch.float32)`, which would hide a difference from a float64 computation. Under autocast, whose
    own rounding is looked at, nothing is lifted.
    """

    def __init__(self, masks: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.masks = list(masks)

    def __enter__(self) -> "Lifted":
        self.default = torch.get_default_dtype()
        self.lifts = not torch.is_autocast_enabled("cpu")
        if self.lifts:
            torch.set_default_dtype(torch.float64)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        torch.set_default_dtype(self.default)
        super().__exit__(*error)
        if error[0] is None:
            assert not self.masks, f"{len(self.masks)} masks were not used"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def lift(value: Any) -> Any:
            return torch.float64 if self.lifts and value is torch.float32 else value

        args, kwargs = tuple(map(lift, args)), {name: lift(value) for name, value in (kwargs or {}).items()}
        if func is Tensor.float and self.lifts:
            func = Tensor.double
        if func is F.dropout:
            return self.dropout(*args, **kwargs)
        return func(*args, **kwargs)

    def dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or not p:
            return x
        mask = self.masks.pop(0)
        assert mask.shape == x.shape
        return x * mask / (1 - p)
