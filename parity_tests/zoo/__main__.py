"""The zoo: models of other libraries, through blocks, files, gradients and training mode, beside torch.onnx.export.

`python -m parity_tests.zoo [--library timm,torchvision,…] [--workers 2] [--results zoo.jsonl] [--page docs/ZOO.md]`
checks each model of `models.json` and prints the counts. Finished models stand in the results file, and a second call
goes on after them. What the stages check stands in `checks.py`. With `--executor mpi` (or dask, ray) models are checked
on those workers, each beside a process of its own that the limit of time ends.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from export.app.sweep import EXECUTORS, sweep
from parity_tests.zoo import page, processes
from parity_tests.zoo.checks import STAGES
from parity_tests.zoo.making import LIBRARIES, entries


def main(argv: Sequence[str] | None = None) -> int:
    """Check what is not in the results file yet; return 1 if a value was wrong or an error untyped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="models, as timm:NAME; all unless given")
    parser.add_argument("--library", default=",".join(LIBRARIES))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--results", type=Path, default=Path("zoo.jsonl"))
    parser.add_argument("--page", type=Path, help="write the table there, as Markdown")
    parser.add_argument("--held-out", action="store_true", help="check the models that are held out, and only these")
    parser.add_argument("--verdicts", default="forward file,gradient file", help="stages whose files get a verdict")
    parser.add_argument("--seconds", type=float, default=processes.SECONDS, help="what a model may take in all")
    parser.add_argument("--executor", choices=EXECUTORS[1:], default="process")
    given = parser.parse_args(argv)
    text = given.results.read_text(encoding="utf-8") if given.results.exists() else ""
    records = [json.loads(line) for line in text.splitlines()]
    done = {(record["library"], record["name"]) for record in records}
    chosen = [
        entry
        for entry in entries()
        if entry.library in given.library.split(",")
        and (not given.names or entry.label in given.names)
        and (given.names or entry.held_out == given.held_out)
        and (entry.library, entry.name) not in done
    ]
    firsts = {entry.architecture: entry for entry in reversed(chosen)}.values()
    chosen = [*(entry for entry in chosen if entry in firsts), *(entry for entry in chosen if entry not in firsts)]
    stages, verdicts = (tuple(names.split(",")) for names in (given.stages, given.verdicts))
    if chosen and given.executor == "process":
        with given.results.open("a", encoding="utf-8") as file:
            for record in processes.run_all(chosen, given.workers, stages, verdicts, given.seconds):
                records.append(record)
                file.write(json.dumps(record) + "\n")
                file.flush()
                print(page.line(record), flush=True)
    elif chosen:
        check = processes.Check(tuple(sorted({entry.library for entry in chosen})), stages, verdicts, given.seconds)
        labels, kept = [entry.label for entry in chosen], given.results.with_suffix(".cells.jsonl")
        found = sweep(check, labels, executor=given.executor, workers=given.workers, record=kept)
        records += [outcome.value for outcome in found if not outcome.error]
        given.results.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        kept.unlink()
        for outcome in found:
            print(f"{outcome.cell}: {outcome.error}" if outcome.error else page.line(outcome.value), flush=True)
    print(page.summary(records))
    if given.page:
        given.page.write_text(page.markdown(records), encoding="utf-8")
    return int(any(stage["status"] in page.UNTOLD for record in records for stage in record["stages"].values()))


if __name__ == "__main__":
    sys.exit(main())
