"""`python -m benchmarks.page` draws the tables of docs/benchmarks.md from the committed results files."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from benchmarks.growth import QUANTITIES, SIDES
from benchmarks.memory import SIDES as MEMORY_SIDES

ROOT = Path(__file__).parents[1]
PAGE = Path("docs/benchmarks.md")
RESULTS = Path("benchmarks/results")


def surroundings(data: dict[str, Any], file: str, *names: str) -> str:
    """Where and with what the numbers were measured."""
    environment = data["environment"]
    versions = ", ".join(f"{name} {environment['versions'][name]}" for name in names)
    capability = f" with {environment['cpu_capability']}" if "cpu_capability" in environment else ""
    return (
        f"Measured on {environment['date'][:10]}: {environment['cpu']}{capability}, "
        f"{environment['torch_threads']} threads, Python {environment['python']}, {versions} (`{RESULTS / file}`)."
    )


def speed(data: dict[str, Any]) -> str:
    """One row a contender of each comparison, with the environment above."""
    where = surroundings(data, "blocks.json", "torch", "numpy")
    return timed_table(f"{where} Ratios are to the first row of each comparison, with a 95 % interval.", data)


def timed_table(text: str, data: dict[str, Any], what: str = "comparison") -> str:
    """A text, then one row a contender of each comparison."""
    lines = [text, "", f"| {what} | contender | median | ratio | interval |", "|---|---|---|---|---|"]
    for measurement in data["measurements"]:
        lines += timed(measurement)
    return "\n".join(lines)


def summary(results: dict[str, dict[str, Any]]) -> str:
    """The answer to "how fast is it?", a line each for a call, a compiled call, a file and a measurement."""
    blocks, jit, files, measured = (
        results[name]["measurements"] for name in ("blocks", "compilers", "exporters", "flow")
    )
    cells = [ratios_to(m, "eager") for m in jit if {"eager", "export.jit"} <= {t["name"] for t in m["timings"]}]
    against_eager = geometric_mean(cell["export.jit"] for cell in cells)
    mean = next(m["notes"] for m in jit if "cells" in m["notes"])
    calls = {m["name"]: {t["name"]: t["ratio"] for t in m["timings"]} for m in blocks}
    small, large = [name for name in calls if name.startswith("call:")][:2]
    gradient = calls[small.replace("call", "gradient", 1)]
    means = ("run time, geometric mean of the ratios", "compile time, geometric mean of the ratios")
    spread = [function(cell["export.jit"] for cell in cells) for function in (min, max)]
    written = [m["timings"][1]["ratio"] for m in files if m["name"].startswith("export")]
    latency = [m["timings"][1]["ratio"] for m in files if m["name"].startswith("latency")]
    norms = next(m for m in measured if m["name"].startswith("per-sample norms"))
    per_sample = {t["name"]: t["ratio"] for t in norms["timings"]}
    return "\n".join(
        (
            f"- A block, eager: {calls[small]['pure block']:.2f} of the time of the same nn.Module where Python's time "
            f"counts ({small.removeprefix('call: ')}), {calls[large]['pure block']:.2f} where arithmetic does "
            f"({large.removeprefix('call: ')}).",
            f"- A gradient of the former: {gradient['pure block, pure.grad']:.2f} of autograd's time by `pure.grad`, "
            f"{gradient['pure block, func.grad']:.2f} by `torch.func.grad`, which wraps every leaf.",
            f"- Compiled by `export.jit`: {against_eager:.2f} of eager's time (geometric mean of {len(cells)} "
            f"functions, {spread[0]:.2f} to {spread[1]:.2f}), and {mean[means[0]]:.2f} of torch.compile's, after "
            f"{mean[means[1]]:.2f} of its compile time.",
            f"- A file: written in {min(written):.2f} to {max(written):.2f} of torch.onnx.export's time, and run in "
            f"{min(latency):.2f} to {max(latency):.2f} of its file's.",
            f"- Norms of per-sample gradients: {per_sample['flow.per_sample_norms']:.2f} of one gradient of the batch "
            f"(Opacus {per_sample['Opacus ghost norms']:.2f}; {norms['name'].removeprefix('per-sample norms: ')}).",
        )
    )


def ratios_to(measurement: dict[str, Any], name: str) -> dict[str, float]:
    """The contenders' medians divided by one of them."""
    medians = {timing["name"]: timing["median_seconds"] for timing in measurement["timings"]}
    return {other: seconds / medians[name] for other, seconds in medians.items()}


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
            f"{notes[f'seconds to compile, {n}']:.3g}"
            if f"seconds to compile, {n}" in notes
            else notes.get(f"{n} fails", "fails")
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


def watch(data: dict[str, Any]) -> str:
    """One row a contender of each network."""
    where = surroundings(data, "watch.json", "torch")
    return timed_table(f"{where} Ratios are to the step alone, with a 95 % interval.", data, "training step")


