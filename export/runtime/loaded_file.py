"""An ONNX file as a Python function: numpy in, numpy out; torch in, torch out (recognised without importing it)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from export.errors import ArgumentError, UnsupportedOpError, listed, nearest
from export.files import pytree_structure
from export.files.element_types import BITS
from export.files.signature_leaves import Leaf, check_leaves
from export.files.tensor_values import Kind, as_array, from_array, is_torch, to_ortvalue
from export.runtime import gpu_tensors, sessions

__all__ = ["Loaded"]


@dataclasses.dataclass(frozen=True)
class _Argument:
    """One argument of the call that is left to be given."""

    name: str
    structure: pytree_structure.Structure
    leaves: tuple[int, ...]


class Loaded:
    """A file as a function.

    Attributes:
        path: the file.
        device: where it runs: "cpu", "cuda" for the first GPU, "cuda:1" for the second.
        inputs: the tensors still to be given, in order.
        outputs: the tensors that come back, in order.
        placement: {node name: execution provider}, for the nodes as ONNX Runtime optimised them.
        numerics: what decides the last bits.
    """

    def __init__(
        self,
        path: Path,
        session: onnxruntime.InferenceSession,
        choice: sessions.Choice,
        call: dict[str, Any] | None,
        bound: Mapping[int, Any] | None = None,
        taken: int = 0,
        kind: Kind | None = None,
        again: Callable[[], Loaded] | None = None,
    ) -> None:
        self.path = path
        self._again = again
        self.device = choice.place
        self._session, self._choice, self._call = session, choice, call
        self._bound: dict[int, Any] = dict(bound or {})
        self._taken = taken
        self._kind = kind or Kind()
        if call is None:
            self._leaves, outputs = sessions.interface(session, path)
            self._baked = [False] * len(self._leaves)
            self._arguments: list[_Argument] = []
            self.outputs = tuple(outputs)
        else:
            self._leaves = [Leaf(x["name"], x["dtype"], tuple(x["shape"])) for x in call["leaves"]]
            self._baked = [bool(x["baked"]) for x in call["leaves"]]
            self._arguments = [
                _Argument(
                    a["name"], a["structure"], tuple(i for i, _ in pytree_structure.leaf_names(a["structure"], ""))
                )
                for a in call["arguments"]
                if not a["baked"]
            ][taken:]
            self.outputs = tuple(Leaf(x["name"], x["dtype"], tuple(x["shape"])) for x in call["out"]["leaves"])
        self._names = [leaf.name for leaf in self._leaves]
        self._out_names = [leaf.name for leaf in self.outputs]
        self.inputs = tuple(leaf for i, leaf in enumerate(self._leaves) if not self._baked[i] and i not in self._bound)
        every = (*self._leaves, *self.outputs)
        bits = [leaf for leaf in every if leaf.dtype in BITS]
        unbound = any(leaf.container or leaf.dtype == "string" for leaf in every)  # ONNX Runtime binds none of these
        if bits and unbound:
            raise UnsupportedOpError(
                f"{path.name} takes or gives {bits[0]} beside text, sequences or optionals, which ONNX Runtime's "
                "Python interface cannot pass together; cast it to float32 inside the file",
                op="input",
                dtype=bits[0].dtype,
            )
        self._plain = unbound or (self.device == "cpu" and not bits)

    def __call__(self, *args: Any, **tensors: Any) -> Any:
        """Run the file.

        Args:
            *args: the export's arguments without the baked and bound ones; for a file from elsewhere one
                `{name: tensor}`, or the tensors in the order of `inputs`.
            **tensors: for a file from elsewhere: tensors by name.

        Returns:
            The pytree that the exported function returns; `{name: value}` for a file from elsewhere. There a sequence
            is a list of tensors, an absent optional None, and text a numpy array of dtype object, as for the arguments.

        Raises:
            ArgumentError: if anything does not fit; the message lists everything that does not.
        """
        if self._call is None:
            found = self._flat(args, tensors)
        elif tensors:
            raise ArgumentError(
                f"{self.path.name} takes positional arguments only ({self.signature}), got {', '.join(tensors)} by name"
            )
        else:
            found = self._trees(args)
        kind = self._check(found)
        results = self._run(found, kind)
        if self._call is None:
            return dict(zip(self._out_names, results, strict=True))
        return pytree_structure.rebuild(self._call["out"]["structure"], results)

    def feed(self, *args: Any) -> dict[str, np.ndarray[Any, Any]]:
        """Return what `f(*args)` would hand to ONNX Runtime, {input name: array}, checked as the call checks it.

        Raises:
            ArgumentError: if anything does not fit, as for the call.
        """
        found = self._trees(args)
        self._check(found)
        return {self._names[i]: as_array(value, self._leaves[i].dtype) for i, value in found.items()}

    def inner_values(self, names: list[str], *args: Any) -> list[np.ndarray[Any, Any]]:
        """Return values of the graph by name, which must be among its outputs (see `branch_forcing.with_outputs`)."""
        found = self._trees(args) if self._call is not None else self._flat(args, {})
        self._check(found)
        feed = {
            self._names[i]: to_ortvalue(as_array(v, self._leaves[i].dtype), self._leaves[i].dtype, self.device)
            for i, v in found.items()
        }
        with sessions.on_gpu(self._choice):
            values = self._session.run_with_ort_values(names, feed) if names else []  # ONNX Runtime takes none for all
        return [value.numpy() for value in values]

    @property
    def signature(self) -> str:
        """The call as text, such as `f(params, x)`."""
        names = [a.name for a in self._arguments] if self._call is not None else [leaf.name for leaf in self.inputs]
        return f"f({', '.join(names)})"

    def bind(self, *args: Any) -> Loaded:
        """Fix the leading arguments, which are copied to the device once; return the function of the rest.

        Args:
            *args: arguments from the left, for example the parameters.

        Raises:
            ArgumentError: if they do not fit, or the file came from elsewhere.
        """
        if self._call is None:
            raise ArgumentError(
                f"{self.path.name} was not written by pure-export, so it has no arguments to bind; pass tensors by name"
            )
        if len(args) > len(self._arguments):
            raise ArgumentError(
                f"bind takes at most {len(self._arguments)} arguments ({self.signature}), got {len(args)}"
            )
        found = self._match(self._arguments[: len(args)], args)
        kind = self._check(found)
        bound = {i: self._resident(i, value) for i, value in found.items()}
        bound = {**self._bound, **bound}
        opened = self.path, self._session, self._choice, self._call
        return Loaded(*opened, bound, self._taken + len(args), kind, self._again)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickle keeps: the path and the options, with which the file is opened again, and bound arguments.

        Raises:
            ArgumentError: the session holds something that is not in the file, or bound arguments lie on a GPU.
        """
        if self._again is None:
            raise ArgumentError(
                f"{self.path.name} was loaded with weights= or a changed model, which are not in the file, so pickle "
                "cannot take it along: write them by export.replace_weights, and load that file"
            )
        if self._bound and not self._plain:
            raise ArgumentError(
                f"{self.path.name} has bound arguments on {self.device}, which pickle cannot take along: pickle the "
                "function without them, and bind them where it arrives"
            )
        return _again, (self._again, self._bound, self._taken, self._kind)

    def _resident(self, position: int, value: Any) -> Any:
        leaf = self._leaves[position]
        if is_torch(value) and self._is_shared(leaf) and gpu_tensors.lies_on(value.device, self.device):
            own = value.detach().clone()
            gpu_tensors.finished([own])
            return gpu_tensors.shared(own, self.device)
        array = np.array(as_array(value, leaf.dtype), copy=True)
        return array if self._plain else to_ortvalue(array, leaf.dtype, self.device)

    def _trees(self, args: tuple[Any, ...]) -> dict[int, Any]:
        if len(args) != len(self._arguments):
            baked = [a["name"] for a in self._call["arguments"] if a["baked"]] if self._call else []
            fixed = f" ({', '.join(baked)} is inside the file)" if baked else ""
            raise ArgumentError(
                f"{self.path.name} takes {len(self._arguments)} arguments, {self.signature}{fixed}, got {len(args)}"
                + listed([str(leaf) for leaf in self.inputs[:20]])
            )
        return self._match(self._arguments, args)

    def _match(self, arguments: list[_Argument], args: tuple[Any, ...]) -> dict[int, Any]:
        found: dict[int, Any] = {}
        problems: list[str] = []
        for argument, value in zip(arguments, args, strict=False):
            pytree_structure.match(argument.structure, value, argument.name, found, problems)
        if problems:
            check_leaves(self._leaves, found, self._bound, self._kind, problems, strict=self._call is not None)
            raise ArgumentError(f"the arguments do not fit {self.path.name}:" + listed(problems))
        return found

    def _flat(self, args: tuple[Any, ...], tensors: dict[str, Any]) -> dict[int, Any]:
        given = dict(tensors)
        if len(args) == 1 and isinstance(args[0], Mapping):
            given.update(args[0])
        elif len(args) > len(self._names):
            raise ArgumentError(f"{self.path.name} takes {len(self._names)} tensors, {self.signature}, got {len(args)}")
        else:
            given.update(zip(self._names, args, strict=False))
        extra = [name for name in given if name not in self._names]
        problems = [f"{name}: missing{nearest(name, extra)}" for name in self._names if name not in given]
        problems += [f"{name}: not expected{nearest(name, self._names)}" for name in extra]
        found = {self._names.index(name): value for name, value in given.items() if name in self._names}
        if problems:
            raise ArgumentError(f"the arguments do not fit {self.path.name}:" + listed(problems))
        return found

    def _check(self, found: dict[int, Any]) -> Kind:
        problems: list[str] = []
        kind = check_leaves(self._leaves, found, self._bound, self._kind, problems, strict=self._call is not None)
        if problems:
            raise ArgumentError(f"the arguments do not fit {self.path.name}:" + listed(problems))
        return kind

    def _run(self, found: dict[int, Any], kind: Kind) -> list[Any]:
        try:
            with sessions.on_gpu(self._choice):
                return self._run_plain(found, kind) if self._plain else self._run_bound(found, kind)
        except sessions.ERRORS as error:
            raise sessions.translated(error, self.path) from error

    def _run_plain(self, found: dict[int, Any], kind: Kind) -> list[Any]:
        feed = {self._names[i]: _content(value, self._leaves[i]) for i, value in found.items()}
        feed.update((self._names[i], value) for i, value in self._bound.items())
        results = self._session.run(self._out_names, feed)
        return [_result(result, kind, leaf) for result, leaf in zip(results, self.outputs, strict=True)]

    def _run_bound(self, found: dict[int, Any], kind: Kind) -> list[Any]:
        """Run on bound memory; tensors that lie on the session's GPU are not copied, nor are results for them."""
        binding = self._session.io_binding()
        for i, value in (*found.items(), *self._bound.items()):
            binding.bind_ortvalue_input(self._names[i], value if i in self._bound else self._placed(i, value))
        stays = [self._is_shared(leaf) and gpu_tensors.lies_on(kind.device, self.device) for leaf in self.outputs]
        for name, on_device in zip(self._out_names, stays, strict=True):
            binding.bind_output(name, *((self._choice.device, self._choice.index) if on_device else ("cpu",)))
        gpu_tensors.finished(found.values())
        self._session.run_with_iobinding(binding)
        return [
            gpu_tensors.as_torch(result, leaf.dtype) if on_device else _result(result, kind, leaf)
            for result, leaf, on_device in zip(binding.get_outputs(), self.outputs, stays, strict=True)
        ]

    def _is_shared(self, leaf: Leaf) -> bool:
        """Tell whether PyTorch and ONNX Runtime can have a tensor in one piece of a GPU's memory."""
        return self._choice.device != "cpu" and (leaf.dtype not in BITS or leaf.dtype == "bfloat16")

    def _placed(self, position: int, value: Any) -> Any:
        """Return a value where the session reads it."""
        leaf = self._leaves[position]
        known = gpu_tensors.shared(value, self.device) if self._is_shared(leaf) else None
        return to_ortvalue(as_array(value, leaf.dtype), leaf.dtype, self.device) if known is None else known

    @property
    def placement(self) -> dict[str, str]:
        """{node name: execution provider}."""
        return sessions.placement(self._session)

    @property
    def numerics(self) -> sessions.Numerics:
        """TF32, optimisation level, determinism, versions."""
        return sessions.Numerics(
            tf32=self._choice.tf32,
            optimisation="all",
            deterministic=True,
            onnxruntime=onnxruntime.__version__,
            producer=dict(self._call["versions"]) if self._call else {},
        )

    def describe(self) -> str:
        """Say what the function takes and returns, where it runs and why there."""
        placed: dict[str, int] = {}
        for provider in self.placement.values():
            placed[provider] = placed.get(provider, 0) + 1
        where = (
            ", ".join(f"{count} nodes on {provider}" for provider, count in placed.items()) or "no nodes left to run"
        )
        lines = [
            f"{self.path.name}: {self.signature}",
            f"  runs on {self.device} ({self._choice.why}); {where}",
            f"  numerics: TF32 {'on' if self._choice.tf32 else 'off'}, optimisation {self.numerics.optimisation}, "
            "deterministic, "
            f"onnxruntime {onnxruntime.__version__}",
        ]
        lines += [f"  in   {leaf}" for leaf in self.inputs] + [f"  out  {leaf}" for leaf in self.outputs]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<{self.path.name}: {self.signature} on {self.device}>"


