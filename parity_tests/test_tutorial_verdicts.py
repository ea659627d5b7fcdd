"""The tutorials' ONNX files pass the float64 verdict, against eager and against their modules, at every batch size."""

import re

import pytest
import torch

import export
from parity_tests import tutorial_parity
from parity_tests.tutorial_parity import NETWORKS, Network, differences, module_call, prepared, verdict

each_network = pytest.mark.parametrize("network", NETWORKS, ids=[network.name for network in NETWORKS])


@each_network
def test_the_verdict_passes_at_every_batch_size_and_against_the_module(network: Network) -> None:
    judged = verdict(network)
    assert judged.passed, judged.table()
    sizes = {row.case for row in judged.rows if row.status == "pass"}
    assert {f"batch={size}" for size in (1, 2, 3, 7, 64)} <= sizes
    assert any("against" in row.case for row in judged.rows)


@each_network
def test_the_float64_differences_of_the_table_are_at_most_1e_12(network: Network) -> None:
    assert all(value <= 1e-12 for value in differences(network) if value is not None)


@each_network
def test_a_module_with_other_weights_does_not_pass(network: Network) -> None:
    block, params, module, x, rest = prepared(network, torch.float32)
    with torch.no_grad():
        next(iter(module.parameters())).mul_(1.001)

    def other(params: object, x: torch.Tensor, *rest: object) -> torch.Tensor:
        return module_call(network, module, x).detach()

    dynamic = (None, {0: "batch"}, *(None for _ in rest))
    assert not export.verify(block, (params, x, *rest), against=other, dynamic=dynamic).passed


def test_the_page_shows_every_network_of_the_table() -> None:
    text = tutorial_parity.PAGE.read_text()
    shown = text.partition(tutorial_parity.START)[2].partition(tutorial_parity.END)[0]
    rows = re.findall(r"^\| ([^|]+) \|", shown, re.MULTILINE)
    assert rows[1:] == [network.name for network in NETWORKS], "write it again: python -m parity_tests.tutorial_parity"
