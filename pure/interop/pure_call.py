"""A module called as a pure function of its parameters and buffers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from threading import RLock, get_ident
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import VmapInterpreter, retrieve_all_functorch_interpreters
from torch.func import functional_call

from pure import tree
from pure.errors import PureExportError, UnsupportedError
from pure.interop.argument_copies import own, tensors_of
from pure.interop.made_buffers import raise_unless_remade
from pure.interop.module_contents import Contents, computed_tensors, reachable
from pure.interop.one_path import GRAPH_CODE, ONE_PATH, SEEN_THROUGH
from pure.interop.parameter_writes import ParameterWrite, WatchWrites, unwrapped
from pure.interop.replaced.composed_kernels import ComposedKernels, TransformType, active, transformed
from pure.interop.replaced.counter_noise import CounterNoise
from pure.interop.replaced.cumulative_batch_norm import make_cumulative
from pure.interop.replaced.random_draws import ReplacedDraws, may_draw
from pure.interop.replaced.unseen_draws import UnseenDraws
from pure.interop.tagging.module_hooks import FOLLOWERS, unfollowed

__all__ = ["PureCall"]

_Result = tuple[Any, dict[str, Tensor]]
"""The output and the new buffers."""


class _WithBuffers(nn.Module):
    """A module that returns its buffers with its output, so that a buffer which forward replaces is not lost."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
        y = self.inner(*args, **kwargs)
        return y, dict(self.inner.named_buffers())


def _copied(module: nn.Module) -> tuple[nn.Module, list[Tensor]]:
    """Return a copy of a module whose parameters and buffers hold no values, and what it holds of earlier calls."""
    memo: dict[int, Tensor] = {
        id(leaf): nn.Parameter(leaf.to("meta"), leaf.requires_grad) for leaf in module.parameters()
    }
    memo |= {id(leaf): leaf.to("meta") for leaf in module.buffers()}
    # What autograd computed cannot be copied: what old weight_norm computes before each call, and what a call has kept.
    computed = [leaf for leaf in computed_tensors(module) if id(leaf) not in memo]
    memo |= {id(leaf): leaf.detach() for leaf in computed}
    result = copy.deepcopy(module, dict(memo))
    for part in result.modules():
        if getattr(part, "inplace", False) is True:  # nn.ReLU(inplace=True) would write to the caller's input
            setattr(part, "inplace", False)  # noqa: B010
    return result, [memo[id(leaf)] for leaf in computed]


def _raise_if_held(module: nn.Module, computed: Sequence[Tensor]) -> None:
    """Raise if a part still holds something that autograd computed, as from parameters that may be others now."""
    stale = {id(leaf) for leaf in computed}
    for path, part in module.named_modules():
        if not stale or part._forward_pre_hooks:  # such a hook computes it before each call, as old weight_norm does
            continue
        for name, value in vars(part).items():
            if name != "_modules" and any(id(held) in stale for held in reachable(value)):
                place = f"{path}.{name}" if path else name
                raise UnsupportedError(
                    f"from_module of {type(module).__name__}: {place!r} holds a tensor computed in an earlier call, "
                    "which would not follow the parameters: clear it, or convert the module before its first call"
                )


def _versions(leaves: Iterable[Tensor]) -> list[int]:
    """Return how often each tensor was written to, also where transforms have wrapped it."""
    if torch._C._functorch.maybe_current_level() is None:
        return [0 if leaf.is_inference() else leaf._version for leaf in leaves]
    return [0 if leaf.is_inference() else leaf._version for leaf in map(unwrapped, leaves)]


