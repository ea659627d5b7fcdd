"""`jit`: a pure torch function, compiled by ONNX Runtime, called on torch tensors without a copy in or out.

A call is recognised by the structure of its arguments, the dtypes, shapes and devices of their tensors, and what else
is a plain value. The first call of a kind traces and compiles; later ones hand the tensors' memory to the session, and
its results become tensors where they lie.
"""

from __future__ import annotations

import dataclasses
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor, peek_interpreter_stack
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from export.compiler.call_kinds import ambient, walk
from export.compiler.compiled_call import Compilation, Program, Watched
from export.compiler.cuda_graph import CudaGraphProgram, check_is_fixed
from export.compiler.ordered_session import open_ordered
from export.errors import ArgumentError, ExportError
from export.footprint.byte_text import in_mib
from export.graph.onnx_export import DEFAULT_OPSET, baked_positions, count_nodes, translate
from export.graph.onnx_types import dtype_name
from export.ops.registry import LOWERINGS
from export.runtime import sessions
from export.trace import isolation
from export.trace.arguments import take_apart
from export.trace.aten_graph import Traced, record
from export.trace.purity import graphs
from export.trace.signature import check_callable, function_name
from pure.tree import tree_flatten
from pure.tree.plain import is_wrapper
from pure_export_shared import raise_unless_pickles

__all__ = ["Compilation", "Jitted", "jit"]


def jit(
    fn: Callable[..., Any],
    *,
    bake: Sequence[int] = (),
    device: str = "auto",
    cache_size: int = 64,
    tf32: bool = False,
    cuda_graph: bool = False,
    gpu_mem_limit: int | None = None,
) -> Jitted:
    """Compile a pure function by ONNX Runtime, at its first call for each kind of arguments.

    Tensors that the function captures are compiled in. A change in place is seen and compiles again; another tensor
    under the same name is not, so whatever is replaced, such as trained parameters, should be an argument. The
    compiled function has no gradient and is opaque to transforms and tracers, which belong inside of it.

    Args:
        fn: any pure function over pytrees of tensors, transforms of `torch.func` included:
            `jit(vmap(grad(loss), (None, 0)))`.
        bake: positions of arguments whose tensors are compiled in, such as the weights in inference. They are
            recognised by identity and version: another tensor, or one that was changed in place, compiles again.
        device: "cpu", "cuda", "cuda:1", or "auto", which takes the first GPU where ONNX Runtime can; the tensors
            should be there.
        cache_size: how many compilations are kept; the one unused for longest goes first.
        tf32: whether a GPU may round the factors of float32 products to TF32, as `torch.backends.cuda.matmul` and
            `torch.backends.cudnn` may for eager.
        cuda_graph: whether a GPU replays each compilation as one CUDA graph, which saves the time of launching kernels
            one by one: for small networks. Arguments and results are copied on the GPU then, and threads take turns;
            branches and loops are refused. A CPU has no such thing and takes no notice.
        gpu_mem_limit: bytes that ONNX Runtime's arena may take on a GPU, for each compilation, which leaves the rest to
            PyTorch; None for as many as there are.

    Returns:
        The function of the same arguments. `.report()` says what was compiled and where it runs.

    Raises:
        ArgumentError: if `fn` cannot be called, or `bake` or `cache_size` do not fit.
        ProviderError: if CUDA was asked for and something is missing.

    Example:
        >>> from torch.func import grad
        >>> slope = jit(grad(lambda x: (x**3).sum()))
        >>> slope(torch.tensor([1.0, 2.0]))
        tensor([ 3., 12.])
        >>> slope.report().splitlines()[0]
        'jit of lambda: 1 compilation, on cpu'
    """
    return Jitted(fn, bake, device, cache_size, tf32, cuda_graph, gpu_mem_limit)


