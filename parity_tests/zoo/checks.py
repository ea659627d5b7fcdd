"""What is checked of one model of the zoo: stage by stage, against the module itself."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

import export
import pure
from export.errors import ExportError
from export.verdict.locating.failures import FAILURES
from parity_tests.zoo.making import Entry, inputs, make
from pure import tree
from pure.errors import PureError
from pure.interop import from_module
from pure.interop.one_path import SEEN_THROUGH
from pure.interop.replaced.counter_noise import CounterNoise
from pure.interop.replaced.random_draws import ReplacedDraws

__all__ = ["STAGES", "Stage", "stages"]

FILE_TOLERANCE = 1e-3
"""How far what a file returns may be from the module's, of the largest element, for "right" without a verdict."""
EAGER_TOLERANCE = 1e-5
"""How far two eager computations with the same kernels may be apart, of the largest element."""
GRADIENT_TOLERANCE = 1e-4
"""How far two eager gradients may be apart, of the largest element of all of a model's gradients."""
BATCH, OTHER_BATCH, LONGER = 2, 3, 4
FILES = "forward file", "gradient file"
"""The stages that write a file of ours."""
LENGTH = 1
"""The axis of tokens that is as long as the text."""
BATCH_ONLY, WITH_LENGTH, FIXED_LENGTH = "batch", "batch and length", "batch, at a fixed length"
"""Which sizes a file leaves open: of texts the length too, where that can be."""


class WrongValueError(Exception):
    """A value that is not the module's."""


@dataclass(frozen=True)
class Stage:
    """What one stage came to.

    Attributes:
        name: which of `STAGES`.
        status: right, wrong (a value differs and nothing says so), told (a verdict failed), open (it passes and names
            picks that rounding leaves open), typed (an error of ours that names its cause), or untyped.
        seconds: CPU time of the export, or of the whole stage where nothing is exported; other work on the machine does
            not count into it.
        nodes: of the file.
        detail: the error or difference.
        open_sizes: which sizes the file leaves open.
    """

    name: str
    status: str
    seconds: float = 0.0
    nodes: int = 0
    detail: str = ""
    open_sizes: str = ""


class Model:
    """A model with what the stages share.

    Args:
        entry: which model.
        folder: where its files go.
        verdicts: the stages whose files get a verdict; others are only compared with the module.

    Attributes:
        choices: which sizes a file leaves open, at best and else.
        ours: the same for our files; what the forward file had to fix, the gradient's file fixes from the start.
    """

    def __init__(self, entry: Entry, folder: Path, verdicts: Collection[str]) -> None:
        self.entry, self.folder, self.verdicts = entry, folder, verdicts
        self.block, self.params, self.state = from_module(make(entry))
        self.given = inputs(entry, BATCH, 0)
        self.first, *others = entry.takes
        self.others = others
        texts = any(map(entry.is_text, entry.takes))
        self.choices = self.ours = (WITH_LENGTH, FIXED_LENGTH) if texts else (BATCH_ONLY,)

    def arguments(self, given: Mapping[str, Tensor]) -> tuple[Any, ...]:
        """Return what the block takes: parameters, first input, state, the other inputs by name."""
        return self.params, given[self.first], self.state, {name: given[name] for name in self.others}

    def sizes(self, name: str, opened: str) -> dict[int, str]:
        """Return an input's dynamic axes."""
        if opened == WITH_LENGTH and self.entry.is_text(name):
            return {0: "batch", LENGTH: f"{name}_length"}
        return {0: "batch"}

    def dynamic(self, opened: str) -> tuple[Any, ...]:
        """Return what `to_onnx` takes as its dynamic sizes."""
        return None, self.sizes(self.first, opened), None, {name: self.sizes(name, opened) for name in self.others}

    def other_inputs(self, opened: str) -> dict[str, Tensor]:
        """Return inputs of other sizes than those of the export."""
        return inputs(self.entry, OTHER_BATCH, 1, LONGER if opened == WITH_LENGTH else 0)

    def written(self, fn: Callable[..., Any], path: Path) -> Stage:
        """Export a function; return what it took, with a status yet to come.

        Raises:
            ExportError: the export fails even with the batch alone left open.
        """
        for opened in self.ours:
            began = time.process_time()
            try:
                file = export.to_onnx(fn, self.arguments(self.given), path, dynamic=self.dynamic(opened))
                return Stage("", "", time.process_time() - began, file.nodes, "", opened)
            except ExportError:
                if opened == self.ours[-1]:
                    raise
        raise AssertionError

    def gradient(self) -> Callable[..., Any]:
        """Return the gradient of a loss with respect to the parameters, as a function of what the block takes."""

        def loss(params: Any, x: Any, state: Any, extras: Any) -> Tensor:
            return weighted(self.block(params, x, state, extras))

        return pure.grad(loss)


