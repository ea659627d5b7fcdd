"""Damaged copies of model files, through `load`, `weights` and `verify`: does every one end in a typed error?

The damage is seeded: flipped bits, and ranges that are cut out, doubled, zeroed or swapped, in the model file or in the
data file beside it. Files of ours must all be refused, as they hold a digest. Files of `torch.onnx.export` hold none:
there a damaged file may load, but nothing may end in an untyped error, and nothing may end the process. Workers are
processes of their own, so that one that dies is counted and the next one goes on.

    python -m parity_tests.mutated_files --count 10000 --ours
    python -m parity_tests.mutated_files --count 2000 --theirs
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import random
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import export
import pure
from export.errors import PureExportError

__all__ = ["Outcome", "Recorded", "Sample", "is_wrong", "mutated", "ours", "outcomes", "theirs", "through", "write"]

SECONDS_A_CASE = 120
"""After which a case counts as hung."""

CASES_A_WORKER = 500

SEED = 0


@dataclasses.dataclass(frozen=True)
class Sample:
    """A sound file and the function that it computes.

    Attributes:
        name: what the file is called.
        fn: the function.
        args: its arguments.
        baked: positions of the arguments that are inside the file.
        write: writes the file.
    """

    name: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    baked: tuple[int, ...]
    write: Callable[[Path], object]


class Outcome(NamedTuple):
    """What one damaged file did: the sample, the damage, and {use: "silent", or the error's name}."""

    sample: str
    damage: str
    uses: dict[str, str]


class Pair(NamedTuple):
    """Two results."""

    left: torch.Tensor
    right: torch.Tensor


def _network(params: Any, x: torch.Tensor) -> Any:
    hidden = torch.tanh(x @ params["w"] + params["b"])
    return {"pair": Pair(hidden, hidden.half()), "list": [hidden.sum(), hidden > 0]}


def _branches(params: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.cond(x.sum() > 0, lambda a: a @ params["w"], lambda a: (a @ params["w"]).sin(), (x,))


def ours() -> list[Sample]:
    """Return files that `to_onnx`, `quantize` and `replace_weights` write, small so that damage hits all parts."""
    draw = torch.Generator().manual_seed(SEED)
    params = {"w": torch.randn(8, 8, generator=draw), "b": torch.randn(8, generator=draw)}
    x = torch.randn(4, 8, generator=draw)
    big = {"w": torch.randn(32, 64, generator=draw), "b": torch.randn(64, generator=draw)}
    wide = torch.randn(4, 32, generator=draw)
    blocks = pure.Sequential(*[pure.nets.residual_mlp(8, 8, depth=2)] * 3)
    chain, _ = blocks.init(draw)
    rows = torch.randn(32, 8, generator=draw)

    def product(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ weight)

    def exported(fn: Any, args: Any, bake: Any, **options: Any) -> Callable[[Path], object]:
        return lambda path: export.to_onnx(fn, args, path, bake=bake, **options)

    def quantised(path: Path) -> None:
        whole = path.with_suffix(".whole")
        export.to_onnx(product, (params["w"], rows), whole, bake=(0,))
        export.quantize(whole, path, [(rows,)])

    def replaced(path: Path) -> None:
        export.to_onnx(_network, (params, x), path, bake=(0,))
        export.replace_weights(path, {"params": {"b": -params["b"], "w": params["w"]}})

    named = ({0: "batch"},)
    return [
        Sample("inside", _network, (params, x), (0,), exported(_network, (params, x), (0,))),
        Sample("beside", _network, (big, wide), (0,), exported(_network, (big, wide), (0,), external=16)),
        Sample("inputs", _network, (params, x), (), exported(_network, (params, x), (), dynamic=(None, *named))),
        Sample("branches", _branches, (params, x), (0,), exported(_branches, (params, x), (0,))),
        Sample("functions", blocks, (chain, x), (0,), exported(blocks, (chain, x), (0,))),
        Sample("quantised", product, (params["w"], rows), (0,), quantised),
        Sample("replaced", _network, ({**params, "b": -params["b"]}, x), (0,), replaced),
    ]


class _Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(x)
        return logits.log_softmax(-1)


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.cell = nn.Embedding(10, 4), nn.GRU(4, 4, batch_first=True)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out, last = self.cell(self.embedding(tokens))
        return out, last.argmax(-1)


def theirs() -> list[Sample]:
    """Return files that `torch.onnx.export` writes, one of them with its tensors beside it."""
    torch.manual_seed(SEED)
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    modules: dict[str, tuple[nn.Module, torch.Tensor, bool]] = {
        "classifier": (_Classifier(), torch.randn(2, 1, 8, 8), False),
        "attention": (attention, torch.randn(2, 3, 8), False),
        "recurrent": (_Recurrent(), torch.randint(0, 10, (2, 3)), False),
        "aside": (nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 8)), torch.randn(2, 32), True),
    }

    def writer(module: nn.Module, x: torch.Tensor, external: bool) -> Callable[[Path], object]:
        def write(path: Path) -> None:
            torch.onnx.export(module, (x,), path, dynamo=True, external_data=external, verbose=False)

        return write

    return [
        Sample(name, module.eval(), (x,), (), writer(module, x, external))
        for name, (module, x, external) in modules.items()
    ]


