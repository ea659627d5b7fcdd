"""Several processes compute what one does in every transform, and a mistake on one of them is an error on all."""

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import export
import pure
from parity_tests.spmd.__main__ import BOUND, PAGE, measured, wrong
from parity_tests.spmd.audits import AUDITS, audited, without_held
from parity_tests.spmd.compiled import COMPILED
from parity_tests.spmd.faults import FAULTS
from parity_tests.spmd.launch import processes
from parity_tests.spmd.measurements import MEASUREMENTS
from parity_tests.spmd.transforms import CONTROLS, TRANSFORMS
from pure import errors, flow, spmd
from pure.flow.auditing.depth_split import stretches


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process only."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_two_processes_compute_what_one_does() -> None:
    rows = measured(2, "--calls", "pmean")
    assert not wrong(rows), "\n".join(json.dumps(row) for row in wrong(rows))
    assert sum(row.get("found") is not None for row in rows if "family" in row) > 5 * len(TRANSFORMS)
    assert {row["fault"] for row in rows if "fault" in row} == set(FAULTS)
    assert {row["control"] for row in rows if "control" in row} == set(CONTROLS)


def test_the_check_of_the_table_itself() -> None:
    good = {"call": "sum", "transform": "grad", "family": "gated", "found": 1e-15}
    assert not wrong([good, {**good, "found": None}, {"control": "x", "found": 0.1}])
    bad = [{**good, "found": 1e-11}, {**good, "found": "error"}, {**good, "found": float("nan")}]
    bad += [{"control": "x", "found": 1e-15}, {"fault": "x", "found": "no error"}]
    assert wrong(bad) == bad


def test_the_page_holds_every_transform_and_every_mistake() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert all(f" {name} |" in text for name in (*TRANSFORMS, *MEASUREMENTS, *AUDITS))
    assert all(f"- {name}\n" in text for name in FAULTS)


def failed_at(output: str) -> float:
    return float(next(line for line in output.splitlines() if line.startswith("fails at")).split()[-1])


@pytest.mark.parametrize("how", ["error", "killed", "hangs"])
def test_a_failure_on_one_rank_ends_all_within_30_seconds(how: str, tmp_path: Path) -> None:
    first, last = processes(2, "parity_tests.spmd.failing", how, str(tmp_path))
    assert first.code == 1, first.output
    assert last.code == (-9 if how == "killed" else 1), last.output
    assert "PeerFailedError" in first.output
    if how == "error":
        assert "rank 1 failed" in first.output
        assert "ZeroDivisionError: the samples of this rank are broken" in first.output
    assert max(first.time, last.time) - failed_at(last.output) < 30
    for rank in range(2):
        pure.load(tmp_path / f"rank{rank}.safetensors")  # whole
    assert sorted(os.listdir(tmp_path)) == ["rank0.safetensors", "rank1.safetensors"]


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("how", ["error", "killed"])
def test_a_failure_in_the_middle_of_an_audit_ends_all_within_30_seconds(how: str, where: str, tmp_path: Path) -> None:
    ended = processes(3, "parity_tests.spmd.failing", how, str(tmp_path), where)
    assert [rank.code for rank in ended] == ([1, -9, 1] if how == "killed" else [1, 1, 1])
    for other in (ended[0], ended[2]):
        assert "PeerFailedError" in other.output, other.output
        said = "rank that has ended" if how == "killed" else "ZeroDivisionError: the samples of this rank are broken"
        assert said in other.output, other.output
        assert other.time - failed_at(ended[1].output) < 30
    found = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in tmp_path.iterdir()}
    assert sorted(found) == ["rank0.json", "rank1.json", "rank2.json"]
    assert found["rank0.json"] == found["rank1.json"] == found["rank2.json"]


def test_compiled_functions_around_gradients_of_two_processes() -> None:
    for rank in processes(2, "parity_tests.spmd.compiled"):
        found = dict(line.split(": ") for line in rank.output.splitlines() if line.split(":")[0] in COMPILED)
        assert rank.code == 0, rank.output
        assert found.keys() == set(COMPILED)
        assert all(float(difference) <= BOUND for difference in found.values()), found


def test_without_a_process_group() -> None:
    for call in (spmd.rank, spmd.size, lambda: spmd.psum(torch.ones(2)), lambda: spmd.shard(torch.ones(2))):
        with pytest.raises(errors.GroupError, match=r"no process group.*torchrun"):
            call()
    mapped = spmd.shard_map(lambda x: x, sharded=0)
    with pytest.raises(errors.GroupError, match="no process group"):
        mapped(torch.ones(2))
    with pytest.raises(errors.GroupError, match="no process group"):
        pure.Sharded(pure.Linear(2, 2)).init(torch.Generator())


