"""scikit-learn's two photographs through the enhancer, as they are and darkened, so that each branch is taken."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import export
import pure
from export.app.report.digits import MISSING
from export.app.report.enhancer import DARK, designed, encoded, enhance, linear_light, row_luminance
from export.app.report.judging import providers_of, verdict_dict
from export.app.report.settings import Settings
from export.errors import ArgumentError
from export.runtime import sessions
from export.verdict.verdict_result import Verdict

__all__ = ["STOPS", "Enhanced", "Shot", "darken", "load", "run"]

STOPS = 3
"""How far the darkened versions are under-exposed: each stop halves the light."""

DYNAMIC = (None, {2: "height", 3: "width"})


@dataclasses.dataclass(frozen=True)
class Shot:
    """One picture's way through the file.

    Attributes:
        title: for example "darkened china.jpg".
        darkened: whether the light was taken away before.
        before: (3, height, width), sRGB values of 0…1.
        after: what ONNX Runtime returned, of the same shape.
        luminance: mean relative luminance, computed inside the file.
        luminance_after: the same of the result.
        enhanced: whether ONNX Runtime ran the enhancing branch.
        eager_enhanced: whether the eager function did.
        margin: how far the darkness lies above the threshold.
        rounding: how far that margin moves between float64 and float32.
    """

    title: str
    darkened: bool
    before: Tensor
    after: Tensor
    luminance: float
    luminance_after: float
    enhanced: bool
    eager_enhanced: bool
    margin: float | None
    rounding: float | None
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, without the pictures."""
        plain = {key: value for key, value in vars(self).items() if key not in ("before", "after")}
        height, width = self.before.shape[1:]
        return {**plain, "height": height, "width": width, "verdict": verdict_dict(self.verdict)}


@dataclasses.dataclass(frozen=True)
class Enhanced:
    """The enhancer's file and what it did to each picture.

    Attributes:
        file: name of the ONNX file.
        params_file: name of the file with the hand-designed parameters.
        nodes: ONNX nodes, those of both branches included.
        bytes: size of the ONNX file.
        ran_on: "cpu" or "cuda".
        providers: {execution provider: nodes it runs}.
        threshold: mean luminance below which an image is enhanced.
        stops: how far the darkened versions are under-exposed.
        shots: the pictures.
        seconds: {"export", "run"}.
    """

    file: str
    params_file: str
    nodes: int
    bytes: int
    ran_on: str
    providers: dict[str, int]
    threshold: float
    stops: int
    shots: tuple[Shot, ...]
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, without the pictures."""
        return {**vars(self), "shots": [shot.to_dict() for shot in self.shots]}


def load(settings: Settings) -> dict[str, Tensor]:
    """Load the photographs: {file name: (3, height, width)}, sRGB values of 0…1.

    Raises:
        ArgumentError: scikit-learn or Pillow is not installed.
    """
    try:
        import PIL  # noqa: F401  scikit-learn reads pictures with it
        from sklearn.datasets import load_sample_images  # comes with the extra `report`
    except ImportError as error:
        raise ArgumentError(MISSING.format(what=error.name)) from error
    bunch = load_sample_images()
    step = settings.stride
    return {
        Path(name).name: torch.tensor(picture[::step, ::step]).permute(2, 0, 1).contiguous() / 255
        for name, picture in zip(bunch.filenames, bunch.images, strict=True)
    }


def darken(image: Tensor) -> Tensor:
    """Return the picture as if under-exposed by `STOPS`, in the 256 levels that a camera's file has."""
    return (encoded(linear_light(image) / 2**STOPS) * 255).round() / 255


def run(settings: Settings, folder: Path) -> Enhanced:
    """Export the enhancer once and run every picture through the file, judging each."""
    params, pictures = designed(), load(settings)
    path, params_path = folder / "enhancer.onnx", folder / "enhancer.safetensors"
    first = next(iter(pictures.values()))
    began = time.perf_counter()
    exported = export.to_onnx(enhance, (params, first[None]), path, dynamic=DYNAMIC)
    pure.save(params, params_path)
    written = time.perf_counter()
    loaded = export.load(path, device=settings.device)
    shots: list[Shot] = []
    seconds = 0.0
    for name, picture in pictures.items():
        for darkened in (False, True):
            before = darken(picture) if darkened else picture
            ran = time.perf_counter()
            out = loaded(params, before[None])
            seconds += time.perf_counter() - ran
            sizes = None if shots else DYNAMIC  # other heights and widths are tried with the first picture
            verdict = export.verify(enhance, (params, before[None]), path, dynamic=sizes, device=settings.device)
            shots.append(_shot(f"darkened {name}" if darkened else name, darkened, before, out, verdict))
    return Enhanced(
        file=path.name,
        params_file=params_path.name,
        nodes=exported.nodes,
        bytes=exported.size,
        ran_on=sessions.choose(settings.device).device,
        providers=providers_of(loaded),
        threshold=DARK,
        stops=STOPS,
        shots=tuple(shots),
        seconds={"export": written - began, "run": seconds},
    )


def _shot(title: str, darkened: bool, before: Tensor, out: dict[str, Tensor], verdict: Verdict) -> Shot:
    """Collect what one call returned; a picture that passed is the same bit for bit."""
    (predicate,) = verdict.predicates
    after = out["image"][0]
    return Shot(
        title=title,
        darkened=darkened,
        before=before,
        after=after,
        luminance=float(out["row_luminance"].mean()),
        luminance_after=float(row_luminance(after[None]).mean()),
        enhanced=not torch.equal(after, before),
        eager_enhanced=predicate.taken,
        margin=predicate.margin,
        rounding=predicate.rounding,
        verdict=verdict,
    )
