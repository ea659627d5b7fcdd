"""What each row of the catalogue is compared with, one file for each section of the catalogue."""

from functools import cache
from importlib import import_module

from parity_tests.oracles.oracle import Oracle
from pure import catalogue


def of_section(section: str) -> dict[str, Oracle]:
    """Return {row name: Oracle} of one section; importing its file imports the libraries that it compares with."""
    found: dict[str, Oracle] = import_module(f"{__name__}.{section}").ORACLES
    return found


@cache
def oracles() -> dict[str, Oracle]:
    """Return {row name: Oracle} of every row."""
    sections = [section.__name__.rpartition(".")[2] for section in catalogue.SECTIONS]
    return {name: oracle for section in sections for name, oracle in of_section(section).items()}