class Jitted:
    """A compiled function; see `jit`."""

    def __init__(
        self,
        fn: Callable[..., Any],
        bake: Sequence[int],
        device: str,
        cache_size: int,
        tf32: bool = False,
        cuda_graph: bool = False,
        gpu_mem_limit: int | None = None,
    ) -> None:
        check_callable(fn)
        if cache_size < 1:
            raise ArgumentError(f"cache_size must be at least 1, got {cache_size!r}")
        if isinstance(bake, int):
            raise ArgumentError(f"bake must be a tuple of argument positions, got {bake!r}; write bake=({bake},)")
        self.fn = fn
        self._bake, self._cache_size = tuple(bake), cache_size
        self._asked = self._bake, device, cache_size, tf32, cuda_graph, gpu_mem_limit
        self._choice = sessions.choose(device, tf32, gpu_mem_limit)
        on_gpu = self._choice.device == "cuda"
        self._replayed = cuda_graph and on_gpu
        self._place = torch.device("cuda", self._choice.index) if on_gpu else torch.device("cpu")
        self._alive: dict[int, weakref.ref[Tensor]] = {}
        self._gone: deque[int] = deque()
        self._programs: OrderedDict[Hashable, Program] = OrderedDict()
        self._lock = threading.Lock()
        self.__wrapped__ = fn

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda" for the first GPU, "cuda:1" for the second."""
        return self._choice.place

    def __call__(self, *args: Any) -> Any:
        """Return the function's value; tensors are used where they lie, results are new tensors.

        Raises:
            ArgumentError: if a tensor requires grad, is inside a `torch.func` transform, or lies on another device.
            ExportError: at a first call, if the function cannot be compiled; see `to_onnx`.
        """
        baked = self._baked(args) if self._bake else frozenset()
        tensors: list[Tensor] = []
        parts: list[Hashable] = [ambient(self.device)]
        walk(args, self._place, baked, tensors, parts)
        if forward_ad._current_level >= 0 or torch._C._len_torch_dispatch_stack():
            self._refuse_watched(tensors)
        if peek_interpreter_stack() is not None and any(map(is_functorch_wrapped_tensor, tensors)):
            self._refuse(tensors)
        key = tuple(parts)
        try:
            with self._lock:
                program = self._programs.get(key)
                if program is not None:
                    self._programs.move_to_end(key)
        except TypeError:  # a part that has no hash
            take_apart(self.fn, args, None)  # which says what the argument is
            raise
        if program is None or program.stale():
            self._refuse(tensors)
            program = self._compile(key, args, baked)
        try:
            return program.run(tensors)
        except ExportError:  # a wrapper that outlived its transform looks like a tensor, and has no memory
            self._refuse(tensors)
            raise

    def _baked(self, args: tuple[Any, ...]) -> frozenset[int]:
        """Return the identities of the baked tensors, and forget what was compiled with tensors that are gone."""
        while self._gone:
            identity = self._gone.popleft()
            known = self._alive.get(identity)
            if known is not None and known() is None:
                del self._alive[identity]
                self._forget(identity)
        positions = baked_positions(self._bake, len(args))
        found = [leaf for i in positions for leaf in tree_flatten(args[i])[0] if isinstance(leaf, Tensor)]
        for leaf in found:
            if leaf.is_inference():
                raise ArgumentError(
                    f"jit({function_name(self.fn)}) cannot bake a tensor that was made in inference mode, since "
                    "nothing counts its changes; clone it outside of inference mode"
                )
            known = self._alive.get(id(leaf))
            if known is None or known() is not leaf:  # a new tensor may have the identity of one that is gone
                self._forget(id(leaf))
                self._alive[id(leaf)] = weakref.ref(leaf, _noting(self._gone, id(leaf)))
        return frozenset(map(id, found))

    def _forget(self, identity: int) -> None:
        """Drop what was compiled with a tensor that is gone."""
        with self._lock:
            for key in [key for key, program in self._programs.items() if identity in program.baked]:
                del self._programs[key]

    def _refuse_watched(self, tensors: Sequence[Tensor]) -> None:
        """Raise where someone follows the operations, of which compiled code shows none."""
        name = function_name(self.fn)
        if get_proxy_mode() is not None or any(isinstance(leaf, FakeTensor) for leaf in tensors):
            raise ArgumentError(
                f"jit({name}) was called while another function is traced, which cannot see into compiled code; trace "
                f"{name} itself: it is the attribute fn"
            )
        if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(leaf).tangent is not None for leaf in tensors):
            raise ArgumentError(f"jit({name}) has no tangents; compile them, jit(lambda x, t: jvp({name}, (x,), (t,)))")

    def _refuse(self, tensors: Sequence[Tensor]) -> None:
        """Raise for tensors that a compiled function cannot take."""
        name = function_name(self.fn)
        for leaf in tensors:
            if is_functorch_wrapped_tensor(leaf):
                raise ArgumentError(
                    f"jit({name}) was called inside a torch.func transform, which cannot see into compiled code; "
                    f"put the transform inside: jit(grad({name})), jit(vmap({name}))"
                )
            if is_wrapper(leaf):
                raise ArgumentError(
                    f"jit({name}) was given a {type(leaf).__name__}, a tensor class that computes by rules of its own, "
                    "and takes plain tensors: of a DTensor give x.to_local() or x.full_tensor()"
                )
            if leaf.requires_grad and torch.is_grad_enabled():
                raise ArgumentError(
                    f"jit({name}) was given a tensor that requires grad, but compiled code has no gradient; compile "
                    f"the gradient instead, jit(torch.func.grad({name})), or call it under torch.no_grad()"
                )
            if leaf.layout != torch.strided:
                raise ArgumentError(f"jit({name}) takes dense tensors and was given {leaf.layout}; use .to_dense()")
            if leaf.device != self._place:
                other = (
                    f", or choose jit(…, device={str(leaf.device)!r})" if leaf.device.type in ("cpu", "cuda") else ""
                )
                raise ArgumentError(
                    f"jit({name}) runs on {self._place} ({self._choice.why}) and was given a tensor on "
                    f"{leaf.device}; move it with .to('{self._place}'){other}"
                )

    def _compile(self, key: Hashable, args: tuple[Any, ...], identities: frozenset[int]) -> Program:
        with isolation.tracing_lock:
            with self._lock:
                program = self._programs.get(key)
            if program is None or program.stale():  # no other thread was faster
                program = self._build(args, identities)
            with self._lock:
                self._programs[key] = program
                self._programs.move_to_end(key)
                while len(self._programs) > self._cache_size:
                    self._programs.popitem(last=False)
        return program

    def _build(self, args: tuple[Any, ...], identities: frozenset[int]) -> Program:
        start = time.perf_counter()
        arguments = take_apart(self.fn, args, None)
        traced = record(self.fn, arguments, LOWERINGS)
        captured = self._captured(traced)
        if not traced.out_names:
            raise ArgumentError(f"jit({function_name(self.fn)}): the function returns no tensor")
        baked = baked_positions(self._bake, len(args))
        proto, inside = translate(traced, baked, DEFAULT_OPSET, check=False, target=self._choice.device)
        if self._replayed:
            check_is_fixed(proto.graph)
        traced_at = time.perf_counter()
        stream = torch.cuda.Stream(self._place) if self._place.type == "cuda" else None
        choice = self._choice if stream is None else dataclasses.replace(self._choice, stream=stream.cuda_stream)
        session, needed = open_ordered(proto, choice, cuda_graph=self._replayed)
        done = time.perf_counter()
        given = {value.name for value in session.get_inputs()}
        leaves = arguments.leaves
        inputs = [(i, name) for i, name in enumerate(arguments.leaf_names) if name in given]
        examples = zip(traced.out_names, traced.outputs, strict=True)
        outputs = [(name, example.dtype, tuple(map(int, example.shape))) for name, example in examples]
        kinds = {name: f"{dtype_name(leaves[i].dtype)}{list(leaves[i].shape)}" for i, name in inputs}
        spent = traced_at - start, done - traced_at
        report = Compilation(kinds, inside, count_nodes(proto.graph), *spent, self.device, self._replayed, needed)
        known = session, inputs, leaves, outputs, traced.out_structure, captured, identities, report, stream
        return CudaGraphProgram(*known, examples=traced.outputs) if self._replayed else Program(*known)

    def _captured(self, traced: Traced) -> list[Watched]:
        """Return the tensors that the function captured, as they are now."""
        found: list[Watched] = []
        for module in graphs(traced.graph):
            for node in module.graph.find_nodes(op="get_attr"):
                value = getattr(module, str(node.target), None)
                if isinstance(value, Tensor) and not isinstance(value, FakeTensor):
                    if value.is_inference():
                        raise ArgumentError(
                            f"jit({function_name(self.fn)}) captured a tensor that was made in inference mode, and "
                            "nothing counts its changes; clone it outside of inference mode, or pass it as an argument"
                        )
                    found.append((weakref.ref(value), value._version, value.data_ptr()))
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickle keeps: the function and the options; what was compiled is compiled again where it arrives.

        Raises:
            ArgumentError: the function does not pickle.
        """
        raise_unless_pickles("jit", function=self.fn)
        return Jitted, (self.fn, *self._asked)

    def compilations(self) -> list[Compilation]:
        """Return what is compiled now, the one used last at the end."""
        with self._lock:
            return [program.compilation for program in self._programs.values()]

    def clear(self) -> None:
        """Forget everything that was compiled."""
        with self._lock:
            self._programs.clear()
            self._alive.clear()

    def report(self) -> str:
        """Say what was compiled, how long that took, and where it runs."""
        found = self.compilations()
        lines = [
            f"jit of {function_name(self.fn)}: {len(found)} compilation{'s' * (len(found) != 1)}, on {self.device}"
        ]
        for one in found:
            lines.append(
                f"  {one.nodes} nodes, {len(one.baked)} tensors inside, traced in {one.trace_seconds:.2f} s, "
                f"compiled in {one.session_seconds:.2f} s" + ", as one CUDA graph" * one.replayed
            )
            if one.peak_bytes is not None:
                lines.append(f"    memory: {in_mib(one.peak_bytes)} in a call, its results included")
            lines += [f"    {name}: {kind}" for name, kind in one.arguments.items()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"jit({function_name(self.fn)})"


def _noting(gone: deque[int], identity: int) -> Callable[[object], None]:
    """Return what is called when a tensor dies, whichever thread that happens in: no lock is taken there."""
    return lambda _: gone.append(identity)