def forms(data: dict[str, Any]) -> str:
    """One row an operator: nodes of its files, their time to torch.onnx's forward, and to PyTorch's own kernels."""
    lines = [
        f"{surroundings(data, 'forms.json', 'torch', 'onnxruntime-gpu')} Files of single operators with fixed sizes: "
        "nodes; the time of a call as a ratio to that of torch.onnx's file of the forward; behind the stroke, as a "
        "ratio to the same in PyTorch, eager.",
        "",
        "| operator | torch.onnx, forward | ours, forward | ours, jvp | ours, gradient |",
        "|---|---|---|---|---|",
    ]
    for measurement in data["measurements"]:
        timings = {timing["name"]: timing for timing in measurement["timings"]}
        cells = [measurement["name"]]
        for name, timing in timings.items():
            if name.startswith("eager"):
                continue
            count = measurement["notes"][f"nodes, {name}"]
            cell = f"{count} node{'' if count == 1 else 's'}, "
            eager = timings.get(f"eager, {name}")
            if eager is None:
                cell += f"{timing['median_seconds'] * 1e3:.3g} ms"
            else:
                cell += f"{timing['ratio']:.2f} / {timing['median_seconds'] / eager['median_seconds']:.2f}"
            cells.append(cell)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def memory(data: dict[str, Any]) -> str:
    """One row a side of each network: peak and time of a gradient, and their ratios to eager's."""
    lines = [
        f"{surroundings(data, 'memory.json', 'torch', 'onnxruntime-gpu')} Bytes above what the process held before the "
        "first call, which compiles; medians of processes that take turns.",
        "",
        "| gradient | side | peak, MiB | to eager's | time of a call, s | to eager's |",
        "|---|---|---|---|---|---|",
    ]
    for measurement in data["measurements"]:
        name, notes = measurement["name"].removeprefix("gradient of "), measurement["notes"]
        for side in MEMORY_SIDES:
            peak, seconds = notes[f"{side}: peak MiB"][1], notes[f"{side}: seconds"]
            ratios = peak / notes["eager: peak MiB"][1], seconds / notes["eager: seconds"]
            lines.append(f"| {name} | {side} | {peak:.0f} | {ratios[0]:.2f} | {seconds:.2f} | {ratios[1]:.2f} |")
            name = ""
    return "\n".join(lines)


def growth(data: dict[str, Any]) -> str:
    """One row a quantity and axis: the fitted exponents of all sides, then where a line ended."""
    lines = [
        f"{surroundings(data, 'growth.json', 'torch', 'onnxruntime-gpu')} Exponents at the largest sizes.",
        "",
        f"| quantity | along | {' | '.join(SIDES)} |",
        f"|---|---|{'---|' * len(SIDES)}",
    ]
    for quantity in QUANTITIES.values():
        for measurement in data["measurements"]:
            found = [measurement["notes"].get(f"exponent of {quantity}, {side}") for side in SIDES]
            cells = ["–" if slope is None else f"{slope:.2f}" for slope in found]
            lines.append(f"| {quantity} | {measurement['name']} | {' | '.join(cells)} |")
    ended = [f"{side}: {why}." for m in data["measurements"] for side, why in m["notes"]["ended"].items()]
    return "\n".join([*lines, "", " ".join(ended)] if ended else lines)


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
    "forms": forms,
    "memory": memory,
    "growth": growth,
    "watch": watch,
}
FILES = {
    "speed": "blocks.json",
    "compilers": "compilers.json",
    "exporters": "exporters.json",
    "flow": "flow.json",
    "forms": "forms.json",
    "memory": "memory.json",
    "growth": "growth.json",
    "watch": "watch.json",
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
    return between(page, f"{name} table", (cuda if name == "cuda" else TABLES[name])(data))


def between(page: str, name: str, text: str) -> str:
    """The page with a text between the markers of a name."""
    start, end = f"<!-- {name}: python -m benchmarks.page -->", f"<!-- end of {name} -->"
    head, _, rest = page.partition(start)
    _, _, tail = rest.partition(end)
    return f"{head}{start}\n\n{text}\n\n{end}{tail}"


def filled(text: str, root: Path = ROOT) -> str:
    """The page's text with its summary and every table drawn from the results."""
    results = {name: json.loads((root / RESULTS / file).read_text(encoding="utf-8")) for name, file in FILES.items()}
    text = between(text, "summary", summary({**results, "blocks": results["speed"]}))
    for name, data in results.items():
        text = drawn(text, name, data)
    if gpu_results(root) and "<!-- cuda table:" in text:
        text = drawn(text, "cuda", json.loads(gpu_results(root)[-1].read_text(encoding="utf-8")))
    return text


def main() -> None:
    """Write the tables into the page."""
    path = ROOT / PAGE
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