def weighted(y: Any) -> Tensor:
    """Return a loss that sees every element of every output with a weight of its own."""
    total = torch.zeros(())
    for leaf in floats(y):
        ramp = (
            torch.linspace(-1, 1, leaf.shape[-1], dtype=leaf.dtype) if leaf.ndim else torch.ones((), dtype=leaf.dtype)
        )
        total = total + (torch.tanh(leaf) * ramp).mean()
    return total


def floats(y: Any) -> list[Tensor]:
    """Return the floating-point tensors of an output."""
    return [leaf for leaf in tree.tree_flatten(y)[0] if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def compare(found: list[Tensor], expected: list[Tensor], tolerance: float, what: str) -> None:
    """Raise `WrongValueError` if a tensor is further off than the tolerance times the largest element."""
    if len(found) != len(expected):
        raise WrongValueError(f"{what}: {len(found)} tensors, the module has {len(expected)}")
    finite = [leaf.detach()[leaf.detach().isfinite()].abs() for leaf in expected]
    largest = max((float(leaf.max()) for leaf in finite if leaf.numel()), default=0.0) or 1.0
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        if ours.shape != theirs.shape:
            raise WrongValueError(f"{what} {number}: {tuple(ours.shape)}, the module's is {tuple(theirs.shape)}")
        apart = torch.where(ours == theirs, 0.0, ours - theirs).detach()  # equal infinities are no distance apart
        error = apart.abs().max().item() if ours.numel() else 0.0
        if not error <= tolerance * largest:
            raise WrongValueError(f"{what} {number}: {error:.3g} off, at most {largest:.3g}")


def evaluation(model: Model) -> Stage:
    """The block's value, of two batches, is the module's."""
    began = time.process_time()
    with torch.no_grad():
        for batch, seed in ((BATCH, 0), (OTHER_BATCH, 1)):
            given = inputs(model.entry, batch, seed)
            found = model.block(*model.arguments(given))
            compare(floats(found), floats(make(model.entry)(**given)), EAGER_TOLERANCE, "output")
    return Stage("evaluation", "right", time.process_time() - began)


def forward(model: Model) -> Stage:
    """The file's value at another batch, and length, is the module's, and it passes its verdict where one is given."""
    path = model.folder / "forward.onnx"
    stage = replace(model.written(model.block, path), name="forward file")
    model.ours = model.ours[model.ours.index(stage.open_sizes) :]
    given = model.other_inputs(stage.open_sizes)
    loaded = export.load(path, device="cpu")
    y = loaded(*model.arguments(given))
    with torch.no_grad():
        expected = floats(make(model.entry)(**given))
    close = error_of(lambda: compare(floats(y), expected, FILE_TOLERANCE, "output of the file"))
    return judged(model, model.block, path, close, stage)


def judged(model: Model, fn: Callable[..., Any], path: Path, close: str, stage: Stage) -> Stage:
    """Return a file's stage by its verdict and by a plain comparison, whose complaint is given."""
    if stage.name not in model.verdicts:
        return replace(stage, status="wrong" if close else "right", detail=close)
    verdict = export.verify(fn, model.arguments(model.given), path, dynamic=model.dynamic(stage.open_sizes))
    reasons = [row.reason or f"ratio {row.ratio}" for row in verdict.rows if row.status not in ("pass", "skipped")]
    detail = "; ".join(filter(None, (close, *reasons)))[:400]
    if verdict.status == "fail":
        return replace(stage, status="told", detail=detail or verdict.status)
    if close and verdict.decisions:  # equal scores of a router that starts at 0, of which each runtime takes its own
        return replace(stage, status="open", detail=f"{close}; {verdict.decisions[0]}"[:400])
    return replace(stage, status="wrong" if close else "right", detail=detail)


def error_of(check: Callable[[], None]) -> str:
    """Return what a comparison says; empty if it holds."""
    try:
        check()
    except WrongValueError as error:
        return str(error)
    return ""


def autograd(module: nn.Module, value: Callable[[], Any]) -> dict[str, Tensor]:
    """Return a loss's gradients by autograd, zeros where the loss does not depend on a parameter."""
    leaves = dict(module.named_parameters())
    taken = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    found = torch.autograd.grad(weighted(value()), list(taken.values()), allow_unused=True)
    by_name = dict(zip(taken, found, strict=True))
    return {
        name: torch.zeros_like(leaf) if by_name.get(name) is None else by_name[name] for name, leaf in leaves.items()
    }


def compare_gradients(
    found: Any, module: nn.Module, value: Callable[[], Any], what: str, tolerance: float = GRADIENT_TOLERANCE
) -> None:
    """Raise `WrongValueError` if gradients are not those of autograd on the module."""
    ours, theirs = pure.flatten(found), autograd(module, value)
    fixed = {name for name, leaf in module.named_parameters() if not leaf.requires_grad}
    names = [name for name in theirs if name not in fixed]
    compare([ours[name] for name in names], [theirs[name] for name in names], tolerance, what)


def gradient(model: Model) -> Stage:
    """The gradient with respect to all parameters is autograd's."""
    began = time.process_time()
    found = model.gradient()(*model.arguments(model.given))
    module = make(model.entry)  # one that remembers nothing, as timm's levit and tiny_vit do in evaluation
    compare_gradients(found, module, lambda: module(**model.given), "gradient")
    return Stage("gradient", "right", time.process_time() - began)


def gradient_file(model: Model) -> Stage:
    """The same of the gradient's file and autograd."""
    path = model.folder / "gradient.onnx"
    stage = replace(model.written(model.gradient(), path), name="gradient file")
    given = model.other_inputs(stage.open_sizes)
    found = export.load(path, device="cpu")(*model.arguments(given))

    def check() -> None:
        module = make(model.entry)
        compare_gradients(found, module, lambda: module(**given), "gradient of the file", FILE_TOLERANCE)

    close = error_of(check)
    return judged(model, model.gradient(), path, close, stage)


def training(model: Model) -> Stage:
    """Outputs, state and gradients in training mode are the module's, with the same draws."""
    began = time.process_time()
    module = make(model.entry).train()
    block, params, state = from_module(module)
    args = model.arguments(model.given)
    noise = block.noise(tuple(args[1].shape), torch.Generator().manual_seed(3))

    def apply(params: Any) -> tuple[Any, Any]:
        return block.apply(params, args[1], state, args[3], True, noise)

    def loss(params: Any) -> tuple[Tensor, Any]:
        y, new_state = apply(params)
        return weighted(y), (y, new_state)

    try:
        grads, (y, new_state) = pure.grad(loss, has_aux=True)(params)
    except pure.errors.NoiseError:  # found to draw in this call
        noise = block.noise(tuple(args[1].shape), torch.Generator().manual_seed(3))
        grads, (y, new_state) = pure.grad(loss, has_aux=True)(params)
    if noise:
        again, _ = apply(params)
        compare(floats(again), floats(y), EAGER_TOLERANCE, "output with the same noise")
    seed = noise.get("seed") if noise else None
    with SEEN_THROUGH, ReplacedDraws(None if seed is None else CounterNoise(seed), "module"):
        expected = {}

        def value() -> Any:
            expected["y"] = module(**model.given)
            return expected["y"]

        compare_gradients(grads, module, value, "gradient in training")
    compare(floats(y), floats(expected["y"]), EAGER_TOLERANCE, "output in training")
    buffers, ours = dict(module.named_buffers()), pure.flatten(new_state)
    names = [name for name in ours if buffers[name].numel()]
    compare(
        [ours[name].double() for name in names], [buffers[name].double() for name in names], EAGER_TOLERANCE, "state"
    )
    return Stage("training", "right", time.process_time() - began, detail="draws" if noise else "")


def of_torch_onnx(model: Model) -> Stage:
    """What torch.onnx.export writes of the same module, with the same dynamic sizes, by the plain comparison."""
    path = model.folder / "theirs.onnx"
    outcomes = [Stage("torch.onnx", "typed")]
    for opened in model.choices:
        outcomes.append(_of_torch_onnx(model, path, opened))
        if outcomes[-1].status == "right":
            break
    return outcomes[-1]


def _of_torch_onnx(model: Model, path: Path, opened: str) -> Stage:
    module = make(model.entry)
    sizes = {name: model.sizes(name, opened) for name in model.entry.takes}
    dims = {size: torch.export.Dim(size) for axes in sizes.values() for size in axes.values()}
    dynamic = {name: {axis: dims[size] for axis, size in axes.items()} for name, axes in sizes.items()}
    began, nodes = time.process_time(), 0
    try:
        program = torch.onnx.export(
            module, (), path, kwargs=dict(model.given), dynamic_shapes=dynamic, external_data=False, verbose=False
        )
        seconds = time.process_time() - began
        nodes = sum(1 for _ in program.model.graph.all_nodes()) if program is not None else 0
        given = model.other_inputs(opened)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = session.run(None, {entry.name: given[entry.name].numpy() for entry in session.get_inputs()})
    except FAILURES as error:  # there is no file, or none that runs
        return Stage("torch.onnx", "typed", time.process_time() - began, nodes, _line(error), opened)
    with torch.no_grad():
        expected = floats(make(model.entry)(**given))
    theirs = [torch.from_numpy(y) for y in found if np.issubdtype(y.dtype, np.floating)]
    close = error_of(lambda: compare(theirs, expected, FILE_TOLERANCE, "output of the file"))
    return Stage("torch.onnx", "wrong" if close else "right", seconds, nodes, close, opened)


STAGES: dict[str, Callable[[Model], Stage]] = {
    "evaluation": evaluation,
    "forward file": forward,
    "torch.onnx": of_torch_onnx,
    "gradient": gradient,
    "gradient file": gradient_file,
    "training": training,
}


def stages(entry: Entry, chosen: tuple[str, ...], verdicts: Collection[str] = FILES) -> Iterator[Stage]:
    """Yield each stage's outcome; an error is one as well."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Model(entry, Path(folder), verdicts)
        for name in chosen:
            began = time.process_time()
            try:
                yield STAGES[name](model)
            except WrongValueError as error:
                yield Stage(name, "wrong", time.process_time() - began, 0, str(error)[:400])
            except (ExportError, PureError) as error:
                yield Stage(name, "typed", time.process_time() - began, 0, f"{type(error).__name__}: {error}"[:600])
            except (*FAILURES, NameError, ImportError) as error:
                yield Stage(name, "untyped", time.process_time() - began, 0, f"{type(error).__name__}: {error}"[:600])


def _line(error: Exception) -> str:
    causes = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(f"{type(cause).__name__}: {str(cause).strip().splitlines()[0] if str(cause).strip() else ''}")
        cause = cause.__cause__
    return " | ".join((causes[0], causes[-1]))[:400]
