"""`python -m benchmarks.page` draws the tables of docs/benchmarks.md from the committed results files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = Path("docs/benchmarks.md")
RESULTS = Path("benchmarks/results")


def surroundings(data: dict[str, Any], file: str, *names: str) -> str:
    """Where and with what the numbers were measured."""
    environment = data["environment"]
    versions = ", ".join(f"{name} {environment['versions'][name]}" for name in names)
    return (
        f"Measured on {environment['date'][:10]}: {environment['cpu']}, {environment['torch_threads']} threads, "
        f"Python {environment['python']}, {versions} (`{RESULTS / file}`)."
    )


def speed(data: dict[str, Any]) -> str:
    """One row a contender of each comparison, with the environment above."""
    lines = [
        f"{surroundings(data, 'blocks.json', 'torch', 'numpy')} Ratios are to the first row of each comparison, "
        "with a 95 % interval.",
        "",
        "| comparison | contender | median | ratio | interval |",
        "|---|---|---|---|---|",
    ]
    for measurement in data["measurements"]:
        lines += timed(measurement)
    return "\n".join(lines)


def timed(measurement: dict[str, Any]) -> list[str]:
    """One row a contender, the first with the comparison's name."""
    rows, name = [], measurement["name"]
    for timing in measurement["timings"]:
        low, high = timing["ratio_interval_95"]
        cells = [name, timing["name"], f"{timing['median_seconds'] * 1e3:.3g} ms", f"{timing['ratio']:.2f}"]
        rows.append(f"| {' | '.join(cells)} | {low:.2f} – {high:.2f} |")
        name = ""
    return rows


def compilers(data: dict[str, Any]) -> str:
    """One row a cell: time of a call by each, the ratio of the two compilers, and what compiling took."""
    lines = [
        f"{surroundings(data, 'compilers.json', 'torch', 'onnxruntime-gpu')} Milliseconds a call, weights as "
        "arguments; the ratio is `export.jit` to `torch.compile`, with a 95 % interval; seconds of the first call.",
        "",
        "| cell | eager | torch.compile | export.jit | ratio | compile: torch.compile | export.jit |",
        "|---|---|---|---|---|---|---|",
    ]
    for measurement in data["measurements"]:
        notes, timings = measurement["notes"], {timing["name"]: timing for timing in measurement["timings"]}
        if "cells" in notes:
            low, high = notes["its 95 % interval"]
            lines.append(
                f"| **geometric mean of {notes['cells']} cells** |  |  |  | "
                f"**{notes['run time, geometric mean of the ratios']:.2f}** [{low:.2f}, {high:.2f}] |  | "
                f"**{notes['compile time, geometric mean of the ratios']:.3f}** of torch.compile's |"
            )
            continue
        ms = [f"{timings[n]['median_seconds'] * 1e3:.3g}" if n in timings else "–" for n in CONTENDERS]
        ratio = "–"
        if set(CONTENDERS[1:]) <= timings.keys():
            low, high = timings["export.jit"]["ratio_interval_95"]
            ratio = f"{timings['export.jit']['ratio']:.2f} [{low:.2f}, {high:.2f}]"
        seconds = [
            f"{notes[f'seconds to compile, {n}']:.3g}" if f"seconds to compile, {n}" in notes else "fails"
            for n in CONTENDERS[1:]
        ]
        if "stopped" in notes:
            seconds = [notes["stopped"], "–"]
        lines.append(f"| {' | '.join([measurement['name'], *ms, ratio, *seconds])} |")
    return "\n".join(lines)


CONTENDERS = ("eager", "torch.compile", "export.jit")


def exporters(data: dict[str, Any]) -> str:
    """One row a comparison of the two exporters."""
    lines = [
        f"{surroundings(data, 'exporters.json', 'torch', 'torchvision', 'onnxruntime-gpu')} Ours to "
        "`torch.onnx.export(dynamo=True)`, with a 95 % interval.",
        "",
        "| comparison | torch.onnx.export | ours | ratio | interval |",
        "|---|---|---|---|---|",
    ]
    for measurement in data["measurements"]:
        theirs, ours = measurement["timings"]
        low, high = ours["ratio_interval_95"]
        lines.append(
            f"| {measurement['name']} | {theirs['median_seconds']:.3g} s | {ours['median_seconds']:.3g} s | "
            f"{ours['ratio']:.2f} | {low:.2f} – {high:.2f} |"
        )
    return "\n".join(lines)


