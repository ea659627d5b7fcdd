"""`python -m benchmarks.readme` draws the README's speed table from the committed results file."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path("benchmarks/results/blocks.json")
START, END = "<!-- speed table: python -m benchmarks.readme -->", "<!-- end of speed table -->"


def table(data: dict[str, Any]) -> str:
    """One row a contender of each comparison, with the environment above."""
    environment = data["environment"]
    versions = ", ".join(f"{name} {environment['versions'][name]}" for name in ("torch", "numpy"))
    lines = [
        f"Measured on {environment['date'][:10]}: {environment['cpu']}, {environment['torch_threads']} threads, "
        f"Python {environment['python']}, {versions} (`{RESULTS}`). Ratios are to the first row of each comparison, "
        "with a 95 % interval.",
        "",
        "| comparison | contender | median | ratio | interval |",
        "|---|---|---|---|---|",
    ]
    for measurement in data["measurements"]:
        name = measurement["name"]
        for timing in measurement["timings"]:
            low, high = timing["ratio_interval_95"]
            cells = [name, timing["name"], f"{timing['median_seconds'] * 1e3:.3g} ms", f"{timing['ratio']:.2f}"]
            lines.append(f"| {' | '.join(cells)} | {low:.2f} – {high:.2f} |")
            name = ""
    return "\n".join(lines)


def drawn(readme: str, data: dict[str, Any]) -> str:
    """The README's text with the table between its markers."""
    head, _, rest = readme.partition(START)
    _, _, tail = rest.partition(END)
    return f"{head}{START}\n\n{table(data)}\n\n{END}{tail}"


def main() -> None:
    """Write the table into README.md."""
    readme = ROOT / "README.md"
    readme.write_text(drawn(readme.read_text(), json.loads((ROOT / RESULTS).read_text())))


if __name__ == "__main__":
    main()
