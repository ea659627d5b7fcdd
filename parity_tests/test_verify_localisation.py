"""The first wrong node is named in branches, loops, functions and anyone's file, with its cause and a reproduction."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import nn

import export
import pure
from export.verdict import localisation
from parity_tests import edited_files
from pure import nets

X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
STATS = [torch.rand(3, generator=torch.Generator().manual_seed(i)) + 0.5 for i in range(4)]

Change = Callable[[onnx.NodeProto], None]


def nodes(graph: Any) -> list[onnx.NodeProto]:
    """All nodes, those of branches and bodies included."""
    found = []
    for node in graph.node:
        found.append(node)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += nodes(attribute.g)
    return found


def judged(fn: Any, args: tuple[Any, ...], op: str, change: Change, tmp_path: Path) -> tuple[Any, onnx.NodeProto]:
    """Export, damage the first node of a kind, and judge; return what was found and the node."""
    path = tmp_path / "f.onnx"
    export.to_onnx(fn, args, path)
    model = onnx.load(path)
    node = next(node for node in nodes(model.graph) if node.op_type == op)
    change(node)
    edited_files.save(model, path)
    verdict = export.verify(fn, args, path, device="cpu")
    assert not verdict.passed
    assert verdict.divergence is not None
    return verdict.divergence, node


def kind(name: str) -> Change:
    def change(node: onnx.NodeProto) -> None:
        node.op_type = name
        if name in ("Mish", "AveragePool"):
            kept = [own for own in node.attribute if own.name in ("kernel_shape", "strides")]
            del node.attribute[:]
            node.attribute.extend(kept)

    return change


def attribute(name: str, value: Any) -> Change:
    def change(node: onnx.NodeProto) -> None:
        kept = [own for own in node.attribute if own.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def branches(x: torch.Tensor) -> torch.Tensor:
    def inner(a: torch.Tensor) -> torch.Tensor:
        return torch.cond(a.sum() > 1e6, lambda b: b.exp() * 2, lambda b: b.tanh() * 2, (a * 0.5,))

    return torch.cond(x.mean() < 9, inner, lambda a: (a * 2).cos() * 3, (x,))


@pytest.mark.parametrize(
    ("fn", "args", "op", "change"),
    [
        (lambda x: F.gelu(F.layer_norm(x * 1e-2, (16,))), (X,), "LayerNormalization", attribute("epsilon", 1e-2)),
        (
            lambda x, *s: F.batch_norm(x, s[0], s[1], s[2], s[3]) * 2,
            (IMAGE, *STATS),
            "BatchNormalization",
            attribute("epsilon", 0.1),
        ),
        (lambda x: F.max_pool2d(x, 2) * 3, (IMAGE,), "MaxPool", kind("AveragePool")),
        (lambda x: x.topk(3, -1)[0] * 2, (X,), "TopK", attribute("largest", 0)),
        (lambda x: x.topk(3, -1).indices + 1, (X,), "TopK", attribute("largest", 0)),
        (lambda x: (x * 2).argmax(1) + 1, (X,), "ArgMax", kind("ArgMin")),
        (lambda x: ((x > 0) & (x.sin() < 0.5)).sum(1), (X,), "And", kind("Or")),
        (branches, (X,), "Exp", kind("Sin")),
        (branches, (X,), "Tanh", kind("Sin")),
        (branches, (X,), "Cos", kind("Sin")),
    ],
)
def test_the_wrong_node_is_named(fn: Any, args: tuple[Any, ...], op: str, change: Change, tmp_path: Path) -> None:
    divergence, node = judged(fn, args, op, change, tmp_path)
    assert (divergence.node, divergence.op) == (node.name, node.op_type)
    assert divergence.root
    assert "test_verify_localisation.py" in divergence.source
    assert ("branch of" in divergence.within) == (fn is branches)
    done = subprocess.run(
        [sys.executable, "-I", str(Path(divergence.reproduction) / "reproduce.py")], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "(the first node that differs)" in done.stdout
    assert "the file gives" in done.stdout
    assert "the difference stands" in done.stdout


def test_a_reproduction_ends_with_0_once_the_difference_is_gone(tmp_path: Path) -> None:
    divergence, node = judged(lambda x: x.sin().exp(), (X,), "Sin", kind("Cos"), tmp_path)
    folder = Path(divergence.reproduction)
    sound = onnx.load(folder / "model.onnx")
    next(other for other in sound.graph.node if other.name == node.name).op_type = "Sin"
    onnx.save(sound, tmp_path / "sound.onnx")
    done = subprocess.run(
        [sys.executable, str(folder / "reproduce.py"), str(tmp_path / "sound.onnx")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the difference is gone" in done.stdout


def test_a_step_of_a_loop_is_named_with_its_node(tmp_path: Path) -> None:
    net = pure.Repeat(nets.residual_mlp_block(16, 6, scale=0.3, activation="gelu"), 5)
    params, state = net.init(torch.Generator().manual_seed(0))
    params = pure.unflatten({name: leaf + 0.1 for name, leaf in pure.flatten(params).items()})
    divergence, node = judged(lambda p, x: net(p, x, state).sin(), (params, X), "Gelu", kind("Mish"), tmp_path)
    assert (divergence.node, divergence.op) == (node.name, "Mish")
    assert divergence.within.endswith("step 1 of 5")
    assert divergence.root


def test_a_node_without_metadata_is_named_by_its_value(tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    export.to_onnx(lambda x: (x.sin() * 2).exp(), (X,), path)
    model = onnx.load(path)
    sine = next(node for node in model.graph.node if node.op_type == "Sin")
    value = sine.output[0]
    sine.output[0] = "raw"
    model.graph.node.insert(list(model.graph.node).index(sine) + 1, helper.make_node("Neg", ["raw"], [value]))
    edited_files.save(model, path)
    divergence = export.verify(lambda x: (x.sin() * 2).exp(), (X,), path, device="cpu").divergence
    assert divergence is not None
    assert divergence.op == "Neg"
    assert value in divergence.node


def test_metadata_of_another_writer_takes_no_verdicts_place(tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    export.to_onnx(branches, (X,), path)
    model = onnx.load(path)
    for node in nodes(model.graph):
        for entry in node.metadata_props:
            entry.value = "{not ours"
        node.name = ""
    next(node for node in nodes(model.graph) if node.op_type == "Tanh").op_type = "Sin"
    edited_files.save(model, path)
    verdict = export.verify(branches, (X,), path, device="cpu")
    assert verdict.status == "fail"
    assert verdict.divergence is not None
    assert verdict.divergence.node


def test_a_search_that_fails_leaves_the_verdict_and_a_reproduction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("fx")

    monkeypatch.setattr(localisation, "opened", broken)
    divergence, _ = judged(lambda x: x.sin().exp(), (X,), "Sin", kind("Cos"), tmp_path)
    assert "could not be looked for: KeyError: 'fx'" in str(divergence)
    assert (Path(divergence.reproduction) / "reproduce.py").exists()


def test_what_is_carried_on_is_told_from_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"

    def fn(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return (x @ p["w"]).sin() + 1

    params = {"w": torch.randn(16, 4, generator=torch.Generator().manual_seed(2))}
    export.to_onnx(fn, (params, X), path, bake=(0,))
    model = onnx.load(path)
    stored = next(tensor for tensor in model.graph.initializer if tensor.name == "p.w")
    values = numpy_helper.to_array(stored).copy()
    values[0, 0] *= 1.01
    stored.CopyFrom(numpy_helper.from_array(values, "p.w"))
    edited_files.save(model, path)
    divergence = export.verify(fn, (params, X), path, bake=(0,), device="cpu").divergence
    assert divergence is not None
    assert divergence.op == "MatMul"
    assert divergence.root
    assert divergence.weights == "weight p.w differs from the given one in 1 of 64 values"
    assert divergence.opinion.startswith("PyTorch alone")


class Net(nn.Module):
    """Two convolutions with folded statistics, a normalisation, an activation that is decomposed, a sine."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6)
        self.norm, self.fc = nn.LayerNorm(96), nn.Linear(96, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.gelu(self.bn2(self.conv2(x)), approximate="tanh").flatten(1)
        return F.silu(self.fc(self.norm(x)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_node_of_a_changed_weight_is_named_in_a_file_of_torch_onnx(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, path = Net().eval(), tmp_path / "f.onnx"
    for bn in (net.bn1, net.bn2):
        nn.init.normal_(bn.running_mean)
        nn.init.uniform_(bn.running_var, 0.5, 2.0)
    torch.onnx.export(net, (IMAGE,), path, dynamo=True, verbose=False, external_data=False)
    sound = onnx.load(path)
    assert export.verify(net, (IMAGE,), path, device="cpu").divergence is None
    for name, prefix in [
        ("conv1.weight", "conv1"),
        ("conv2.weight", "conv2"),
        ("norm.weight", "norm"),
        ("fc.weight", "fc"),
    ]:
        model = onnx.ModelProto()
        model.CopyFrom(sound)
        stored = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        values = numpy_helper.to_array(stored).copy()
        values.flat[np.abs(values).argmax()] *= 1.01
        stored.CopyFrom(numpy_helper.from_array(values, name))
        onnx.save(model, path)
        verdict = export.verify(net, (IMAGE,), path, device="cpu")
        users = [node.name for node in model.graph.node if name in node.input]
        assert verdict.status == "fail"
        assert verdict.divergence is not None
        assert verdict.divergence.node in users, (name, str(verdict.divergence))
        assert prefix in verdict.divergence.path
        assert "test_verify_localisation.py" in verdict.divergence.source
        assert verdict.divergence.root


def test_data_beside_the_judged_file_stays_loadable(tmp_path: Path) -> None:
    """onnx refuses a data file with two hard links, and with it the file that was judged."""
    path = tmp_path / "theirs.onnx"
    data = path.with_name("theirs.onnx.data")
    for seed in range(2):  # the second file's data does not have the name of its content either
        torch.manual_seed(seed)
        module = nn.Linear(16, 8).eval()
        torch.onnx.export(module, (X,), path, external_data=True, verbose=False)
        with torch.no_grad():
            module.bias[3] += 0.01
        divergence = export.verify(module, (X,), path, device="cpu").divergence
        assert divergence is not None
        assert "the cause lies in it" in divergence.cause
        assert data.stat().st_nlink == 1
        onnx.load(path)
        assert (Path(divergence.reproduction) / data.name).read_bytes() == data.read_bytes()
