"""Run the contract, oracle and export tests for one section of the catalogue: python -m parity_tests.try_section NAME.

Works before the section is listed in `pure/catalogue/__init__.py`; further arguments go to pytest.
"""

import importlib
import os
import sys

import pytest

import pure.catalogue
from export.app.reference import checked
from parity_tests import oracles

FILES = ("parity_tests/test_contract.py", "parity_tests/test_oracles.py", "parity_tests/test_export_catalogue.py")


def main(section: str, *arguments: str) -> int:
    """Return pytest's exit status for the rows of that section alone."""
    rows = importlib.import_module(f"pure.catalogue.{section}").CASES
    pure.catalogue.CASES = rows  # type: ignore[misc]
    checked.load = lambda: {"rows": {row.name: {"float16": {"status": "pass"}} for row in rows}}
    own = oracles.of_section(section)
    oracles.oracles = lambda: own  # type: ignore[assignment]
    whole = "hessian_of or golden or inductor or unique or one_file or dynamic_net_takes or has_an_oracle or the_record"
    chosen = list(arguments)
    if "-k" in chosen:
        where = chosen.index("-k") + 1
        chosen[where] = f"({chosen[where]}) and not ({whole})"
    else:
        chosen += ["-k", f"not ({whole})"]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # anyio, which transformers imports, is a plugin too
    return pytest.main([*FILES, "-o", "addopts=-q", "--no-header", *chosen])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