def _copies(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: leaf.clone() for name, leaf in leaves.items()}


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _each_its_own(buffers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies that every active vmap maps."""
    one = torch.ones((), dtype=torch.uint8)
    for level in retrieve_all_functorch_interpreters():
        if isinstance(level, VmapInterpreter):
            many = one.expand(int(level.batch_size()), *one.shape)
            one = torch._C._functorch._add_batch_dim(many, 0, level.level())
    return {
        name: leaf * one.to(device=leaf.device, dtype=leaf.dtype) if leaf.numel() else leaf
        for name, leaf in buffers.items()
    }


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) and value.requires_grad else value


class _Given(NamedTuple):
    """What a call is given: leaves by dotted name, forward's arguments."""

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def tensors(self) -> tuple[Tensor, ...]:
        """Return what forward must not write to: the parameters and its arguments."""
        return (*self.params.values(), *tensors_of(self.args, self.kwargs))


class PureCall:
    """A copy of a module that each call finds as it was at first, and that leaves the tensors it is given unchanged.

    Calls from several threads run one after another.

    Args:
        module: the module; it is left as it is.
        training: whether to put all parts in training mode, where the module itself is not, or in evaluation mode.

    Attributes:
        module: the copy; its parameters and buffers are on the meta device.
        may_draw: whether a call may draw random numbers, as far as is known.
    """

    def __init__(self, module: nn.Module, *, training: bool) -> None:
        self.module, computed = _copied(module)
        if not (training and module.training):  # else parts keep their modes, as a BatchNorm frozen on purpose
            self.module.train()  # many modules that keep something in evaluation forget it here
            self.module.train(training)
        _raise_if_held(self.module, computed)
        make_cumulative(self.module)
        self._target = _WithBuffers(self.module)
        self._contents = Contents(self._target, shared=module)
        self._training = training
        self.may_draw = training and may_draw(self.module)
        self._makes_parameters = False  # whether forward draws initial values, of parts that it makes
        self._writes_mapped = False  # whether forward under vmap writes what differs between samples to buffers
        self._remade: set[str] = set()  # buffers that forward makes in each call and no other call needs
        self._lock = RLock()  # a call gives the one copy its tensors
        self._writes: bool | None = None  # whether forward writes to what it is given; None before the first call

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has, which is all but the lock."""
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        """Take it over, with a lock of its own."""
        vars(self).update(attributes, _lock=RLock())

    def __call__(
        self,
        params: dict[str, Tensor],
        buffers: dict[str, Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        seed: Tensor | None = None,
    ) -> tuple[Any, dict[str, Tensor]]:
        """Return the output and the new buffers; what is given is not written to.

        Args:
            params: the parameters, by dotted name.
            buffers: the buffers, likewise.
            args: forward's positional arguments.
            kwargs: its keyword arguments.
            seed: (batch,) from which random draws are computed; None to have none.

        Raises:
            NoiseError: forward draws, and there is no seed.
            UnsupportedError: forward wrote to its parameters, which it had not done in its first call, or drew in a way
                that no noise can replay.
        """
        given = _Given(params, buffers, args, kwargs)
        if torch.compiler.is_dynamo_compiling():
            return self._drawing(given, seed)
        with self._lock:
            return self._transformed(given, seed)

    def _transformed(self, given: _Given, seed: Tensor | None) -> _Result:
        """Call the module with what transforms need."""
        if not transformed():
            return self._drawing(given, seed)
        with SEEN_THROUGH, ComposedKernels():
            if not active(TransformType.Vmap):
                return self._drawing(given, seed)
            with GRAPH_CODE:  # other code looks at tensors' values, which vmap has not
                return self._mapped(given, seed)

    def _mapped(self, given: _Given, seed: Tensor | None) -> _Result:
        """Call the module under vmap; each of its samples has buffers of its own where forward writes to them."""
        if not self._writes_mapped:
            try:
                return self._drawing(given, seed)
            except RuntimeError as error:  # as PyTorch calls a write of mapped values to a buffer that is not mapped
                if not given.buffers or isinstance(error, PureExportError):
                    raise
                failure = error
            try:
                result = self._drawing(given._replace(buffers=_each_its_own(given.buffers)), seed)
            except RuntimeError:
                raise failure from None
            self._writes_mapped = True
            return result
        return self._drawing(given._replace(buffers=_each_its_own(given.buffers)), seed)

    def _drawing(self, given: _Given, seed: Tensor | None) -> _Result:
        """Call the module with random draws computed from the seed."""
        if not (
            self._training or self.may_draw or self._makes_parameters or self._writes is None
        ):  # the usual case, without a watch
            return self._written_to(given)
        if self.may_draw and torch.compiler.is_dynamo_compiling():
            return _eagerly(self, *given, seed)
        name = type(self.module).__name__

        def replaced() -> ReplacedDraws:
            return ReplacedDraws(None if seed is None else CounterNoise(seed), name)

        draws = replaced()
        if torch.compiler.is_dynamo_compiling():
            with draws:
                return self._written_to(given)
        before = torch.get_rng_state()
        try:
            with SEEN_THROUGH, draws:
                result = self._written_to(given)
        except ParameterWrite:  # which is known from now on: again, from the first draw
            return self._drawing(given, seed)
        finally:
            self.may_draw = self.may_draw or draws.drew
            self._makes_parameters = self._makes_parameters or draws.has_initial
        if torch.equal(torch.get_rng_state(), before):
            return result
        with SEEN_THROUGH, replaced(), UnseenDraws() as unseen:  # this thread, or another?
            result = self._written_to(given)
        if unseen.names:
            torch.set_rng_state(before)
            raise UnsupportedError(
                f"{name}: forward drew from PyTorch's global generator by a function that noise cannot replay "
                f"({unseen.names[0]}): draw with torch.rand or torch.randn"
            )
        return result

    def _written_to(self, given: _Given) -> _Result:
        """Call the module on copies of what it writes to."""
        if torch.compiler.is_dynamo_compiling():  # which has a checkpoint, kernels and a check of writes of its own
            try:
                params = given.params if self._writes is False else _copies(given.params)
                y, new = self._call(given._replace(params=params, buffers=_copies(given.buffers)))
            finally:
                self._contents.restore_compiled()
            if not new.keys() - given.buffers.keys() <= self._remade:  # whether these are state shows in an eager call
                return _eagerly(self, *given)
            return y, {name: leaf for name, leaf in new.items() if name in given.buffers}
        if self._writes is None:
            try:
                with SEEN_THROUGH, WatchWrites(given.tensors()):
                    result = self._from_start(given)
                self._writes = False
                return result
            except ParameterWrite:
                self._writes = True
                raise
        if self._writes:
            args, kwargs = tree.tree_map(_copy, (given.args, given.kwargs))
            return self._from_start(_Given(_copies(given.params), given.buffers, args, kwargs))
        tensors = given.tensors()
        before = _versions(tensors)
        result = self._from_start(given)
        after = _versions(tensors)
        if after != before:
            names = (*given.params, *(f"its argument {index}" for index in range(len(tensors) - len(given.params))))
            written = [name for name, old, new in zip(names, before, after, strict=True) if old != new]
            raise UnsupportedError(
                f"{type(self.module).__name__}: forward wrote to {written}, which it had not done in its first call: "
                "compute a new tensor in place of writing to a parameter or an argument"
            )
        return result

    def _from_start(self, given: _Given) -> _Result:
        """Call the module on copies of the buffers and put it back as it was, without the buffers that it has made."""

        def call() -> _Result:
            return self._call(_Given(given.params, _copies(given.buffers), own(given.args), own(given.kwargs)))

        try:
            with ONE_PATH:
                y, new = call()
        finally:
            self._contents.restore()
        made = new.keys() - given.buffers.keys()
        if not made <= self._remade:
            try:
                with ONE_PATH, SEEN_THROUGH, unfollowed():
                    raise_unless_remade(self.module, made, tensors_of(given.args, given.kwargs), call)
            finally:
                self._contents.restore()
            self._remade |= made
        return y, {name: leaf for name, leaf in new.items() if name not in made}

    def _call(self, given: _Given) -> _Result:
        """Return the output and the new buffers, in grad mode; without gradients where the caller wants none."""
        if torch.is_grad_enabled():
            return self._functional(given)
        params = {name: _detached(leaf) for name, leaf in given.params.items()}
        args, kwargs = tree.tree_map(_detached, (given.args, given.kwargs))
        with torch.enable_grad():
            result = self._functional(_Given(params, given.buffers, args, kwargs))
        return tree.tree_map(_detached, result)

    def _functional(self, given: _Given) -> _Result:
        leaves = {f"inner.{name}": leaf for name, leaf in (*given.params.items(), *given.buffers.items())}
        if FOLLOWERS and (followed := FOLLOWERS.get(get_ident())) is not None:
            with followed[0].around(leaves, given.args):
                return functional_call(self._target, leaves, given.args, given.kwargs)
        return functional_call(self._target, leaves, given.args, given.kwargs)


def _call_again(call: PureCall, *given: Any) -> tuple[Any, dict[str, Tensor]]:
    return call(*given)


_eagerly: Callable[..., tuple[Any, dict[str, Tensor]]] = torch.compiler.disable(
    _call_again, reason="TorchDynamo hides some draws, as those of torch.rand_like, from function modes"
)
