"""One operator of a file by itself: the nodes that make a value from values that both sides have, on given inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from export.files.tensor_values import Kind, as_array, from_array, to_ortvalue
from export.graph.functions.function_bodies import reads
from export.graph.onnx_types import ONNX_TYPES, dtype_name
from export.runtime import sessions
from export.verdict.locating.opened_graph import Opened

__all__ = ["Alone", "Cut", "Result", "cut_out", "run_outputs", "stored_tensor"]


@dataclasses.dataclass(frozen=True)
class Cut:
    """Part of a model.

    Attributes:
        model: the part, a model by itself.
        given: names of the values that it takes from outside.
        tensors: names of the stored tensors that it uses.
        nodes: how many nodes it has.
    """

    model: onnx.ModelProto
    given: tuple[str, ...]
    tensors: tuple[str, ...]
    nodes: int


def cut_out(opened: Opened, value: str, known: Callable[[str], Tensor | None]) -> Cut | None:
    """Cut out the nodes that make a value from values that are known.

    Args:
        opened: the model.
        value: the value, as it is called where its node stands.
        known: returns what is known of a value, None for others.

    Returns:
        The part; None if it would need a value that is not known.
    """
    first: dict[tuple[str, ...], int] = {}  # a node with several results has a site for each
    made = {}
    for position, site in enumerate(opened.sites):
        made[site.value] = first.setdefault(tuple(site.node.output), position), site.node
    nodes: dict[int, onnx.NodeProto] = {}
    given: dict[str, onnx.ValueInfoProto] = {}
    tensors: dict[str, onnx.TensorProto] = {}
    waiting = [value]
    while waiting:
        name = waiting.pop()
        example = known(name) if name != value else None
        if not name or name in given or name in tensors:
            continue
        if example is not None:
            given[name] = helper.make_tensor_value_info(name, int(ONNX_TYPES[example.dtype]), list(example.shape))
        elif name in made:
            position, node = made[name]
            if position not in nodes:
                nodes[position] = node
                waiting += list(reads(node))
        elif name in opened.initializers:
            tensors[name] = opened.initializers[name]
        else:
            return None
    ordered = [node for _, node in sorted(nodes.items(), key=lambda entry: entry[0])]
    graph = helper.make_graph(
        ordered, "part", list(given.values()), [onnx.ValueInfoProto(name=value)], list(tensors.values())
    )
    model = helper.make_model(graph, opset_imports=opened.model.opset_import, ir_version=opened.model.ir_version)
    return Cut(model, tuple(given), tuple(tensors), len(ordered))


def run_outputs(
    model: onnx.ModelProto,
    feed: Mapping[str, Tensor],
    names: Sequence[str],
    file: Path,
    device: str,
    *,
    tf32: bool = False,
) -> list[Tensor]:
    """Run a model, whose large tensors lie beside `file`, with ONNX Runtime; return outputs by name.

    Args:
        model: the model.
        feed: {input: tensor}.
        names: the outputs wanted.
        file: the file that the model comes from.
        device: "auto", "cpu" or "cuda".
        tf32: whether a GPU may round products to TF32.
    """
    if not names:  # ONNX Runtime takes none for all
        return []
    choice = sessions.choose(device, tf32)
    session = sessions.open_session(model.SerializeToString(), choice, spinning=False, path=file)
    wanted = {value.name for value in session.get_inputs()}
    values = {
        name: to_ortvalue(as_array(value, dtype_name(value.dtype)), dtype_name(value.dtype), "cpu")
        for name, value in feed.items()
        if name in wanted
    }
    found = session.run_with_ort_values(list(names), values)
    return [from_array(value, Kind(torch=True, device="cpu"), _result_dtype(value)) for value in found]


def _result_dtype(value: Any) -> str:
    return "bfloat16" if value.data_type() == "tensor(bfloat16)" else ""


def stored_tensor(opened: Opened, name: str, file: Path) -> Tensor | None:
    """Return a stored tensor's values, read from the data file where they lie there; None if there is none."""
    tensor = opened.initializers.get(name)
    if tensor is None:
        return None
    array = numpy_helper.to_array(tensor, base_dir=str(file.parent))
    if tensor.data_type == onnx.TensorProto.BFLOAT16:
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of an operator by itself.

    Attributes:
        value: what ONNX Runtime gives.
        cut: the part of the model that was run.
        given: names of the values that it was given.
        feed: these values.
    """

    value: Tensor
    cut: Cut
    given: tuple[str, ...]
    feed: Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Alone:
    """Runs operators of a file by themselves on the reference's values.

    Args:
        graph: the file, opened.
        known: the reference's values by name, with the number of loops that each lies in.
        file: the file.
        device: where it runs.
        tf32: whether a GPU may round products to TF32.
    """

    graph: Opened
    known: Mapping[str, tuple[Tensor, int]]
    file: Path
    device: str
    tf32: bool

    def run(self, value: str, step: int | None = None) -> Result | None:
        """Run the nodes that make a value; None if some input has no known value.

        Args:
            value: the value.
            step: which step of the loop around it is meant.
        """
        cut = cut_out(self.graph, value, lambda name: self._at(name, step))
        if cut is None:
            return None
        feed = {name: known for name in cut.given if (known := self._at(name, step)) is not None}
        (found,) = run_outputs(cut.model, feed, [value], self.file, self.device, tf32=self.tf32)
        return Result(found, cut, cut.given, feed)

    def _at(self, name: str, step: int | None) -> Tensor | None:
        if name not in self.known:
            return None
        value, loops = self.known[name]
        if not loops:
            return value
        return value[step] if step is not None and step < len(value) else None
