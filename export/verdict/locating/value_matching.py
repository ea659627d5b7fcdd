"""The first wrong node of a file that anyone wrote, whose nodes say nothing of the function: values matched by value.

Each floating point value of the file is held against the recorded values of the same number of elements. One that
equals a recorded value within rounding is right, and so is everything that it alone is made of. Fused and decomposed
operators leave values without a counterpart; they are right as long as something made of them has one. The first node
that is unmatched, with nothing matched made of it, is the suspect; one that is close to a recorded value, or whose
stored tensors are not the given ones, is preferred.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import onnx
import torch
from torch import Tensor

from export.graph.functions.function_bodies import reads
from export.verdict.comparison import element_ratios
from export.verdict.locating.opened_graph import Opened, Site
from export.verdict.sampled import Sampled

__all__ = ["Match", "Suspect", "float_sites", "matched", "suspect"]

NEAR = 0.1
"""How far, as a share of its norm, a recorded value may be from the file's to be taken for what was meant."""

PLACES = 12
"""How many elements of a value are looked at before all are."""


@dataclasses.dataclass(frozen=True)
class Match:
    """A value of the file and the recorded value that it equals.

    Attributes:
        site: the value in the file.
        key: the recorded operator.
    """

    site: Site
    key: str


@dataclasses.dataclass(frozen=True)
class Suspect:
    """The node that is held to be wrong first.

    Attributes:
        site: its value.
        key: the recorded operator whose value is near; empty if none is.
    """

    site: Site
    key: str


def float_sites(opened: Opened) -> list[Site]:
    """Return the floating point values outside loops, as the model declares or ONNX infers their types."""
    model = opened.model
    kinds = _kinds(model)
    if any(site.value not in kinds for site in opened.sites if not site.loops):
        kinds = _kinds(onnx.shape_inference.infer_shapes(model)) | kinds
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return [site for site in opened.sites if not site.loops and kinds.get(site.value) in floats]


def _kinds(model: onnx.ModelProto) -> dict[str, int]:
    return {
        value.name: value.type.tensor_type.elem_type
        for value in (*model.graph.value_info, *model.graph.output)
        if value.type.HasField("tensor_type")
    }


def matched(
    sites: Sequence[Site],
    values: Mapping[str, Tensor],
    recorded: Mapping[str, Sampled],
    dtypes: Mapping[str, torch.dtype],
    limit: float,
) -> list[Match]:
    """Match values of the file with recorded ones.

    Args:
        sites: the values.
        values: what the file gives, by name in the outermost graph.
        recorded: references with their scales.
        dtypes: what the recorded values are rounded to.
        limit: the largest ratio of equal values.
    """
    groups = _groups(recorded, dtypes)
    found = []
    for site in sites:
        value = values[site.output]
        flat = value.flatten().double()
        group = groups.get(flat.numel())
        if group is None or not flat.numel():
            continue
        close = (flat[group.places] - group.sample).abs() <= limit * group.scale
        close |= flat[group.places] == group.sample
        keys = [group.keys[i] for i in close.all(1).nonzero().flatten().tolist()]
        keys.sort(key=lambda key: recorded[key].reference.shape != value.shape)  # another form of it comes last
        for key in keys:
            flattened = Sampled(recorded[key].reference.flatten(), recorded[key].scale.flatten())
            if float(element_ratios(flat, flattened, dtypes[key])[0].max()) <= limit:
                found.append(Match(site, key))
                break
    return found


def suspect(
    opened: Opened,
    sites: Sequence[Site],
    values: Mapping[str, Tensor],
    matches: Sequence[Match],
    recorded: Mapping[str, Sampled],
    has_other_weights: Callable[[Site], bool],
) -> Suspect | None:
    """Return the node that is held to be wrong first; None if every value is right.

    Args:
        opened: the file.
        sites: its floating point values.
        values: what the file gives, by name in the outermost graph.
        matches: which of them are right.
        recorded: references with their scales.
        has_other_weights: tells whether a node reads a stored tensor that is not the given one.
    """
    right = {match.site.value for match in matches if _says_something(values[match.site.output])}
    right |= {match.site.value for match in matches} & {output.name for output in opened.model.graph.output}
    above: dict[str, tuple[str, ...]] = {
        name: tuple(reads(site.node)) for site in opened.sites for name in site.node.output if name
    }
    waiting = list(right)
    while waiting:  # everything that something right is made of
        for name in above.get(waiting.pop(), ()):
            if name not in right:
                right.add(name)
                waiting.append(name)
    # An operator's other results and those that are merely constant are no reason to suspect it.
    clear = {match.site.value for match in matches} | right
    clear |= {name for site in sites if site.value in right for name in site.node.output}
    suspects = [site for site in sites if site.value not in clear]
    if not suspects:
        return None
    for site in suspects:
        key = _near(values[site.output], recorded)
        if key or has_other_weights(site):
            return Suspect(site, key)
    return Suspect(suspects[0], "")


def _says_something(value: Tensor) -> bool:
    """Tell whether equality of a value is no accident: it has several elements that are not all the same."""
    flat = value.flatten()
    return flat.numel() > 1 and bool((flat != flat[0]).any())


def _near(value: Tensor, recorded: Mapping[str, Sampled]) -> str:
    """Return the recorded value of the same shape that is closest, if it is near; else an empty text."""
    value = value.double()
    best, key = NEAR, ""
    for name, sampled in recorded.items():
        reference = sampled.reference
        if reference.shape != value.shape or not bool(reference.isfinite().all()):
            continue
        size = float(reference.norm())
        distance = float((value - reference).norm()) / size if size else torch.inf
        if distance < best:
            best, key = distance, name
    return key


@dataclasses.dataclass(frozen=True)
class _Group:
    """Recorded values of one number of elements: at a few places, with their scales."""

    keys: list[str]
    places: Tensor
    sample: Tensor
    scale: Tensor


def _groups(recorded: Mapping[str, Sampled], dtypes: Mapping[str, torch.dtype]) -> dict[int, _Group]:
    by_size: dict[int, list[str]] = {}
    for key, sampled in recorded.items():
        if sampled.reference.is_floating_point() and sampled.reference.numel():
            by_size.setdefault(sampled.reference.numel(), []).append(key)
    found = {}
    for size, keys in by_size.items():
        places = torch.linspace(0, size - 1, min(PLACES, size), dtype=torch.float64).long()
        sample = torch.stack([recorded[key].reference.flatten()[places] for key in keys])
        scale = torch.stack([recorded[key].scale.flatten()[places] for key in keys])
        rounded = torch.stack([recorded[key].reference.flatten()[places].to(dtypes[key]).double() for key in keys])
        found[size] = _Group(keys, places, sample, scale + (rounded - sample).abs())
    return found
