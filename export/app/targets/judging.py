"""Targets exported and judged, and files judged against targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import export
from export.app.catalogue_examples import Call
from export.app.targets import inputs as example_inputs
from export.app.targets.calls import plain_module_call, ready
from export.app.targets.inputs import Given
from export.app.targets.resolution import Target, resolve, running
from export.errors import ArgumentError, ExportError
from export.files import protobuf_wire
from export.files.call_schema import read_call
from export.graph.model_file import read_model
from export.quantization import npz_samples
from export.verdict.verdict_result import Verdict
from pure import tree
from pure.block import Block, specification

__all__ = ["Judged", "Settings", "judge_export", "judge_file", "write_float_file"]

Judged = Verdict | ExportError


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the options of the command say.

    Attributes:
        inputs: files of inputs, one sample each; none for drawn ones.
        weights: a safetensors file with the target's parameters.
        opset: of the file.
        check: whether a file that holds a digest is compared with it.
        limit: the largest ratio that passes.
        device: where the file runs.
        seed: of parameters and inputs that are drawn.
    """

    inputs: tuple[Path, ...] = ()
    weights: Path | None = None
    opset: int | None = None
    check: bool = True
    limit: float | None = None
    device: str = "auto"
    seed: int = 0


def judge_export(name: str, settings: Settings) -> Verdict:
    """Export a target to a temporary file and judge it, at perturbed parameters unless weights are given.

    Raises:
        ArgumentError: an unknown target, a file without `--against`, or inputs that do not fit.
        ExportError: what `to_onnx` and `verify` raise.
    """
    if name.endswith(".onnx"):
        raise ArgumentError(f"{name} is a file: say what it should compute, {name} --against TARGET")
    target = resolve(name, seed=settings.seed)
    samples: list[Given | None] = [example_inputs.read(path) for path in settings.inputs]
    calls = [
        ready(target, seed=settings.seed, given=given, weights=settings.weights, moved=True)
        for given in samples or [None]
    ]
    with running(target):
        return _verdict(calls, None, settings, dynamic=calls[0].dynamic, opset=settings.opset)


def judge_file(file: Path, against: str, settings: Settings) -> Verdict:
    """Judge a file against a target, on the inputs given, the row's own, or such as the file declares.

    Parameters that the file takes as inputs are perturbed unless weights are given.

    Raises:
        ArgumentError: an unknown target, inputs that do not fit, or another opset than asked for.
        ExportError: what `verify` raises.
    """
    metadata = read_call(protobuf_wire.read_header(file), file)
    declared = example_inputs.declared(file, settings.seed)
    if settings.opset is not None and (found := _opset(file)) != settings.opset:
        raise ArgumentError(f"{file} is of opset {found}, expected {settings.opset}: export it again, or drop --opset")
    target = resolve(against, seed=settings.seed)
    samples: list[Given | None] = [example_inputs.read(path) for path in settings.inputs]
    if not samples:
        samples = [None if target.kind == "row" else Given(declared, in_order=True, origin=f"inputs of {file}")]
    arguments = metadata["arguments"] if metadata is not None else []
    if isinstance(target.value, nn.Module) and "params" not in [argument["name"] for argument in arguments]:
        own = set(target.value.state_dict())
        calls = [
            plain_module_call(target, settings.seed, _inputs_only(given, declared, own), settings.weights)
            for given in samples
        ]
        with running(target):
            return _verdict(calls, file, settings)
    own = _own_names(target, settings)
    open_params = any(argument["name"] == "params" and not argument["baked"] for argument in arguments)
    calls = [
        ready(
            target,
            seed=settings.seed,
            given=_inputs_only(given, declared, own),
            weights=settings.weights,
            moved=open_params,
        )
        for given in samples
    ]
    first = calls[0]
    inside = not arguments and len(declared) < len(tree.leaves(list(first.args)))
    bake = first.positions(*first.owned) if own and inside else ()
    with running(target):
        return _verdict(calls, file, settings, bake=bake)


def write_float_file(target: Target, folder: Path, data: Path, weights: Path | None, seed: int) -> Path:
    """Export a target with its parameters inside, for samples as an .npz file holds them, and return the file."""
    samples = example_inputs.read(data)
    arrays = {name: value[:2] if value.ndim else value for name, value in samples.arrays.items()}
    arrays.pop(npz_samples.LABELS, None)
    call = ready(target, seed=seed, given=dataclasses.replace(samples, arrays=arrays), weights=weights)
    file = folder / "model.onnx"
    with running(target):
        export.to_onnx(call.fn, call.args, file, bake=call.positions(*call.owned), dynamic=call.dynamic)
    return file


def _verdict(calls: Sequence[Call], file: Path | None, settings: Settings, **options: Any) -> Verdict:
    """Judge the first call, with the others as further samples."""
    first, *others = calls
    if first.kwargs:
        options["kwargs"] = first.kwargs
    if others:
        options["samples"] = [other.args for other in others]
    if file is not None:
        options["check"] = settings.check
    return export.verify(first.fn, first.args, file, device=settings.device, limit=settings.limit, **options)


def _own_names(target: Target, settings: Settings) -> set[str]:
    """Return the dotted names of a block's own leaves, with and without the argument's name in front."""
    if not isinstance(target.value, Block | nn.Module):
        return set()
    if isinstance(target.value, nn.Module):
        trees: dict[str, Any] = {"params": dict(target.value.state_dict())}
    else:
        params, state = specification(target.value)
        trees = {"params": tree.flatten(params), "state": tree.flatten(state)}
    flat = {(root, name) for root, leaves in trees.items() for name in leaves}
    return {name for _, name in flat} | {f"params.{name}" for _, name in flat} | {f"state.{name}" for _, name in flat}


def _inputs_only(given: Given | None, declared: Mapping[str, Tensor], own: set[str]) -> Given | None:
    """Return arrays without those that are parameters; in the order of the file's inputs if they are named so."""
    if given is None:
        return None
    in_order = set(given.arrays) <= set(declared)
    order = [name for name in (declared if in_order else given.arrays) if name in given.arrays and name not in own]
    return dataclasses.replace(given, arrays={name: given.arrays[name] for name in order}, in_order=in_order)


def _opset(file: Path) -> int:
    """Return the file's opset of the standard operators."""
    imported = read_model(file).opset_import
    return next((int(entry.version) for entry in imported if entry.domain in ("", "ai.onnx")), 0)