def flow(data: dict[str, Any]) -> str:
    """One row a contender of each comparison, then what was run once."""
    lines = [
        f"{surroundings(data, 'flow.json', 'torch', *PEERS)} Ratios are to the first row of each comparison, with a "
        "95 % interval.",
        "",
        "| comparison | contender | median | ratio | interval |",
        "|---|---|---|---|---|",
    ]
    for measurement in data["measurements"]:
        lines += timed(measurement)
        name = "" if measurement["timings"] else measurement["name"]
        for note, value in measurement["notes"].items():
            if isinstance(value, (int, float)):
                lines.append(f"| {name} | {note} | {value:,.3g} |  |  |")
                name = ""
    return "\n".join(lines)


PEERS = ("opacus", "curvlinops-for-pytorch")

TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "speed": speed,
    "compilers": compilers,
    "exporters": exporters,
    "flow": flow,
}
FILES = {
    "speed": "blocks.json",
    "compilers": "compilers.json",
    "exporters": "exporters.json",
    "flow": "flow.json",
}


def cuda(data: dict[str, Any]) -> str:
    """What one GPU machine gave: the checks in a sentence, then one row a cell with the floor beside it."""
    machine, checks = data["machine"]["environment"], data.get("checks", {})
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "onnxruntime-gpu"))
    failed = [name for name, found in checks.items() if not found.get("passed")]
    passed = f"{len(checks) - len(failed)} of {len(checks)} checks pass" + (
        f"; not: {', '.join(failed)}" if failed else ""
    )
    lines = [
        f"Measured on {machine['date'][:10]}: {machine['cuda_device']}, CUDA {machine['cuda']}, {versions}; {passed}. "
        "Milliseconds until a call's results are there, weights as arguments; the floor is what the datasheet's peaks "
        "allow for the operations and bytes counted.",
        "",
        f"| cell | {' | '.join(ON_GPU)} | floor |",
        f"|---|{'---|' * len(ON_GPU)}---|",
    ]
    for measurement in data.get("speed", {}).values():
        timings = {timing["name"]: f"{timing['median_seconds'] * 1e3:.3g}" for timing in measurement["timings"]}
        least = measurement["notes"].get("floor, seconds")
        cells = [measurement["name"], *(timings.get(name, "–") for name in ON_GPU)]
        lines.append(f"| {' | '.join(cells)} | {f'{least * 1e3:.3g}' if least else '–'} |")
    return "\n".join(lines)


ON_GPU = ("eager", "nn.Module", "torch.compile", "export.jit, CUDA graph", "export.jit")


def gpu_results(root: Path = ROOT) -> list[Path]:
    """The results of GPU machines, by name; there may be none."""
    return sorted(path for path in (root / RESULTS).glob("cuda-*.json") if not path.name.startswith("cuda-cpu"))


def drawn(page: str, name: str, data: dict[str, Any]) -> str:
    """The page's text with one table between its markers."""
    start, end = f"<!-- {name} table: python -m benchmarks.page -->", f"<!-- end of {name} table -->"
    head, _, rest = page.partition(start)
    _, _, tail = rest.partition(end)
    return f"{head}{start}\n\n{(cuda if name == 'cuda' else TABLES[name])(data)}\n\n{end}{tail}"


def main() -> None:
    """Write the tables into the page."""
    path = ROOT / PAGE
    text = path.read_text(encoding="utf-8")
    for name, file in FILES.items():
        text = drawn(text, name, json.loads((ROOT / RESULTS / file).read_text(encoding="utf-8")))
    if gpu_results() and "<!-- cuda table:" in text:
        text = drawn(text, "cuda", json.loads(gpu_results()[-1].read_text(encoding="utf-8")))
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
