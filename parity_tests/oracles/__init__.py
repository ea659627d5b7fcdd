"""What each row of the catalogue is held against: {row name: Oracle}, one file for each section of the catalogue."""

from importlib import import_module

from parity_tests.oracles.oracle import Oracle
from pure import catalogue

ORACLES: dict[str, Oracle] = {
    name: oracle
    for section in catalogue.SECTIONS
    for name, oracle in import_module(f"{__name__}.{section.__name__.rpartition('.')[2]}").ORACLES.items()
}
