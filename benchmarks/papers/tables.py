"""`python -m benchmarks.papers.tables` writes the README beside this file from the committed results."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.page import ROOT, surroundings

RESULTS = Path("benchmarks/results/papers")
PAGE = Path("benchmarks/papers/README.md")
NAMES = ("shattered", "path_lengths", "rezero", "layernorm", "highway", "deepnorm")


def load(root: Path = ROOT) -> list[dict[str, Any]]:
    """The committed results, in the order of the page."""
    return [json.loads((root / RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in NAMES]


def number(found: dict[str, Any]) -> str:
    """An estimate with its interval, or an exact number."""
    if found["probes"] == 0:
        return f"{found['value']:.3g}"
    return f"{found['value']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"


def plain(text: str) -> str:
    """Text that may stand in a cell of a table."""
    return text.replace("|", "\\|")


def summary(results: Sequence[dict[str, Any]]) -> str:
    """One row a paper: verdict, and how many of its claims hold."""
    lines = ["| reproduction | paper | verdict | its claims that hold |", "|---|---|---|---|"]
    for result in results:
        claims = [finding for finding in result["findings"] if not finding["ours"]]
        held = sum(finding["holds"] for finding in claims)
        cells = [f"`{result['name']}`", result["paper"], result["verdict"], f"{held} of {len(claims)}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def claims(result: dict[str, Any]) -> str:
    """One row a claim: what was said, what was found, and whether it holds."""
    lines = ["| claim | found (95 % interval) | |", "|---|---|---|"]
    for finding in result["findings"]:
        found = "; ".join(f"{plain(what)}: {number(value)}" for what, value in finding["found"].items())
        claim = f"{'(ours) ' if finding['ours'] else ''}{finding['claim']} *{plain(finding['rule'])}*"
        lines.append(f"| {claim} | {found} | {'holds' if finding['holds'] else '**does not hold**'} |")
    return "\n".join(lines)


def section(result: dict[str, Any]) -> str:
    """One paper: claims, set-up, deviations, picture."""
    setup = "; ".join(f"{name}: {value}" for name, value in result["setup"].items())
    name = result["name"]
    return "\n\n".join(
        [
            f"## {name}: {result['verdict']}",
            f"{result['paper']}.",
            claims(result),
            f"Set-up: {setup}.",
            f"Not as in the paper: {'; '.join(result['deviations'])}.",
            f"![{name}](../results/papers/{name}.png)",
        ]
    )


def page(results: Sequence[dict[str, Any]]) -> str:
    """The whole page."""
    head = (
        "# Published claims, measured again\n\n"
        "`python -m benchmarks.papers [NAME] [--json FOLDER] [--figures FOLDER] [--quick]` runs them; "
        "`python -m benchmarks.papers.tables` writes this page from `benchmarks/results/papers/`.\n\n"
        "Intervals are Student's over independent seeds. A claim holds where the rule beside it does, which asks it of "
        "the interval and not of the mean. Claims marked (ours) are not the paper's, and no verdict counts them.\n\n"
        f"{surroundings(results[0], 'papers/shattered.json', 'torch')}"
    )
    return "\n\n".join([head, summary(results), *map(section, results)]) + "\n"


def main() -> None:
    """Write the page."""
    (ROOT / PAGE).write_text(page(load()), encoding="utf-8")


if __name__ == "__main__":
    main()