def write(samples: Sequence[Sample], folder: Path) -> None:
    """Write the sound files, each into a folder of its own, `folder/name/model.onnx`."""
    for sample in samples:
        (folder / sample.name).mkdir()
        sample.write(folder / sample.name / "model.onnx")
        for extra in (folder / sample.name).glob("*.whole"):
            extra.unlink()


def mutated(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Return the name of a damage and the damaged content, which differs from the given one."""
    while True:
        kind = draw.choice(["flipped", "cut short", "cut out", "doubled", "zeroed", "swapped"])
        changed = bytearray(content)
        size = max(1, min(len(content) // 2, int(2 ** draw.uniform(0, 12))))
        at = draw.randrange(len(content) - size + 1)
        if kind == "flipped":
            for _ in range(draw.choice([1, 1, 1, 2, 8])):
                changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        elif kind == "cut short":
            del changed[len(content) - draw.choice([size, draw.randrange(1, len(content) + 1)]) :]
        elif kind == "cut out":
            del changed[at : at + size]
        elif kind == "doubled":
            changed[at:at] = content[at : at + size]
        elif kind == "zeroed":
            changed[at : at + size] = bytes(size)
        else:
            other = draw.randrange(len(content) - size + 1)
            changed[at : at + size], changed[other : other + size] = (
                content[other : other + size],
                content[at : at + size],
            )
        if changed != content:
            return kind, bytes(changed)


def outcomes(samples: Sequence[Sample], folder: Path, numbers: Sequence[int]) -> Iterator[Outcome]:
    """Damage a sound file for each number, and put it through everything that reads files."""
    for number in numbers:
        draw = random.Random(f"{SEED}:{number}")
        sample = samples[number % len(samples)]
        sound = {file.name: file.read_bytes() for file in sorted((folder / sample.name).iterdir())}
        weights = [len(content) ** 0.5 for content in sound.values()]
        (name,) = draw.choices(list(sound), weights)
        damage, content = mutated(sound[name], draw)
        with tempfile.TemporaryDirectory() as scratch:
            for other, whole in sound.items():
                (Path(scratch) / other).write_bytes(content if other == name else whole)
            yield Outcome(sample.name, damage, through(sample, Path(scratch) / "model.onnx"))


def through(sample: Sample, path: Path) -> dict[str, str]:
    """Return {use: "silent", the name of a typed error, or "untyped" with where it came from}."""
    uses: dict[str, Callable[[], object]] = {
        "load": lambda: _called(sample, path, True),
        "load unchecked": lambda: _called(sample, path, False),
        "weights": lambda: export.weights(path),
        "verify": lambda: export.verify(sample.fn, sample.args, path, device="cpu"),
    }
    return {use: _outcome(run) for use, run in uses.items()}


def _called(sample: Sample, path: Path, check: bool) -> object:
    loaded = export.load(path, device="cpu", check=check)
    given = [arg for i, arg in enumerate(sample.args) if i not in sample.baked]
    with torch.no_grad():
        return loaded(*given)


class Recorded:
    """What a block of code did: "silent", the name of a typed error, or "untyped" and where that came from.

    An untyped error is what is looked for, so that it may not end the run.
    """

    word = "silent"
    reason = ""

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self.reason = str(error)
        if isinstance(error, PureExportError):
            self.word = type(error).__name__
        elif isinstance(error, Exception):
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}:{frame.lineno}"
            self.word = f"untyped {type(error).__name__} ({where}): {str(error)[:200]}"
        return isinstance(error, Exception)


def _outcome(run: Callable[[], object]) -> str:
    with Recorded() as recorded:
        run()
    return recorded.word


def _work(origin: str, folder: Path, begin: int, end: int) -> None:
    """Print one line a case before it runs, and one after."""
    samples = ours() if origin == "ours" else theirs()
    np.seterr(all="ignore")
    for number in range(begin, end):
        print(json.dumps({"begun": number}), flush=True)
        signal.alarm(SECONDS_A_CASE)
        (outcome,) = outcomes(samples, folder, [number])
        signal.alarm(0)
        print(json.dumps({"ended": number, "outcome": outcome}), flush=True)


def run(origin: str, folder: Path, count: int) -> Iterator[Outcome]:
    """Run workers until every case has ended, or has ended its worker."""
    done = 0
    while done < count:
        end = min(count, done + CASES_A_WORKER)
        command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--work", origin, str(folder)]
        worker = subprocess.run(
            [*command, str(done), str(end)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
        )
        begun = done - 1
        for line in worker.stdout.splitlines():
            try:
                message = json.loads(line)
            except json.JSONDecodeError:
                yield Outcome("(any)", "(any)", {"stdout": f"untyped output: {line[:200]}"})
                continue
            begun = message.get("begun", begun)
            if "ended" in message:
                done = message["ended"] + 1
                yield Outcome(*message["outcome"])
        if worker.returncode:
            if begun < done:
                raise RuntimeError(f"a worker ended with {worker.returncode} between two cases")
            word = "hung" if worker.returncode == -signal.SIGALRM else f"crash {worker.returncode}"
            yield Outcome("(any)", f"case {begun}", {"all": word})
            done = begun + 1


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--ours", action="store_true")
    parser.add_argument("--theirs", action="store_true")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        origin, folder, begin, end = options.work
        _work(origin, Path(folder), int(begin), int(end))
        return
    bad = 0
    for origin in [name for name in ("ours", "theirs") if getattr(options, name)]:
        with tempfile.TemporaryDirectory() as folder:
            write(ours() if origin == "ours" else theirs(), Path(folder))
            counts: collections.Counter[tuple[str, str]] = collections.Counter()
            for outcome in run(origin, Path(folder), options.count):
                counts.update(outcome.uses.items())
                wrong = [use for use, what in outcome.uses.items() if is_wrong(use, what, origin)]
                bad += bool(wrong)
                if wrong:
                    print(f"  {outcome.sample}, {outcome.damage}: {outcome.uses}", flush=True)
            print(f"{options.count} damaged files of {origin}:")
            for (use, what), number in sorted(counts.items()):
                print(f"  {use:15} {number:6} {what}")
    print(f"crashes, untyped errors and silent loads of our own files: {bad}")
    raise SystemExit(bool(bad))


def is_wrong(use: str, what: str, origin: str) -> bool:
    """Tell an outcome that may not be: an untyped error, the end of the process, a file of ours that loads silently."""
    silent = origin == "ours" and use != "load unchecked" and what == "silent"
    return silent or what.startswith(("untyped", "crash", "hung"))


if __name__ == "__main__":
    main()
