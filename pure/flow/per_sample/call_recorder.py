"""Recognising the calls inside a function that are linear in a parameter: the one place where PyTorch is intercepted.

Per-sample gradients, the tangent kernel and Hessian products each derive a recorder, which decides how a call is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.flow.per_sample.convolution import CONVOLUTIONS
from pure.flow.per_sample.embedding import LOOKUPS
from pure.flow.per_sample.linear import PRODUCTS
from pure.flow.per_sample.norm_layers import NORMS
from pure.flow.per_sample.weight_use import Call, Parameters
from pure.flow.shared.input_checks import batch_norm_error
from pure.flow.shared.leaf_provenance import UNBIND, Provenance

__all__ = ["BATCH_NORMS", "CallRecorder"]

BATCH_NORMS = (F.batch_norm, torch.batch_norm)
TRANSPOSES: frozenset[Any] = frozenset(
    [
        *(Tensor.T.__get__, Tensor.mT.__get__, Tensor.t, torch.t, torch.transpose, Tensor.transpose),  # type: ignore[attr-defined]
        *(torch.swapaxes, Tensor.swapaxes, torch.permute, Tensor.permute),
    ]
)
RECOGNISED: dict[Any, Callable[..., Call | None]] = {**PRODUCTS, **CONVOLUTIONS, **LOOKUPS, **NORMS}
FOLLOWED: frozenset[Any] = frozenset([*RECOGNISED, *TRANSPOSES, *UNBIND, *BATCH_NORMS])


class CallRecorder(Provenance):
    """While it is active, gives each recognised call to `run`, and lets everything else pass.

    An operation inside a further transform, or where no gradient is recorded, is left alone.

    Args:
        stand_ins: {dotted name: the very tensor that the function sees in the parameter's place}.
        leaves: {dotted name: the parameter itself}.
        recognised: function → what reads its arguments.
        per_sample: whether the function is one sample's, in which batch statistics are an error.

    Raises:
        UnsupportedError: the function of one sample runs batch normalisation by batch statistics.
    """

    def __init__(
        self,
        stand_ins: Mapping[str, Tensor],
        leaves: Mapping[str, Tensor],
        *,
        recognised: Mapping[Any, Callable[..., Call | None]] = RECOGNISED,
        per_sample: bool = True,
    ) -> None:
        super().__init__(stand_ins)
        self.parameters = Parameters(self.origin, leaves)
        self._recognised = recognised
        self._per_sample = per_sample
        self._level = torch._C._functorch.maybe_current_level()

    def run(self, call: Call) -> Tensor | None:
        """Run a recognised call; None leaves it as it is."""
        raise NotImplementedError

    def passed(self, args: tuple[Any, ...], out: object) -> None:
        """See a call that was not recognised."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Give recognised calls to `run`, refuse batch statistics, and run the rest."""
        if func not in FOLLOWED:
            out = func(*args, **kwargs) if kwargs else func(*args)
            self.passed(args, out)
            return out
        kwargs = kwargs or {}
        if self._per_sample and func in BATCH_NORMS and (args[5] if len(args) > 5 else kwargs.get("training", False)):
            raise batch_norm_error()
        if torch._C._functorch.maybe_current_level() != self._level:
            return super().__torch_function__(func, types, args, kwargs)
        recognise = self._recognised.get(func)
        if recognise is not None and torch.is_grad_enabled():
            call = recognise(self.parameters, *args, **kwargs)
            y = None if call is None else self.run(call)
            if call is not None and y is not None:
                return call.finish(y)
        out = super().__torch_function__(func, types, args, kwargs)
        if func in TRANSPOSES:
            self._follow_transpose(func, args, kwargs, out)
        else:
            self.passed(args, out)
        return out

    def _follow_transpose(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: object) -> None:
        """Follow the transpose of a matrix, and the transpose of that."""
        transposes = self.parameters.transposes
        matrix = args[0] if args else None
        if isinstance(matrix, Tensor) and isinstance(out, Tensor) and matrix.ndim == 2:
            origin = self.origin(matrix)
            back = transposes.get(id(matrix))
            swapped = func(torch.empty(2, 3, device="meta"), *args[1:], **kwargs).shape == (3, 2)
            if origin is not None and swapped:
                transposes[id(out)] = out, origin
            elif back is not None and swapped:
                self._register(out, back[1])
            elif back is not None:
                transposes[id(out)] = out, back[1]
