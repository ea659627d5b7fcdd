"""The golden file of the catalogue: names, shapes and dtypes of every case's leaves.

`python -m parity_tests.golden_cases` writes it again, after a change that is meant.
"""

import json
from pathlib import Path

from pure import tree
from pure.catalogue import CASES

PATH = Path(__file__).parent / "golden" / "cases.json"


def current() -> dict[str, dict[str, dict[str, str]]]:
    found = {}
    for row in CASES:
        _, params, state, _, _ = row.example()
        found[row.name] = {
            kind: {name: f"{leaf.dtype} {tuple(leaf.shape)}" for name, leaf in tree.flatten(part).items()}
            for kind, part in (("params", params), ("state", state))
        }
    return found


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(json.dumps(current(), indent=1) + "\n")
    print(f"wrote {PATH}")
