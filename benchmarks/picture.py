"""The picture of README.md: gradients at every depth of four networks on real digits, before training.

`python -m benchmarks.picture` draws it from the committed results; with --measure it measures them again first.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import environment
from export.app.pages.style import CHART, COLOURS
from export.app.report import digits as real_digits
from export.app.report.measuring import measure
from export.app.report.page import chart
from export.app.report.page.chart import Axes, Line
from export.app.report.settings import Settings

ROOT = Path(__file__).parents[1]
RESULTS = Path("benchmarks/results/gradients.json")
PICTURE = Path("docs/assets/gradients.svg")
TITLE = "Gradient of the loss with respect to each of 24 layers, median over 256 handwritten digits, before training"


def measured() -> dict[str, Any]:
    """The median norm of the gradient by layer, for each network of the report."""
    settings = Settings()
    digits = real_digits.load(settings)
    found = {}
    for network in real_digits.networks(settings):
        params, _ = network.block.init(torch.Generator().manual_seed(settings.seed))
        found[network.title] = {"name": network.name, "median": list(measure(network, params, digits, settings).median)}
    return {"environment": environment(), "networks": found}


def drawn(data: Mapping[str, Any]) -> str:
    """The results as an SVG file that follows light and dark, from the last layer to the first."""
    lines = [
        Line(entry["name"], title.removeprefix("plain, "), list(range(len(entry["median"]))), entry["median"][::-1])
        for title, entry in data["networks"].items()
    ]
    axes = Axes("layers between it and the output", chart.limits(lines), log=True)
    ends = "; ".join(f"{line.label}: from {line.y[0]:.1e} to {line.y[-1]:.1e}" for line in lines)
    svg = chart.draw(lines, axes, title=TITLE, description=ends)
    style = f"<style>{COLOURS}{CHART} text {{ font-family: system-ui, sans-serif; }}</style>"
    head, _, body = svg.removeprefix("<svg ").partition(">")
    return f'<svg xmlns="http://www.w3.org/2000/svg" {head}>{style}{body}\n'


def main(arguments: list[str]) -> None:
    """Draw the picture."""
    if "--measure" in arguments:
        (ROOT / RESULTS).write_text(json.dumps(measured(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    data = json.loads((ROOT / RESULTS).read_text(encoding="utf-8"))
    (ROOT / PICTURE).write_text(drawn(data), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
