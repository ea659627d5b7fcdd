"""Planted defects: wrong files, each changed in one known place, through the verdict and through other checks.

`python -m parity_tests.planted_defects [--seed 0]` prints who catches what. A defect counts as visible where the file's
outputs differ from the float64 function's by far more than the sound file's do; only visible defects can be asked for.
The other checks are numpy's `allclose` at two settings, what `torch.onnx.testing` asserts, and Polygraphy's comparison
where it is installed (`pip install polygraphy`).
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch.func import grad, jvp, vmap

import export
from export.files.pytree_structure import describe
from export.trace.arguments import is_tensor, take_apart
from export.verdict import reference_runs
from parity_tests import edited_files

Function = tuple[Callable[..., Any], tuple[Any, ...]]
Change = Callable[[onnx.ModelProto, onnx.NodeProto], str]


def functions(seed: int) -> dict[str, Function]:
    """At least sixty functions with their arguments."""
    draw = torch.Generator().manual_seed(seed)

    def of(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    x, w, v = of(8, 16), of(16, 12), of(16)
    image, kernel, tokens = of(2, 6, 8, 8), of(4, 6, 3, 3), of(2, 5, 16)
    mask, labels = torch.arange(12) >= 9, torch.arange(8) % 5
    mixed = w * 10.0 ** torch.arange(-3, 9)

    def masked(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (x @ w).masked_fill(mask, -1e9)

    unary: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        name: getattr(torch, name)
        for name in ("sin", "cos", "exp", "tanh", "sigmoid", "erf", "square", "abs", "atan", "sinh", "log1p")
    }
    unary |= {
        name: getattr(F, name)
        for name in ("relu", "gelu", "silu", "softplus", "mish", "elu", "selu", "leaky_relu", "hardswish", "logsigmoid")
    }
    found: dict[str, Function] = {
        f"{name} of a product": (lambda x, w, f=f: f((x @ w) / 4 if f is not torch.log1p else (x @ w).abs()), (x, w))
        for name, f in unary.items()
    }
    found |= {
        "softmax": (lambda x: x.softmax(-1), (x,)),
        "log_softmax": (lambda x: x.log_softmax(-1), (x,)),
        "layer_norm": (lambda x, v: F.layer_norm(x, (16,), v, v), (x, v)),
        "layer_norm of small numbers": (lambda x: F.gelu(F.layer_norm(x, (16,))), (x * 1e-2,)),
        "group_norm": (lambda x: F.group_norm(x, 3), (image,)),
        "instance_norm": (F.instance_norm, (image,)),
        "batch statistics": (lambda x: F.batch_norm(x, None, None, training=True), (image,)),
        "convolution": (lambda x, k: F.conv2d(x, k, padding=1).relu(), (image, kernel)),
        "strided convolution": (lambda x, k: F.conv2d(x, k, stride=2), (image, kernel)),
        "transposed convolution": (lambda x, k: F.conv_transpose2d(x, k.transpose(0, 1)), (image, kernel)),
        "max pool": (lambda x: F.max_pool2d(x, 2) * 3, (image,)),
        "mean pool": (lambda x: F.avg_pool2d(x, 3, 2, 1) + 1, (image,)),
        "bilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear") * 2, (image,)),
        "attention": (lambda q: F.scaled_dot_product_attention(q, q, q), (tokens[:, None],)),
        "masked logits": (masked, (x, w)),
        "argmax of masked logits": (lambda x, w: masked(x, w).argmax(-1), (x, w)),
        "top 5 of masked logits": (lambda x, w: masked(x, w).topk(5).indices, (x, w)),
        "softmax of masked logits": (lambda x, w: masked(x, w).softmax(-1), (x, w)),
        "comparison": (lambda x, w: (x @ w) > 0.5, (x, w)),
        "where": (lambda x, w: torch.where(x @ w > 0, x @ w, -(x @ w).exp()), (x, w)),
        "channels of all sizes": (lambda x, w: (x @ w).sin() * w.abs().amax(0), (x, mixed)),
        "a timestamp beside features": (
            lambda t, x, w: torch.cat((t, torch.tanh(x @ w / 4)), 1),
            (1.7e9 + 128 * torch.arange(8.0)[:, None], x, w),
        ),
        "argmax": (lambda x: (x * 2).argmax(1), (x,)),
        "sorted": (lambda x: (x * 2).sort(-1), (x,)),
        "sum": (lambda x: (x * x).sum(), (x,)),
        "variance": (lambda x: x.var(-1) + 1, (x,)),
        "norm": (lambda x: (x * 2).norm(dim=-1), (x,)),
        "running sum": (lambda x: (x * 2).cumsum(-1), (x,)),
        "cosine similarity": (lambda x: F.cosine_similarity(x, x.flip(0)), (x,)),
        "cross entropy": (lambda x, w: F.cross_entropy((x @ w)[:, :5], labels), (x, w)),
        "Huber loss": (lambda x: F.huber_loss(x, x.flip(0)), (x,)),
        "divergence": (lambda x: F.kl_div(x.log_softmax(-1), x.flip(0).softmax(-1), reduction="batchmean"), (x,)),
        "gradient of relu": (grad(lambda w, x: torch.relu(x @ w).square().mean()), (w, x)),
        "gradient of relu, channels of all sizes": (grad(lambda x, w: torch.relu(x @ w)[:, 1:].sum()), (x, mixed)),
        "gradient of layer_norm": (grad(lambda x: F.layer_norm(x, (16,)).sin().sum()), (x,)),
        "gradient of a convolution": (grad(lambda k, x: F.conv2d(x, k).square().mean()), (kernel, image)),
        "gradient of max pool": (grad(lambda x: F.max_pool2d(x, 2).square().sum()), (image,)),
        "gradient of cross entropy": (grad(lambda x: F.cross_entropy(x, labels)), (x,)),
        "per-sample gradients": (
            lambda w, x: vmap(grad(lambda w, x: torch.tanh(x @ w).square().sum()), (None, 0))(w, x),
            (w, x),
        ),
        "tangents": (lambda x: jvp(lambda y: F.gelu(y).softmax(-1), (x,), (x.sin(),))[1], (x,)),
    }
    return found


def _attribute(model: onnx.ModelProto, node: onnx.NodeProto, name: str, change: Callable[[Any], Any]) -> str:
    for attribute in node.attribute:
        if attribute.name == name:
            value = change(helper.get_attribute_value(attribute))
            attribute.CopyFrom(helper.make_attribute(name, value))
            return node.name
    return ""


def _beside(node: onnx.NodeProto, kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    """Return a node that stands for the same recorded operator as another."""
    made = helper.make_node(kind, inputs, [output], name="planted", **attributes)
    made.metadata_props.extend(node.metadata_props)
    return made


def _behind(kind: str, constant: float | None = None) -> Change:
    """Put a node behind a node's first output."""

    def change(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
        types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)}
        if types.get(node.output[0]) != onnx.TensorProto.FLOAT:
            return ""
        position, value = list(model.graph.node).index(node), node.output[0]
        node.output[0] = "planted.before"
        inputs = ["planted.before"]
        if constant is not None:
            model.graph.initializer.append(numpy_helper.from_array(np.array(constant, np.float32), "planted.constant"))
            inputs.append("planted.constant")
        model.graph.node.insert(position + 1, _beside(node, kind, inputs, value))
        return node.name

    return change


