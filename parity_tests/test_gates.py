"""What the gates are not, what they refuse, and what they tag."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pure
from pure import tree
from pure.block import Block
from pure.catalogue.parts import mlp
from pure.errors import ArgumentError, RankError, ShapeError
from pure.layers import Activation, Linear
from pure.skips.gated.channel_gates import ECA, ChannelAttention, SelectiveKernel, SpatialAttention, cbam
from pure.skips.gated.glu import GLU
from pure.skips.gated.grn import GatedResidualNetwork
from pure.skips.gated.gru_gate import GatedSkip, GRUCellSkip
from pure.skips.gated.recurrent_highway import RecurrentHighway
from pure.skips.gated.scalar_gate import ScalarGate
from pure.skips.gated.spatial_gating import SpatialGating
from pure.skips.scaled.factors import Weighted
from pure.skips.scaled.fixup import FixupNormal, fixup

IDENTITY = Activation("identity")
DOUBLE = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def cell_with(params: Any, z_sign: float) -> nn.GRUCell:
    """A GRUCell with the six matrices of a GTrXL gate and its b in z, all other biases 0."""
    cell = nn.GRUCell(4, 4).double()
    order = ("r", "z", "g")
    signs = {"r": 1.0, "z": z_sign, "g": 1.0}
    leaves = {f"{side}_{which}": signs[which] * params[f"{side}_{which}"]["weight"] for side in "wu" for which in order}
    bias = torch.zeros(12, dtype=DOUBLE)
    bias[4:8] = -z_sign * params["bias"]
    cell.load_state_dict(
        {
            "weight_ih": torch.cat([leaves[f"w_{which}"] for which in order]),
            "weight_hh": torch.cat([leaves[f"u_{which}"] for which in order]),
            "bias_ih": bias,
            "bias_hh": torch.zeros(12, dtype=DOUBLE),
        }
    )
    return cell


def test_the_gate_of_gtrxl_is_not_a_gru_cell() -> None:
    block = GatedSkip(IDENTITY, 4)
    params, _ = block.init(torch.Generator().manual_seed(0), DOUBLE)
    x = normal(64, 4)
    ours = block(params, x)
    same_letters = cell_with(params, 1.0)(x, x).detach()
    assert float((ours - same_letters).norm() / ours.norm()) > 0.1, "z is the share of the new value, not of the old"
    inverted = cell_with(params, -1.0)(x, x).detach()
    distance = float((ours - inverted).norm() / ours.norm())
    assert 1e-3 < distance < 0.1, "with z turned round the reset gate still acts before the product, not behind it"
    diagonal = dict(params, u_g={"weight": torch.diag(torch.tensor([0.5, -1.0, 2.0, 0.1], dtype=DOUBLE))})
    torch.testing.assert_close(block(diagonal, x), cell_with(diagonal, -1.0)(x, x).detach())


def test_the_gru_cell_carries_by_z_and_gtrxl_by_its_complement() -> None:
    x = normal(8, 4)
    gate, cell = GatedSkip(IDENTITY, 4, bias=50.0), GRUCellSkip(IDENTITY, 4)
    params, _ = gate.init(torch.Generator().manual_seed(0), DOUBLE)
    torch.testing.assert_close(gate(params, x), x)
    params, _ = cell.init(torch.Generator().manual_seed(0), DOUBLE)
    params["ih"]["bias"] = params["ih"]["bias"] + torch.tensor([0.0, 50.0, 0.0]).repeat_interleave(4).to(DOUBLE)
    torch.testing.assert_close(cell(params, x), x)


def test_a_context_is_added_once_a_sample_or_once_a_place() -> None:
    block = GatedResidualNetwork(4, 6, context_features=3)
    params, _ = block.init(torch.Generator().manual_seed(0), DOUBLE)
    x, context = normal(2, 5, 4), normal(2, 3, seed=1)
    whole = block(params, x, {}, {"context": context})
    everywhere = block(params, x, {}, {"context": context[:, None].expand(2, 5, 3)})
    torch.testing.assert_close(whole, everywhere)
    without = block(params, x)
    torch.testing.assert_close(without, block(params, x, {}, {"context": torch.zeros(2, 3, dtype=DOUBLE)}))
    assert not torch.allclose(whole, without)
    with pytest.raises(ShapeError, match=r"context \(2, 4, 3\) for input \(2, 5, 4\)"):
        block(params, x, {}, {"context": normal(2, 4, 3)})
    plain = GatedResidualNetwork(4, 6)
    params, _ = plain.init(torch.Generator().manual_seed(0), DOUBLE)
    with pytest.raises(ArgumentError, match="set context_features"):
        plain(params, x, {}, {"context": context})


def test_a_recurrent_highway_layer_sees_no_later_step() -> None:
    block = RecurrentHighway(3, 4, depth=3)
    params, _ = block.init(torch.Generator().manual_seed(0), DOUBLE)
    x = normal(2, 6, 3)
    torch.testing.assert_close(block(params, x)[:, :4], block(params, x[:, :4]))
    assert not torch.allclose(block(params, x)[:, 4:], block(params, x.flip(1))[:, 4:])


GATED: dict[str, tuple[Block, tuple[int, ...], int]] = {
    "glu": (GLU(4, 6, "sigmoid"), (2, 4), 1),
    "gru": (GatedSkip(IDENTITY, 4), (2, 4), 1),
    "input": (GatedSkip(IDENTITY, 4, "input"), (2, 4), 1),
    "output": (GatedSkip(IDENTITY, 4, "output"), (2, 4), 1),
    "highway": (GatedSkip(IDENTITY, 4, "highway"), (2, 4), 1),
    "sigtanh": (GatedSkip(IDENTITY, 4, "sigtanh"), (2, 4), 1),
    "gru_cell": (GRUCellSkip(IDENTITY, 4), (2, 4), 1),
    "grn": (GatedResidualNetwork(4, 6), (2, 4), 1),
    "recurrent_highway": (RecurrentHighway(4, 3, depth=2), (2, 5, 4), 10),
    "eca": (ECA(), (2, 4, 5, 5), 1),
    "cbam": (cbam(4, 2), (2, 4, 5, 5), 2),
    "selective_kernel": (SelectiveKernel(4, 6, 3), (2, 4, 5, 5), 1),
}


@pytest.mark.parametrize("name", GATED)
def test_every_gate_is_tagged_and_lies_between_zero_and_one(name: str) -> None:
    block, shape, expected = GATED[name]
    params, state = block.init(torch.Generator().manual_seed(0), DOUBLE)
    seen = pure.capture(block, kinds=("gate",))(params, 3 * normal(*shape), state)[1]
    assert len(seen) == expected
    for gate in seen.values():
        assert 0 <= float(gate.min()) <= float(gate.max()) <= 1


def test_a_glu_whose_activation_leaves_the_unit_interval_tags_no_gate() -> None:
    block = GLU(4, 6, "silu")
    params, state = block.init(torch.Generator().manual_seed(0))
    assert not pure.capture(block, kinds=("gate",))(params, torch.ones(2, 4), state)[1]


@pytest.mark.parametrize("fused", ["gate_up", "up_gate"])
def test_a_fused_glu_is_the_unfused_one_with_stacked_rows(fused: Any) -> None:
    plain, packed = GLU(4, 6), GLU(4, 6, fused=fused)
    params, _ = plain.init(torch.Generator().manual_seed(0), DOUBLE)
    rows = [params[name] for name in fused.split("_")]
    stacked = {leaf: torch.cat([part[leaf] for part in rows]) for leaf in ("weight", "bias")}
    x = normal(3, 4)
    torch.testing.assert_close(packed({fused: stacked, "down": params["down"]}, x), plain(params, x))


REFUSED_ARGUMENTS: dict[str, Any] = {
    "glu activation": lambda: GLU(4, 6, "swish"),
    "glu order": lambda: GLU(4, 6, fused="up"),  # type: ignore[arg-type]
    "glu size": lambda: GLU(4, 0),
    "gate kind": lambda: GatedSkip(IDENTITY, 4, "gruu"),  # type: ignore[arg-type]
    "gate branch": lambda: GatedSkip(3, 4),  # type: ignore[arg-type]
    "scalar gate": lambda: ScalarGate(IDENTITY, "relux"),
    "odd halves": lambda: SpatialGating(5, 4),
    "even kernel": lambda: ECA(4),
    "even window": lambda: SpatialAttention(6),
    "one path": lambda: SelectiveKernel(4, 4, 2, paths=1),
    "unequal split": lambda: SelectiveKernel(5, 4, 2, split=True),
    "no layer": lambda: RecurrentHighway(3, 4, depth=0),
    "one layer": lambda: fixup([Linear(2, 2)]),
    "no depth": lambda: FixupNormal(0),
    "no block": lambda: Weighted.by_depth(0),
}


@pytest.mark.parametrize("name", REFUSED_ARGUMENTS)
def test_arguments_that_make_no_sense_are_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match=r"expected|one of"):
        REFUSED_ARGUMENTS[name]()


NARROW = Linear(4, 3)
REFUSED_INPUTS: dict[str, tuple[Block, tuple[int, ...], type[Exception]]] = {
    "gate": (GatedSkip(NARROW, 4), (2, 4), ShapeError),
    "gate width": (GatedSkip(IDENTITY, 4), (2, 5), ShapeError),
    "cell": (GRUCellSkip(NARROW, 4), (2, 4), ShapeError),
    "scalar": (ScalarGate(NARROW), (2, 4), ShapeError),
    "weighted": (Weighted(NARROW), (2, 4), ShapeError),
    "tokens": (SpatialGating(4, 5), (2, 6, 4), ShapeError),
    "token rank": (SpatialGating(4, 5), (5, 4), RankError),
    "eca": (ECA(), (4, 5, 5), RankError),
    "channel": (ChannelAttention(4, 2), (4, 5, 5), RankError),
    "spatial": (SpatialAttention(), (4, 5, 5), RankError),
    "selective": (SelectiveKernel(4, 4, 2), (4, 5, 5), RankError),
    "recurrent": (RecurrentHighway(4, 3), (2, 4), RankError),
}


@pytest.mark.parametrize("name", REFUSED_INPUTS)
def test_inputs_that_do_not_fit_are_refused(name: str) -> None:
    block, shape, error = REFUSED_INPUTS[name]
    params, state = block.init(torch.Generator().manual_seed(0))
    with pytest.raises(error, match=r"expected"):
        block(params, torch.ones(shape), state)


def test_the_branch_of_a_gate_keeps_its_own_parameters() -> None:
    names = tree.names(GatedSkip(mlp(), 6).init(torch.Generator())[0])
    assert names[:4] == ["branch.fc1.weight", "branch.fc1.bias", "branch.fc2.weight", "branch.fc2.bias"]
    assert names[-1] == "bias"
