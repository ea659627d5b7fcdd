"""The parity table of the tutorials' networks: against their modules in float64, and in ONNX Runtime by verdict.

`python -m parity_tests.tutorial_parity` measures it and writes it into docs/explanations/verdicts.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad

import export
from parity_tests import modules
from pure import nets, tree
from pure.block import Block

PAGE = Path(__file__).parents[1] / "docs" / "explanations" / "verdicts.md"
START, END = "<!-- parity table: python -m parity_tests.tutorial_parity -->", "<!-- end of parity table -->"
BATCH = 64


@dataclass(frozen=True)
class Network:
    """One network of the tutorials: the block, its module, and how both are called."""

    name: str
    block: Callable[[], Block]
    module: Callable[[], nn.Module]
    shape: tuple[int, ...]
    control: float | None = None


NETWORKS: tuple[Network, ...] = (
    Network("SimpleBlock", lambda: nets.simple_block(16, 32, 8), lambda: modules.SimpleBlock(16, 32, 8), (16,)),
    Network(
        "SimpleBlockWithSkip",
        lambda: nets.simple_block_with_skip(16, 32, 16),
        lambda: modules.SimpleBlockWithSkip(16, 32, 16),
        (16,),
    ),
    Network(
        "DynamicNet, control 0.9",
        lambda: nets.dynamic_net(16, 32, 8),
        lambda: modules.DynamicNet(16, 32, 8),
        (16,),
        control=0.9,
    ),
    Network(
        "DynamicNet, control 0.1",
        lambda: nets.dynamic_net(16, 32, 8),
        lambda: modules.DynamicNet(16, 32, 8),
        (16,),
        control=0.1,
    ),
    Network(
        "DynamicNet as an ONNX If",
        lambda: nets.dynamic_net(16, 32, 8, mode="branch"),
        lambda: modules.DynamicNet(16, 32, 8),
        (16,),
        control=0.9,
    ),
    Network(
        "ResidualBlock, 1×1 projection",
        lambda: nets.residual_block(3, 16, 1, "project"),
        lambda: modules.ResidualBlock(3, 16, 1, "project"),
        (3, 12, 12),
    ),
    Network("two-block ResNet", nets.tutorial_resnet, modules.TutorialResNet, (3, 8, 8)),
)


def prepared(network: Network, dtype: torch.dtype) -> tuple[Block, Any, nn.Module, Tensor, tuple[Any, ...]]:
    """Return block, parameters, the module with the same weights, an input, and what follows it in a call."""
    block = network.block()
    params, _ = block.init(torch.Generator().manual_seed(0), dtype)
    module = network.module().to(dtype)
    with torch.no_grad():
        for ours, theirs in zip(tree.leaves(params), module.parameters(), strict=True):
            theirs.copy_(ours)
    x = torch.randn(BATCH, *network.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    rest = () if network.control is None else ({}, {"control": torch.tensor(network.control)})
    return block, params, module, x, rest


def module_call(network: Network, module: nn.Module, x: Tensor) -> Tensor:
    """Call the module as its tutorial does."""
    y: Tensor = module(x) if network.control is None else module(x, network.control)
    return y


def differences(network: Network) -> tuple[float, float | None, float | None]:
    """Return the largest float64 differences from the module: outputs, parameter gradients, input gradients.

    Gradients are None for a network in branch mode, which has no torch.func.grad.
    """
    block, params, module, x, rest = prepared(network, torch.float64)
    leaf = x.clone().requires_grad_()
    expected = module_call(network, module, leaf)
    output = float((block(params, x, *rest) - expected.detach()).abs().max())
    if "If" in network.name:
        return output, None, None
    expected.square().mean().backward()
    assert leaf.grad is not None
    by_params, by_input = grad(lambda p, v: block(p, v, *rest).square().mean(), argnums=(0, 1))(params, x)
    theirs = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
    pairs = zip(tree.leaves(by_params), theirs, strict=True)
    return output, max(float((a - b).abs().max()) for a, b in pairs), float((by_input - leaf.grad).abs().max())


def verdict(network: Network) -> export.Verdict:
    """Return the verdict of the float32 ONNX file, batch size dynamic, against eager and against the module."""
    block, params, module, x, rest = prepared(network, torch.float32)

    def as_module(params: Any, x: Tensor, *rest: Any) -> Tensor:
        return module_call(network, module, x).detach()

    dynamic: Sequence[Any] = (None, {0: "batch"}, *(None for _ in rest))
    return export.verify(block, (params, x, *rest), against=as_module, dynamic=dynamic)


def _cell(value: float | None) -> str:
    return "–" if value is None else "0" if value == 0 else f"{value:.1e}"


def table() -> str:
    """Measure everything and return the table in Markdown."""
    lines = [
        "| network | outputs | ∂ parameters | ∂ input | ONNX ratio (limit) | batch sizes |",
        "|---|---|---|---|---|---|",
    ]
    for network in NETWORKS:
        judged = verdict(network)
        assert judged.passed, judged.table()
        worst = max((row for row in judged.rows if row.ratio is not None), key=lambda row: row.ratio or 0.0)
        sizes = sorted({int(row.case.removeprefix("batch=")) for row in judged.rows if row.case.startswith("batch=")})
        cells = [*map(_cell, differences(network)), f"{worst.ratio:.2f} ({worst.limit:g})", ", ".join(map(str, sizes))]
        lines.append(f"| {network.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Write the table between its markers in the page."""
    text = PAGE.read_text()
    head, _, rest = text.partition(START)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{START}\n\n{table()}\n\n{END}{tail}")


if __name__ == "__main__":
    main()
