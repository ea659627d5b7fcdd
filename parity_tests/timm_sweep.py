"""Every timm model of the families that `pure.nets` reads by name: does its checkpoint load, and compute the same?

    python -m parity_tests.timm_sweep                      # the table of docs/CHECKPOINTS.md, on standard output
    python -m parity_tests.timm_sweep 'seresnet*' --rows   # some models, one line each
    python -m parity_tests.timm_sweep --write              # renews docs/CHECKPOINTS.md

Two things are checked of each model, with random weights. At full size on the meta device: the checkpoint loads into
`nets.from_config` of its name, and `to_state_dict` gives back every name, shape and dtype. With values in float64, at
a small image size: outputs agree to 1e-10, and the round trip is exact bit for bit. Models of more than `MAX_FULL`
parameters have their values compared at one or two blocks a stage, every width their own; the row says so.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from parity_tests.libraries import timm, timm_layers, timm_registry, timm_resnetv2
from parity_tests.network_parity import randomised
from pure import nets
from pure.errors import PureError
from pure.interop import from_state_dict, to_state_dict

__all__ = ["FAMILIES", "Row", "check", "models", "report"]

FAMILIES: Final = (
    "resnet*",
    "resnext*",
    "seresnet*",
    "resnetv2*",
    "nf_resnet*",
    "densenet*",
    "convnext*",
    "vit_*",
    "deit*",
    "mobilenetv2*",
    "gmlp*",
    "mixer*",
)
NOT_EXPRESSED: Final[dict[str, str]] = {
    "byobnet": "BYOB networks: bottlenecks of other orders, attention pooling with positions",
    "eva": "EVA: rotary positions over two axes",
    "vision_transformer_hybrid": "hybrids: a convolutional network in place of the patches",
    "vision_transformer_relpos": "relative positions as a bias of the scores",
}
"""timm's files whose models need layers that are not in `pure`, and which."""
MAX_FULL: Final = 12_000_000
"""Parameters up to which a model's values are compared at full depth."""
TOLERANCE: Final = 1e-10
IMAGE: Final = 64
PAGE: Final = Path(__file__).parents[1] / "docs" / "CHECKPOINTS.md"


