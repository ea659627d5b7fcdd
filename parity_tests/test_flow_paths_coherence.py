"""Random signs give the energy of the paths one by one, in an interval that covers it; results are drawn and stored."""

import json
import math
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jvp

import pure
from pure import flow, nets
from pure.errors import ArgumentError
from pure.skips import Highway, Residual
from pure.tags import substitute

DOUBLE = torch.float64
DEPTH = 6


def energies(net: pure.Block, params: Any, x: Tensor, v: Tensor) -> Tensor:
    """Σ_|S|=k ‖P_S v‖² by enumeration: block by block, the skip's or the branch's derivative."""
    total = torch.zeros(DEPTH + 1, dtype=DOUBLE)
    for size in range(DEPTH + 1):
        for chosen in combinations(range(DEPTH), size):
            h, moved = x, v
            for layer, (name, block) in enumerate(net.children().items()):
                own = params[name]
                carry = substitute(
                    lambda h, block=block, own=own: block(own, h),
                    lambda tagged: tagged.value.detach(),
                    ("branch", "gate"),
                )
                skip = jvp(carry, (h,), (moved,))[1]
                h, whole = jvp(lambda h, block=block, own=own: block(own, h), (h,), (moved,))
                moved = whole - skip if layer in chosen else skip
            total[size] += moved.square().sum()
    return total


def case(kind: str) -> tuple[pure.Block, Any, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    block = nets.residual_mlp(4, 6, depth=DEPTH) if kind == "residual" else pure.Sequential(*[Highway.dense(4)] * DEPTH)
    params, _ = block.init(generator, DOUBLE)
    return block, params, *(torch.randn(1, 4, generator=generator, dtype=DOUBLE) for _ in range(2))


@pytest.mark.parametrize("kind", ["residual", "highway"])
def test_the_intervals_cover_the_energies(kind: str) -> None:
    block, params, x, v = case(kind)
    exact = energies(block, params, x, v)
    generator = torch.Generator().manual_seed(0)
    runs = [flow.path_coherence(block, params, x, v, generator=generator, samples=100) for _ in range(50)]
    covered = sum(((run.low <= exact * (1 + 1e-9)) & (exact * (1 - 1e-9) <= run.high)).double() for run in runs)
    assert (covered >= 43).all(), covered  # of 50; fewer has a chance below 1 in 1,000 at 95%
    spectrum = flow.path_spectrum(block, params, x, v)
    for run in runs[:2]:
        torch.testing.assert_close(run.squared_norms, spectrum.norms.square())
        torch.testing.assert_close(run.coherence, run.squared_norms / run.energies)
        assert (run.coherence_low <= run.coherence).all()
        assert (run.coherence <= run.coherence_high).all()


def test_equal_paths_add_up_and_the_generator_alone_decides() -> None:
    net = pure.Sequential(*[Residual(pure.Function(lambda x: 0.5 * x))] * 5)
    x = torch.ones(1, 1)
    found = flow.path_coherence(net, {}, x, x, generator=torch.Generator().manual_seed(0), samples=4000)
    for k in range(6):  # every path is 2^-k, so ‖J_k‖² = C² 4^-k and the energy C 4^-k
        assert found.coherence_low[k] * (1 - 1e-6) <= math.comb(5, k) <= found.coherence_high[k] * (1 + 1e-6)
    again = flow.path_coherence(net, {}, x, x, generator=torch.Generator().manual_seed(0), samples=4000)
    assert torch.equal(found.energies, again.energies)


def test_stacks_too_large_for_one_sweep_are_split() -> None:
    block, params, x, v = case("residual")
    from pure.flow.paths import coherence

    whole = flow.path_coherence(block, params, x, v, generator=torch.Generator().manual_seed(0), samples=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coherence, "MAX_STACK_VALUES", 7 * 6 * 3)
        parts = flow.path_coherence(block, params, x, v, generator=torch.Generator().manual_seed(0), samples=10)
    torch.testing.assert_close(whole.energies, parts.energies)


def test_law_of_the_path_lengths() -> None:
    """The mean energy of k branches over random networks is C(L, k) α^2k."""
    alpha, draws, depth, width = 0.8, 150, 4, 16
    generator = torch.Generator().manual_seed(0)

    class Block:
        """x + α V relu(U x) with U of variance 2/m and V of variance 1/n."""

        def __call__(self, params: Any, x: Tensor) -> Tensor:
            for u, w in params:
                x = x + pure.tag(alpha * torch.relu(x @ u) @ w, "branch", kind="branch")
            return x

    measured = []
    for _ in range(draws):
        params = [
            (
                torch.randn(width, width, generator=generator, dtype=DOUBLE) * math.sqrt(2 / width),
                torch.randn(width, width, generator=generator, dtype=DOUBLE) / math.sqrt(width),
            )
            for _ in range(depth)
        ]
        x, v = (torch.randn(1, width, generator=generator, dtype=DOUBLE) for _ in range(2))
        found = flow.path_spectrum(Block(), params, x, v / v.norm())
        measured.append(found.norms.square())
    mean = torch.stack(measured).mean(0)
    error = torch.stack(measured).std(0) / math.sqrt(draws)
    law = torch.tensor(flow.theory.path_energies([alpha**2] * depth), dtype=DOUBLE)
    assert ((mean - law).abs() <= 4 * error + 1e-12).all()


def test_results_read_as_mappings_tables_json_and_pictures() -> None:
    pytest.importorskip("matplotlib")
    block, params, x, v = case("residual")
    spectrum = flow.path_spectrum(block, params, x, v)
    found = flow.path_coherence(block, params, x, v, generator=torch.Generator().manual_seed(0))
    assert list(spectrum) == list(found) == list(range(DEPTH + 1))
    assert spectrum[2] == pytest.approx(float(spectrum.components[2].norm()))
    assert spectrum.mean_path_length == pytest.approx(sum(k * float(s) for k, s in enumerate(spectrum.shares)))
    assert spectrum.table().splitlines()[-1].split()[0] == "more"
    assert json.loads(json.dumps(spectrum.to_dict()))["paths"] == [math.comb(DEPTH, k) for k in range(DEPTH + 1)]
    assert json.loads(json.dumps(found.to_dict()))["samples"] == 64
    assert len(found.table().splitlines()) == DEPTH + 3
    with pytest.raises(KeyError):
        spectrum[DEPTH + 1]
    law = flow.theory.path_energies([0.5] * DEPTH)
    figure = flow.plot.paths(spectrum, theory={"law": law}, coherence=found, title="paths")
    number, magnitude, product = figure.axes
    assert [line.get_ydata()[1] for line in (*number.lines, product.lines[0])] == [
        pytest.approx(math.log10(DEPTH)),
        pytest.approx(float(spectrum.shares[1])),
    ]
    assert len(magnitude.lines) == 3
    assert len(magnitude.collections) == 1
    assert list(product.lines[-1].get_ydata()) == pytest.approx([value / sum(law) for value in law])
    assert len(spectrum.plot().axes) == 3
    assert len(found.plot().axes) == 1
    with pytest.raises(ArgumentError, match="theory 'none': expected the energies"):
        spectrum.plot(theory={"none": [0.0]})
    few = flow.path_coherence(block, params, x, v, orders=2, generator=torch.Generator())
    with pytest.raises(ArgumentError, match="a coherence of 3 orders for 7"):
        flow.plot.paths(spectrum, coherence=few)
