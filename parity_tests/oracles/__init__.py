"""What each row of the catalogue is held against: {row name: Oracle}, one file a section of the catalogue."""

from parity_tests.oracles import (
    additive,
    basic,
    convolutional,
    dynamic,
    gated,
    layers,
    placement,
    resnets,
    reversible,
    scaled,
    streams,
    transformer,
    tutorial,
)
from parity_tests.oracles.oracle import Oracle

SECTIONS = (
    layers,
    basic,
    additive,
    convolutional,
    scaled,
    gated,
    placement,
    streams,
    resnets,
    reversible,
    dynamic,
    transformer,
    tutorial,
)
ORACLES: dict[str, Oracle] = {name: oracle for section in SECTIONS for name, oracle in section.ORACLES.items()}