@pytest.mark.usefixtures("alone")
def test_a_group_of_one_is_one_process() -> None:
    block, x = pure.BatchNorm(3, group="world"), torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0))
    params, state = block.init(torch.Generator())
    mapped = spmd.shard_map(lambda x: block.apply(params, x, state, {}, True), sharded=0, out=("sharded", "same"))
    y, new_state = mapped(x)
    expected, expected_state = pure.BatchNorm(3).apply(params, x, state, {}, True)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(new_state, expected_state)


@pytest.mark.usefixtures("alone")
def test_batch_norm_of_one_value_a_channel_on_all_ranks_together() -> None:
    block = pure.BatchNorm(3, group="world")
    params, state = block.init(torch.Generator())
    with pytest.raises(errors.ShapeError, match="all ranks together have one value"):
        spmd.shard_map(lambda x: block.apply(params, x, state, {}, True)[0], sharded=0)(torch.ones(1, 3))


@pytest.mark.usefixtures("alone")
def test_a_function_with_a_collective_is_not_exported(tmp_path: Path) -> None:
    path, x = tmp_path / "f.onnx", torch.ones(3)
    mapped = spmd.shard_map(lambda x: spmd.psum(x.sum()), sharded=0)
    for fn in (mapped, torch.func.grad(mapped)):
        with pytest.raises(export.errors.TracingError, match=r"being recorded.*cannot hold a collective"):
            export.to_onnx(fn, (x,), path)
        with pytest.raises(export.errors.TracingError, match=r"being recorded.*cannot hold a collective"):
            export.jit(fn)(x)
        assert not list(tmp_path.glob("*.onnx*"))
    assert float(mapped(x)) == 3


@pytest.mark.usefixtures("alone")
def test_parts_of_a_sharded_block_come_together_again() -> None:
    block = pure.Sharded(pure.Linear(3, 2))
    params, _ = block.init(torch.Generator().manual_seed(0))
    assert {name: tuple(leaf.shape) for name, leaf in params.items()} == {"weight": (6,), "bias": (2,)}
    whole, _ = pure.Linear(3, 2).init(torch.Generator().manual_seed(0))
    assert all(torch.equal(block.join(params)[name], whole[name]) for name in whole)
    assert pickle.loads(pickle.dumps(block)) == block


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", AUDITS)
def test_an_audit_over_a_group_of_one_is_one_process_s(name: str) -> None:
    found, expected = audited("residual", name, {"group": "world"}), audited("residual", name, {})
    assert without_held(found) == without_held(expected)
    assert found.held <= expected.held


@pytest.mark.usefixtures("alone")
def test_an_audit_over_a_group_leaves_the_generator_where_one_process_does() -> None:
    net = pure.nets.residual_mlp(3, 4, depth=3)
    params, _ = net.init(torch.Generator().manual_seed(0))
    one, ours = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    flow.audit(net, params, torch.ones(2, 3), generator=one)
    flow.audit(net, params, torch.ones(2, 3), generator=ours, group="world")
    assert torch.equal(one.get_state(), ours.get_state())
    assert not torch.equal(one.get_state(), torch.Generator().manual_seed(1).get_state())


def test_stretches_cover_the_depth_evenly() -> None:
    for depth in range(9):
        for ranks in range(1, 6):
            found = stretches(depth, ranks)
            assert [place for start, stop in found for place in range(start, stop)] == list(range(depth))
            assert max(stop - start for start, stop in found) - min(stop - start for start, stop in found) <= 1


def test_rank_0_alone_shows_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then draws into a file too
    first, last = processes(2, "parity_tests.spmd.shown")
    assert first.code == last.code == 0, first.output + last.output
    assert "forward" in first.output
    assert "backward" in first.output
    assert "ward" not in last.output


@pytest.mark.usefixtures("alone")
def test_kinds_of_results_by_part() -> None:
    mapped = spmd.shard_map(lambda x: {"sum": x.sum(), "rows": x}, sharded=0, out={"sum": "sum", "rows": "sharded"})
    assert float(mapped(torch.ones(4))["sum"]) == 4
    with pytest.raises(errors.ArgumentError, match="expected keys"):
        spmd.shard_map(lambda x: {"total": x.sum()}, sharded=0, out={"sum": "sum"})(torch.ones(4))
    with pytest.raises(errors.ArgumentError, match="returned float, expected tensors"):
        spmd.shard_map(lambda x: 1.0, sharded=0)(torch.ones(4))


@pytest.mark.usefixtures("alone")
def test_compiled_around_a_collective() -> None:
    def loss(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return spmd.psum((x @ w).sin().sum())

    w, x = torch.randn(3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    gradient = torch.func.grad(spmd.shard_map(loss, sharded=1))
    compiled = torch.compile(lambda w, x: gradient(w * 2, x) + 1, backend="aot_eager")
    torch.testing.assert_close(compiled(w, x), gradient(w * 2, x) + 1)