def _again(load: Callable[[], Loaded], bound: dict[int, Any], taken: int, kind: Kind) -> Loaded:
    """Return a function of a file that is opened again, with the arguments that were bound."""
    found = load()
    if not bound:
        return found
    return Loaded(found.path, found._session, found._choice, found._call, bound, taken, kind, load)


def _content(value: Any, leaf: Leaf) -> Any:
    """Return a given value as ONNX Runtime takes it."""
    if not leaf.container:
        return as_array(value, leaf.dtype)
    if value is None or leaf.container == "other":
        return value
    if leaf.container.endswith("sequence"):
        return [as_array(item, leaf.dtype) for item in value]
    return as_array(value, leaf.dtype)


def _result(result: Any, kind: Kind, leaf: Leaf) -> Any:
    """Return what ONNX Runtime gives as tensors of the given kind: a sequence as a list, an absent optional as None."""
    if result is None or leaf.container == "other":
        return result
    if isinstance(result, list):
        return [from_array(item, kind, leaf.dtype) for item in result]
    if leaf.dtype in BITS or not isinstance(result, (np.ndarray, np.generic, str)):
        return from_array(result, kind, leaf.dtype)
    return from_array(np.asarray(result, dtype=object if leaf.dtype == "string" else None), kind, leaf.dtype)