@dataclass(frozen=True)
class Row:
    """What was found of one model.

    Attributes:
        name: timm's.
        file: the file of timm that defines it.
        loads: whether the whole checkpoint loads and comes back with all names and shapes.
        difference: relative difference of the outputs; None if none were computed.
        exact: whether the round trip is exact.
        depth: "full" or what was left of it for the values.
        error: the first error, if there was one.
    """

    name: str
    file: str
    loads: bool = False
    difference: float | None = None
    exact: bool = False
    depth: str = "full"
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether everything agrees."""
        return self.loads and self.exact and self.difference is not None and self.difference <= TOLERANCE


def models(pattern: str = "*") -> Iterator[tuple[str, str, str]]:
    """Yield (family, model, timm's file) of every model of the families that fits the pattern, each once."""
    seen: set[str] = set()
    for family in sorted(FAMILIES, key=len, reverse=True):  # the narrower pattern first: resnetv2_50 is no resnet*
        for name in timm.list_models(family):
            if name not in seen and fnmatch.fnmatch(name, pattern):
                seen.add(name)
                yield family, name, timm_registry._model_to_module[name]


def _smaller(name: str, file: str, count: int) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return options that make a model's values cheap, timm's and ours, and what they leave of the depth."""
    theirs: dict[str, Any] = {"num_classes": 5}
    ours: dict[str, Any] = {"num_classes": 5}
    if file in ("vision_transformer", "deit", "mlp_mixer"):
        options = nets.named.named(name)
        patch = options[1]["patch_size"] if options else 16
        theirs["img_size"] = ours["image_size"] = 2 * patch
        if count > MAX_FULL and file != "mlp_mixer":  # whose functions give the depth themselves
            theirs["depth"] = ours["depth"] = 2
            return theirs, ours, "2 blocks"
    elif count > MAX_FULL and file in ("resnet", "resnetv2", "convnext"):
        theirs["depths" if file == "convnext" else "layers"] = ours["depths"] = (1, 2, 1, 1)
        return theirs, ours, "5 blocks"
    elif count > MAX_FULL and file == "densenet":
        theirs["block_config"] = ours["blocks"] = (1, 2, 1, 1)
        return theirs, ours, "5 layers"
    return theirs, ours, "full"


def _module(name: str, options: dict[str, Any]) -> torch.nn.Module:
    """Return timm's model with random weights."""
    bit = re.fullmatch(r"resnetv2_\d+x(\d+)_bit", name)
    module: torch.nn.Module
    if bit is None or "layers" not in options:
        module = timm.create_model(name, **options)
    else:  # timm's function gives the depths itself and takes no others
        conv = partial(timm_layers.StdConv2d, eps=1e-8)
        factor = {"stem_type": "fixed", "width_factor": int(bit[1]), "conv_layer": conv}
        module = timm_resnetv2.ResNetV2(**options, **factor)
    return module


def check(name: str, file: str) -> Row:
    """Return what holds for one model."""
    if file in NOT_EXPRESSED:
        return Row(name, file, error=NOT_EXPRESSED[file])
    try:
        whole = timm.create_model(name, device="meta")
        given = whole.state_dict()
        block = nets.from_config({"architecture": name, "num_classes": whole.num_classes})
        again = to_state_dict(block, *from_state_dict(block, given, "timm"), source="timm")
        same = {key: (leaf.shape, leaf.dtype) for key, leaf in again.items()}
        loads = same == {key: (leaf.shape, leaf.dtype) for key, leaf in given.items()}
    except PureError as error:
        return Row(name, file, error=f"{type(error).__name__}: {error}")
    theirs, ours, depth = _smaller(name, file, sum(leaf.numel() for leaf in given.values()))
    try:
        torch.manual_seed(0)
        module = randomised(_module(name, theirs)).eval()
        state_dict = module.state_dict()
        function, own = nets.named.named(name) or (partial(nets.create, name), {})
        block = function(**{**own, **ours})
        params, state = from_state_dict(block, state_dict, "timm")
        written = to_state_dict(block, params, state, source="timm")
        exact = written.keys() == state_dict.keys() and all(
            torch.equal(written[key], leaf) for key, leaf in state_dict.items()
        )
        size = ours.get("image_size", IMAGE)
        x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        with torch.no_grad():
            expected, y = module(x), block(params, x, state)
        difference = float((y - expected).norm() / expected.norm())
    except PureError as error:
        return Row(name, file, loads, depth=depth, error=f"{type(error).__name__}: {error}")
    return Row(name, file, loads, difference, exact, depth)


def report(rows: list[tuple[str, Row]]) -> str:
    """Return the page: a table of the families, then the models that did not pass, with the reason."""
    lines = [
        "| family | models | expressed | load at full size | outputs within 1e-10 | round trip exact |",
        "|---|---|---|---|---|---|",
    ]
    families = [*dict.fromkeys(family for family, _ in rows)]
    for family in [*families, "all"]:
        own = [row for name, row in rows if family in (name, "all")]
        expressed = [row for row in own if row.file not in NOT_EXPRESSED]
        counts = (
            sum(row.loads for row in own),
            sum(row.difference is not None and row.difference <= TOLERANCE for row in own),
            sum(row.exact for row in own),
        )
        shown = f"`{family}`" if family != "all" else "**all**"
        lines.append(f"| {shown} | {len(own)} | {len(expressed)} | {' | '.join(map(str, counts))} |")
    passed = sum(row.passed for _, row in rows)
    expressed_count = sum(row.file not in NOT_EXPRESSED for _, row in rows)
    worst = max((row.difference for _, row in rows if row.passed and row.difference is not None), default=0.0)
    shallow = sum(row.depth != "full" for _, row in rows if row.passed)
    lines += [
        "",
        f"{passed} of {len(rows)} models pass ({passed / len(rows):.1%}); of the {expressed_count} whose layers are in "
        f"`pure`, {passed / max(expressed_count, 1):.1%}. Largest relative difference of an output: {worst:.1e}. "
        f"{shallow} of them have their values compared at fewer blocks.",
        "",
        "Not loaded:",
        "",
    ]
    reasons: dict[str, list[str]] = {}
    for _, row in rows:
        if not row.passed:
            reason = row.error or f"difference {row.difference}, exact {row.exact}, loads {row.loads}"
            reasons.setdefault(reason.splitlines()[0][:200], []).append(row.name)
    lines += [f"- {reason}: {', '.join(f'`{name}`' for name in names)}" for reason, names in reasons.items()]
    return "\n".join(lines) + "\n"


HEADING: Final = """# Checkpoints of timm

Written by `python -m parity_tests.timm_sweep --write` with timm {timm} and torch {torch}: every model that timm lists
under the families that `nets.create` reads by name, with random weights, in float64. "Load": the checkpoint of the
model at its full size goes into `nets.from_config(config)` by `interop.from_state_dict` and comes back with every
name, shape and dtype. "Outputs": relative difference of the outputs of the evaluation-mode model, at {image}×{image}
pixels (token networks: four patches); models of more than {full:,} parameters are compared at fewer blocks of their own
width. Any other module of timm's joins in by `interop.from_module(module)`.

"""


def main() -> None:
    """Print the table, or one line a model, or renew the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("pattern", nargs="?", default="*", help="which models, such as 'seresnet*'")
    parser.add_argument("--rows", action="store_true", help="one line a model")
    parser.add_argument("--write", action="store_true", help="renew docs/CHECKPOINTS.md")
    given = parser.parse_args()
    rows: list[tuple[str, Row]] = []
    for family, name, file in models(given.pattern):
        row = check(name, file)
        rows.append((family, row))
        if given.rows:
            print(
                f"{'ok ' if row.passed else 'NO '} {name}: {row.difference} {row.depth} {row.error[:300]}", flush=True
            )
        gc.collect()
    text = report(rows)
    print(text)
    if given.write:
        versions = {
            "timm": version("timm"),
            "torch": torch.__version__.partition("+")[0],
            "image": IMAGE,
            "full": MAX_FULL,
        }
        PAGE.write_text(HEADING.format(**versions) + text, encoding="utf-8")


if __name__ == "__main__":
    main()
