"""A recorded graph without complex numbers: run again with a pair of real tensors in the place of each complex one."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

from export.errors import UnsupportedOpError
from export.ops.complex_pairs import arithmetic, fourier
from export.ops.complex_pairs.pair import Pair
from export.ops.complex_pairs.structure import FACTORIES, PARTWISE, made, moved, partwise
from export.trace.recording import Replay
from pure.tree import leaves as tree_leaves

__all__ = ["PairReplay", "has_complex"]

aten: Any = torch.ops.aten

_RULES = {**arithmetic.PAIRS, **fourier.PAIRS}

_QUESTIONS = frozenset({"sym_size", "sym_stride", "sym_numel", "is_same_size", "_has_same_storage_numel"})
"""Operators that look at sizes alone."""

_PRIMS = {"convert_element_type": "_to_copy", "broadcast_in_dim": "expand"}


def _is_complex(value: Any) -> bool:
    return any(isinstance(x, torch.Tensor) and x.is_complex() for x in tree_leaves(value))


def has_complex(graph: GraphModule) -> bool:
    """Tell whether complex numbers are computed with."""
    return any(_is_complex(node.meta.get("val")) for node in graph.graph.nodes)


def _way(node: Node, what: str) -> UnsupportedOpError:
    return UnsupportedOpError(
        f"{what}; an ONNX file's complex numbers are pairs of real ones",
        op=str(node.target),
        dtype=str(getattr(node.meta.get("val"), "dtype", "")).removeprefix("torch."),
        source=node.meta.get("source") or "",
        path=node.meta.get("path") or "",
    )


class PairReplay(Replay):
    """Runs a recorded graph on real tensors and pairs of them.

    Raises:
        UnsupportedOpError: for complex inputs and outputs, and for operators that have no form for pairs.
    """

    def __init__(self, graph: GraphModule, names: tuple[str, ...]) -> None:
        super().__init__(graph, garbage_collect_values=False)  # `_part` looks behind the last use
        self.extra_traceback = False  # it would write PyTorch's node into the message
        self.names = dict(zip((n.name for n in graph.graph.find_nodes(op="placeholder")), names, strict=True))
        self.node: Node | None = None

    def run_node(self, n: Node) -> Any:
        """Run one node."""
        self.node = n
        return super().run_node(n)

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Fetch an argument."""
        value = super().placeholder(target, args, kwargs)
        if _is_complex(value):
            assert self.node is not None
            name = self.names[self.node.name]
            raise _way(
                self.node,
                f"{name} has dtype {value.dtype}, which an exported file cannot hold: pass torch.view_as_real({name}), "
                "and let the function begin with torch.view_as_complex",
            )
        return value

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Fetch a captured tensor, as a pair if it is complex."""
        value = super().get_attr(target, args, kwargs)
        if not isinstance(value, torch.Tensor) or not value.is_complex():
            return value
        with unset_fake_temporarily(), disable_proxy_modes_tracing():
            parts = torch.view_as_real(value.resolve_conj())
            re, im = parts[..., 0].contiguous(), parts[..., 1].contiguous()
        return Pair(re, im)

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return the results."""
        assert self.node is not None
        if any(isinstance(x, Pair) for x in args[0]):
            raise _way(self.node, "a result is complex: return torch.view_as_real of it, or its .real and .imag")
        return super().output(target, args, kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operator, or what stands for it on pairs."""
        node = self.node
        assert node is not None
        schema = getattr(target, "_schema", None)
        name = schema.name.partition("::")[2].removesuffix("_copy") if schema is not None else ""
        name = "_to_copy" if name == "_to" else _PRIMS.get(name, name)
        given = tree_leaves((args, kwargs))
        if not any(isinstance(x, (Pair, complex)) for x in given) and not _is_complex(node.meta.get("val")):
            return torch.neg(args[0]) if name == "_neg_view" else super().call_function(target, args, kwargs)
        if target is aten.select.int and (part := self._part(node)) is not None:
            return part
        if schema is None and not any(isinstance(x, Pair) for x in given):
            return super().call_function(target, args, kwargs)
        if getattr(target, "__name__", "") == "getitem":
            return args[0][args[1]]
        if name in ("_to_copy", "to"):
            wanted = args[1] if len(args) > 1 and isinstance(args[1], torch.dtype) else kwargs.get("dtype")
            return moved(args[0], wanted)
        if name in FACTORIES:
            return self._made(target, name, args, kwargs, node)
        if name in PARTWISE:
            return partwise(aten.neg.default if name == "_neg_view" else target, PARTWISE[name], args, kwargs)
        if name in _QUESTIONS:
            return target(*(x.re if isinstance(x, Pair) else x for x in args))
        if name in _RULES:
            return _RULES[name](*args, **kwargs)
        raise _way(
            node,
            f"{target} has no form for complex numbers here: write it with real and imaginary parts "
            "(torch.view_as_real, .real, .imag)",
        )

    def _part(self, node: Node) -> Any:
        """Return the part that `select` takes of `view_as_real`, without stacking both."""
        source = node.args[0]
        if not isinstance(source, Node) or source.target is not aten.view_as_real.default:
            return None
        rank = source.meta["val"].dim()
        dim, position = (cast("int", arg) for arg in node.args[1:3])
        value = self.env.get(cast("Node", source.args[0]))
        if dim % rank != rank - 1 or not isinstance(value, Pair):
            return None
        return value.im if position % 2 else value.re

    def _made(self, target: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], node: Node) -> Any:
        """Make a tensor of numbers, like a complex one or of complex dtype."""
        first = tuple(x.re if isinstance(x, Pair) else x for x in args)
        result = node.meta["val"]
        if not result.is_complex():
            return target(*first, **kwargs)
        return made(target, first, kwargs)