def _through_half(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)}
    if types.get(node.output[0]) != onnx.TensorProto.FLOAT:
        return ""
    position, value = list(model.graph.node).index(node), node.output[0]
    node.output[0] = "planted.before"
    half, whole = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    model.graph.node.insert(position + 1, helper.make_node("Cast", ["planted.before"], ["planted.half"], to=half))
    model.graph.node.insert(position + 2, _beside(node, "Cast", ["planted.half"], value, to=whole))
    return node.name


OTHER = {
    "Sin": "Cos", "Cos": "Sin", "Add": "Sub", "Sub": "Add", "Mul": "Add", "Div": "Mul", "Relu": "Abs", "Tanh": "Atan",
    "Sigmoid": "HardSigmoid", "Exp": "Softplus", "Sqrt": "Abs", "ArgMax": "ArgMin", "ReduceMax": "ReduceMin",
    "ReduceSum": "ReduceMean", "ReduceMean": "ReduceSum", "Greater": "Less", "LessOrEqual": "Less", "Max": "Min",
    "MaxPool": "AveragePool", "Softmax": "LogSoftmax", "LogSoftmax": "Softmax", "Erf": "Tanh", "Gelu": "Mish",
    "Neg": "Abs",
}  # fmt: skip


def _other_operator(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    if node.op_type not in OTHER or len([name for name in node.output if name]) > 1:
        return ""
    node.op_type = OTHER[node.op_type]
    if node.op_type in ("HardSigmoid", "Softplus", "Mish", "Abs", "Tanh"):
        del node.attribute[:]
    return node.name


def _swapped_inputs(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    if node.op_type not in ("Sub", "Div", "Greater", "LessOrEqual", "Less", "Pow"):
        return ""
    node.input[0], node.input[1] = node.input[1], node.input[0]
    return node.name


CHANGES: dict[str, Change] = {
    "× 1.0001": _behind("Mul", 1.0001),
    "+ 0.001": _behind("Add", 1e-3),
    "negated": _behind("Neg"),
    "through float16": _through_half,
    "another operator": _other_operator,
    "operands swapped": _swapped_inputs,
    "epsilon × 100": lambda model, node: _attribute(model, node, "epsilon", lambda e: e * 100),
    "another axis": lambda model, node: _attribute(
        model, node, "axis", lambda a: 0 if node.op_type in ("Softmax", "LogSoftmax", "ArgMax") else a
    ),
}


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of one defect: who caught it, and which node the verdict named."""

    function: str
    change: str
    node: str
    visible: bool
    caught: dict[str, bool]
    named: str


def _outputs(file: Path, fn: Callable[..., Any], args: tuple[Any, ...]) -> list[torch.Tensor] | None:
    try:
        with torch.no_grad():
            return list(describe(export.load(file, device="cpu")(*args), is_tensor, "out")[1])
    except export.errors.ExportError:
        return None


def _is_visible(found: list[torch.Tensor], sound: list[torch.Tensor], exact: list[torch.Tensor]) -> bool:
    for own, right, reference in zip(found, sound, exact, strict=True):
        if own.shape != right.shape or own.dtype != right.dtype:
            return True
        if not own.is_floating_point():
            if bool((own != right).any()):
                return True
            continue
        error, usual = (own.double() - reference).abs(), (right.double() - reference).abs()
        if bool((error > 100 * usual + 1e-4 * reference.abs() + 1e-30).any()) or bool(
            (own.isfinite() != right.isfinite()).any()
        ):
            return True
    return False


def _others(found: list[torch.Tensor], eager: list[torch.Tensor]) -> dict[str, bool]:
    pairs = [(a.numpy(), b.numpy()) for a, b in zip(found, eager, strict=True)]
    fits = all(a.shape == b.shape for a, b in pairs)

    def close(rtol: float, atol: float) -> bool:
        return fits and all(np.allclose(a, b, rtol, atol, equal_nan=True) for a, b in pairs)

    def asserted() -> bool:
        try:
            for a, b in zip(found, eager, strict=True):
                torch.testing.assert_close(a, b, equal_nan=True)
        except AssertionError:
            return False
        return True

    caught = {
        "allclose 1e-5": not close(1e-5, 1e-8),
        "allclose 1e-3": not close(1e-3, 1e-3),
        "torch.onnx": not asserted(),
    }
    if importlib.util.find_spec("polygraphy") is not None:
        from polygraphy.comparator import CompareFunc, IterationResult  # optional
        from polygraphy.logger import G_LOGGER

        G_LOGGER.severity = G_LOGGER.CRITICAL

        names = [str(i) for i in range(len(pairs))]
        one, two = (IterationResult(dict(zip(names, (pair[k] for pair in pairs), strict=True))) for k in (0, 1))
        caught["Polygraphy"] = not all(map(bool, CompareFunc.simple()(one, two).values()))
    return caught


def planted(seed: int, limit: int | None = None) -> Iterator[Result]:
    """Plant each kind of defect in each function once, in a node that the seed picks."""
    chooser = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        for name, (fn, args) in list(functions(seed).items())[:limit]:
            sound_file, file = Path(folder) / "sound.onnx", Path(folder) / "planted.onnx"
            export.to_onnx(fn, args, sound_file)
            arguments = take_apart(fn, args, None)
            eager = list(reference_runs.run(fn, arguments, arguments.leaves).leaves)
            exact = list(reference_runs.run(fn, arguments, arguments.leaves, to=torch.float64).leaves)
            sound = _outputs(sound_file, fn, args)
            assert sound is not None
            for kind, change in CHANGES.items():
                for position in chooser.permutation(len(onnx.load(sound_file).graph.node)):
                    model = onnx.load(sound_file)
                    node = change(model, model.graph.node[int(position)])
                    if node:
                        break
                else:
                    continue
                edited_files.save(model, file)
                found = _outputs(file, fn, args)
                if found is None:
                    continue
                visible = _is_visible(found, sound, exact)
                verdict = export.verify(fn, args, file, device="cpu")
                others = _others(found, eager) if [a.dtype for a in found] == [b.dtype for b in eager] else {}
                named = "" if verdict.divergence is None else verdict.divergence.node
                yield Result(name, kind, node, visible, {"verify": verdict.status == "fail", **others}, named)


def _operator(node: str) -> str:
    """Return the recorded operator that a node belongs to, from its name."""
    return node.rpartition(".")[0]


def summary(results: list[Result]) -> str:
    """Return the table: of the visible defects, who catches how many; and how often the right node is named."""
    visible = [result for result in results if result.visible]
    columns = list(dict.fromkeys(key for result in results for key in result.caught))
    lines = [f"{len(results)} defects in {len({r.function for r in results})} functions, {len(visible)} visible"]
    for kind in [*CHANGES, "all"]:
        rows = [r for r in visible if kind in (r.change, "all")]
        cells = ", ".join(f"{column} {sum(r.caught.get(column, True) for r in rows)}" for column in columns)
        lines.append(f"{kind:18} {len(rows):4} visible: {cells}")
    located = [r for r in visible if r.caught["verify"]]
    right = sum(_operator(r.named) == _operator(r.node) or r.named == "planted" for r in located)
    lines.append(f"right operator named first: {right} of {len(located)}")
    lines += [f"missed: {r.function}, {r.change} at {r.node}" for r in visible if not r.caught["verify"]]
    others = [r for r in located if r.named != "planted" and _operator(r.named) != _operator(r.node)]
    lines += [f"named {r.named} for {r.node}: {r.function}, {r.change}" for r in others]
    unseen = sum(r.caught["verify"] for r in results if not r.visible)
    lines.append(f"caught though not counted as visible: {unseen} of {len(results) - len(visible)}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    print(summary(list(planted(parser.parse_args().seed))))
