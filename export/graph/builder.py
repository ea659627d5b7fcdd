"""The graph under construction: values, constants, sizes, and one node for equal computations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, cast

import onnx_ir as ir
import torch

from export.errors import UnsupportedOpError
from export.graph.onnx_types import ONNX_TYPES, dtype_name, to_ir_tensor
from export.trace.symbolic_sizes import Sizes

__all__ = ["Builder", "Lowering", "Scope", "node_dtype"]

Lowering = Callable[..., Any]
"""Builds ONNX nodes for one operator: lowering(builder, node, *args, **kwargs) -> value, or a tuple of values."""


@dataclass
class Scope:
    """One graph level: its nodes and what it computed already."""

    nodes: list[ir.Node]
    computed: dict[Any, tuple[ir.Value, ...]]


class Builder:
    """Collects ONNX nodes while a recorded function is translated.

    Sizes that are symbolic in the recorded graph are int64 values of shape (1,) here, ready to be concatenated.

    Args:
        sizes: the trace's symbolic sizes.
        opset: the ONNX opset to write.
        lowering: finds an operator's lowering.
        target: the device whose kernels the forms are chosen for, "cpu" or "cuda"; None for forms that show an
            operator's kind and are good on either.
    """

    def __init__(
        self, sizes: Sizes, opset: int, lowering: Callable[[Any], Lowering], target: str | None = None
    ) -> None:
        self.sizes = sizes
        self.opset = opset
        self.lowering = lowering
        self.target = target
        self.values: dict[torch.fx.Node, Any] = {}
        self.initializers: dict[str, ir.Value] = {}
        self.scopes: list[Scope] = [Scope([], {})]
        self.origin: torch.fx.Node | None = None
        self.dtypes: dict[ir.Value, torch.dtype] = {}
        self.prefix = ""
        self.captured_names: dict[int, str] = {}
        self._captured: dict[int, ir.Value] = {}
        self._constants: dict[Any, ir.Value] = {}
        self._constant_count = 0
        self._names: set[str] = set()

    def unique(self, name: str) -> str:
        """Return the name, with a number behind it if it is taken, and take it."""
        candidate, count = name, 1
        while candidate in self._names:
            count += 1
            candidate = f"{name}_{count}"
        self._names.add(candidate)
        return candidate

    def reserve(self, names: Sequence[str]) -> None:
        """Take names, so that no node gets them."""
        self._names.update(names)

    def op(self, kind: str, *inputs: ir.Value | None, dtype: torch.dtype | None = None, **attributes: Any) -> ir.Value:
        """Add a node with one output and return that; an equal node already there is reused.

        Args:
            kind: the ONNX operator.
            *inputs: its inputs.
            dtype: the output's dtype, the first input's by default.
            **attributes: its attributes; those that are None are left out.
        """
        return self.ops(kind, *inputs, count=1, dtypes=[dtype], **attributes)[0]

    def ops(
        self,
        kind: str,
        *inputs: ir.Value | None,
        count: int,
        dtypes: Sequence[torch.dtype | None] | None = None,
        **attributes: Any,
    ) -> tuple[ir.Value, ...]:
        """Add a node with `count` outputs, or find an equal one."""
        given = {name: value for name, value in attributes.items() if value is not None}
        plain = not any(isinstance(value, ir.Graph) for value in given.values())
        content = {name: _content(value) for name, value in given.items()}
        key = (kind, tuple(id(value) for value in inputs), count, repr(sorted(content.items()))) if plain else None
        if key is not None:
            for scope in self.scopes:
                if key in scope.computed:
                    return scope.computed[key]
        meta = self.origin.meta if self.origin is not None else {}
        path = meta.get("path", "")
        base = (
            f"{path}.{self.origin.name}" if path and self.origin is not None else getattr(self.origin, "name", "graph")
        )
        first = next((self.dtypes[value] for value in inputs if value is not None), torch.float32)
        chosen = [dtype or first for dtype in (dtypes or [None] * count)]
        props = {"path": path, "source": meta.get("source") or "", "fx": self.prefix + getattr(self.origin, "name", "")}
        props["dtype"] = dtype_name(chosen[0] if kind == "Where" else first)  # not that of its condition
        props["derivative"] = meta.get("derivative", "")
        props["aten"] = _operator_name(getattr(self.origin, "target", ""))
        node = ir.node(
            kind,
            list(inputs),
            attributes=given,
            num_outputs=count,
            name=self.unique(f"{base}.{kind}"),
            metadata_props={name: text for name, text in props.items() if text},
        )
        for i, (output, dtype) in enumerate(zip(node.outputs, chosen, strict=True)):
            output.name = self.unique(f"{base}.{kind}.{i}" if count > 1 else f"{base}.{kind}:0")
            output.type = ir.TensorType(ONNX_TYPES[dtype])
            self.dtypes[output] = dtype
        self.scopes[-1].nodes.append(node)
        outputs = tuple(node.outputs)
        if key is not None:
            self.scopes[-1].computed[key] = outputs
        return outputs

    def constant(self, value: Any, dtype: torch.dtype = torch.int64) -> ir.Value:
        """Return an initializer holding a number or a nested list."""
        if isinstance(value, int) and not dtype.is_floating_point:  # modulo 2ⁿ, as PyTorch takes 300 for an uint8
            return self.tensor_constant(torch.tensor(value, dtype=torch.int64).to(dtype))
        return self.tensor_constant(torch.tensor(value, dtype=dtype))

    def tensor_constant(self, tensor: torch.Tensor) -> ir.Value:
        """Return an initializer holding a tensor; equal constants are shared, if small or of integers."""
        tensor = tensor.detach().cpu().contiguous()
        key = None
        if tensor.numel() <= 64 or not (tensor.is_floating_point() or tensor.is_complex()):
            content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            key = (tensor.dtype, tuple(tensor.shape), hashlib.blake2b(content).digest())
            if key in self._constants:
                return self._constants[key]
        value = self.initializer(self.unique(f"constant.{self._constant_count}"), tensor)
        self._constant_count += 1
        if key is not None:
            self._constants[key] = value
        return value

    def captured(self, tensor: torch.Tensor) -> ir.Value:
        """Return the initializer of a tensor that the function closes over, or of a literal in its source."""
        if id(tensor) not in self._captured:
            name = self.captured_names.get(id(tensor), "closure")
            self._captured[id(tensor)] = self.initializer(self.unique(name), tensor)
        return self._captured[id(tensor)]

    def annotate(self, result: Any, example: Any) -> None:
        """Write the recorded shapes on an operation's results."""
        values = result if isinstance(result, tuple) else (result,)
        examples = example if isinstance(example, (tuple, list)) else (example,)
        for value, known in zip(values, examples, strict=False):
            if isinstance(value, ir.Value) and value.shape is None and isinstance(known, torch.Tensor):
                value.shape = self.recorded_shape(known)

    def recorded_shape(self, example: torch.Tensor) -> ir.Shape:
        """Return the shape of a recorded tensor, with names and formulas of names for dynamic sizes."""
        return ir.Shape([self.sizes.dimension(size) for size in example.shape])

    def initializer(self, name: str, tensor: torch.Tensor) -> ir.Value:
        """Add a named initializer."""
        if tensor.dtype not in ONNX_TYPES:
            raise UnsupportedOpError(
                f"{name} has dtype {tensor.dtype}, which an exported file cannot hold",
                op="initializer",
                dtype=dtype_name(tensor.dtype),
            )
        content = to_ir_tensor(tensor, name)
        value = ir.Value(
            name=name, shape=ir.Shape(list(tensor.shape)), type=ir.TensorType(content.dtype), const_value=content
        )
        self.dtypes[value] = tensor.dtype
        self.initializers[name] = value
        return value

    def tensor(self, arg: Any, dtype: torch.dtype | None = None) -> ir.Value:
        """Return an operation's argument as an ONNX value, cast to `dtype` if that is given.

        Args:
            arg: a node of the recorded graph, or a Python number.
            dtype: the dtype wanted; a Python number without one becomes float32, int64 or bool.
        """
        if isinstance(arg, torch.fx.Node):
            value = self.values[arg]
            if not isinstance(arg.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool)):
                return self.cast(cast(ir.Value, value), dtype)
            return self.cast(self.op("Squeeze", value, self.constant([0])), dtype)
        if isinstance(arg, ir.Value):
            return self.cast(arg, dtype)
        natural = torch.bool if isinstance(arg, bool) else torch.int64 if isinstance(arg, int) else torch.float32
        return self.constant(arg, dtype or natural)

    def cast(self, value: ir.Value, dtype: torch.dtype | None) -> ir.Value:
        """Cast if the dtype differs."""
        if dtype is None or self.dtypes[value] == dtype:
            return value
        return self.op("Cast", value, dtype=dtype, to=int(ONNX_TYPES[dtype]))

    def shape_of(self, arg: Any) -> list[Any]:
        """Return the recorded shape of a node: numbers and symbolic sizes."""
        return list(arg.meta["val"].shape)

    def static(self, size: Any) -> int | None:
        """Return a size as a number if it is one, for a node, a symbolic size or a number."""
        if isinstance(size, torch.fx.Node):
            size = size.meta["val"]
        if isinstance(size, torch.SymInt):
            expression = self.sizes.simplify(size.node.expr)
            return int(expression) if expression.is_Integer else None
        return int(size)

    def fixed(self, sizes: Sequence[Any], reason: str) -> list[int]:
        """Return sizes as numbers.

        Raises:
            UnsupportedOpError: one of them is dynamic; `reason` says why it may not be.
        """
        numbers = [self.static(size) for size in sizes]
        if None in numbers:
            raise self.unsupported(reason)
        return [number for number in numbers if number is not None]

    def same_size(self, a: Any, b: Any) -> bool:
        """Tell whether two sizes are the same number or formula."""
        a, b = (x.meta["val"] if isinstance(x, torch.fx.Node) else x for x in (a, b))
        forms = [self.sizes.simplify(x.node.expr) if isinstance(x, torch.SymInt) else x for x in (a, b)]
        return bool(forms[0] == forms[1])

    def size(self, arg: Any) -> ir.Value:
        """Return a size (number or node) as an int64 value of shape (1,)."""
        fixed = self.static(arg)
        if fixed is not None:
            return self.constant([fixed])
        if isinstance(arg, torch.fx.Node):
            return cast(ir.Value, self.values[arg])
        raise AssertionError(f"no node gives the size {arg}")

    def dim(self, value: ir.Value, axis: int) -> ir.Value:
        """Return the run-time size of an axis as an int64 value of shape (1,)."""
        return self.op("Shape", value, dtype=torch.int64, start=axis, end=axis + 1)

    def runtime_shape(self, arg: torch.fx.Node) -> ir.Value:
        """Return a node's shape as a 1-D int64 value; a constant if all sizes are known."""
        shape = [self.static(size) for size in self.shape_of(arg)]
        if None not in shape:
            return self.constant(shape)
        return self.op("Shape", self.tensor(arg), dtype=torch.int64)

    def ints(self, args: Sequence[Any]) -> ir.Value:
        """Return a list of sizes as a 1-D int64 value."""
        fixed = [self.static(arg) for arg in args]
        if None not in fixed:
            return self.constant(fixed)
        parts: list[ir.Value] = []
        run: list[int] = []
        for arg, number in zip(args, fixed, strict=True):
            if number is not None:
                run.append(number)
                continue
            if run:
                parts.append(self.constant(run))
                run = []
            parts.append(self.size(arg))
        if run:
            parts.append(self.constant(run))
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=0)

    def reshape(self, value: ir.Value, sizes: Sequence[Any]) -> ir.Value:
        """Reshape; at most one unknown size is left for the runtime to infer, so that no shape is computed."""
        fixed = [self.static(size) for size in sizes]
        if fixed.count(None) == 1 and 0 not in fixed:
            return self.op(
                "Reshape", value, self.constant([-1 if size is None else size for size in fixed]), allowzero=None
            )
        target = self.ints(sizes)
        return self.op("Reshape", value, target, allowzero=1 if 0 in fixed or None in fixed else None)

    def transpose(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        """Permute axes; nothing is added for the identity."""
        if list(order) == list(range(len(order))):
            return value
        return self.op("Transpose", value, perm=list(order))

    def unsqueeze(self, value: ir.Value, *axes: int) -> ir.Value:
        """Insert axes of size 1 (positions in the result)."""
        return self.op("Unsqueeze", value, self.constant(list(axes))) if axes else value

    def unsupported(self, reason: str) -> UnsupportedOpError:
        """Return the error for the operation being translated."""
        node = self.origin
        if node is None:
            raise AssertionError("no operation is being translated")
        value = node.meta.get("val")
        dtype = dtype_name(value.dtype) if isinstance(value, torch.Tensor) else ""
        return UnsupportedOpError(
            f"{node.target} ({dtype or 'no tensor'}) cannot be exported: {reason}",
            op=str(node.target),
            dtype=dtype,
            source=node.meta.get("source") or "",
            path=node.meta.get("path") or "",
            caller=node.meta.get("caller") or "",
        )


def _operator_name(target: Any) -> str:
    """Return an operator's name; a Python function's text has its address in memory, which no file should depend on."""
    return target.__name__ if isinstance(target, FunctionType) else str(target)


def _content(value: Any) -> Any:
    """Return what tells an attribute from others: a tensor's bytes, as its text is shortened."""
    held = value.value if isinstance(value, ir.Attr) else value
    return held.tobytes() if isinstance(held, ir.TensorProtocol) else value


def node_dtype(node: torch.fx.Node) -> torch.dtype:
    """Return the dtype of a node's (first) result."""
    value = node.meta["val"]
    return cast(torch.dtype, (value[0] if isinstance(value, (tuple, list)) else value).dtype)
