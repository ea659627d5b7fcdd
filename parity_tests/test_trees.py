"""Trees: names, round trips, stacking, freezing, casting, and files that are whole or absent."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import pure
from pure import nets, tree
from pure.errors import ArgumentError, SaveError, TreeError


def params_of(block: pure.Block, seed: int = 0) -> Any:
    return block.init(torch.Generator().manual_seed(seed))[0]


def same(a: Any, b: Any) -> bool:
    left, right = tree.flatten(a), tree.flatten(b)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_flatten_and_unflatten_are_inverse() -> None:
    params = params_of(nets.tutorial_resnet((3, 4, 5)))
    flat = pure.flatten(params)
    assert list(flat)[:2] == ["block1.conv1.weight", "block1.conv1.bias"]
    assert same(pure.unflatten(flat), params)
    assert tree.flatten(({"a": 1}, [2, 3])) == {"0.a": 1, "1.0": 2, "1.1": 3}


@pytest.mark.parametrize("key", ["a.b", "a/b", "", 3])
def test_keys_that_cannot_be_part_of_a_name_are_refused(key: Any) -> None:
    with pytest.raises(TreeError, match="without"):
        pure.flatten({"fc": {key: torch.zeros(1)}})


@pytest.mark.parametrize("flat", [{"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}], ids=str)
def test_a_name_cannot_be_leaf_and_branch(flat: dict[str, int]) -> None:
    with pytest.raises(TreeError, match="leaf"):
        pure.unflatten(flat)


def test_wrong_tree_lists_missing_extra_and_mis_shaped_leaves_in_one_error() -> None:
    block = nets.simple_block_with_skip(4, 8, 4)
    params = params_of(block)
    bad = {
        "fc1": {"weight": torch.zeros(8, 5), "bias": params["fc1"]["bias"]},
        "fc2": {"wieght": params["fc2"]["weight"], "bias": params["fc2"]["bias"]},
        "fc3": {"bias": torch.zeros(2)},
    }
    with pytest.raises(TreeError) as caught:
        block(bad, torch.zeros(2, 4))
    message = str(caught.value)
    for part in (
        "missing 'fc2.weight' of shape (4, 8) (did you mean 'fc2.wieght'?)",
        "extra 'fc2.wieght'",
        "extra 'fc3.bias'",
        "mis-shaped 'fc1.weight': given (8, 5), expected (8, 4)",
        "block.init",
    ):
        assert part in message


@pytest.mark.parametrize("change", ["missing", "extra leaf", "extra branch", "mis-shaped"])
@pytest.mark.parametrize(
    "name", ["simple_block", "simple_block_with_skip", "dynamic_net", "residual_mlp", "repeat", "highway"]
)
def test_one_wrong_leaf_is_enough(name: str, change: str) -> None:
    block, params, state, x, extras = pure.catalogue.case(name).example()
    flat = tree.flatten(params)
    last = list(flat)[-2]
    if change == "missing":
        del flat[last]
    elif change == "extra leaf":
        flat[last.rpartition(".")[0] + ".gain"] = torch.zeros(1)
    elif change == "extra branch":
        flat["fc9.weight"] = torch.zeros(3, 1, 1) if name == "repeat" else torch.zeros(1, 1)
    else:
        shape = list(flat[last].shape)
        shape[-1] += 1
        flat[last] = torch.zeros(shape)
    with pytest.raises(TreeError, match={"missing": "missing", "mis-shaped": "mis-shaped"}.get(change, "extra")):
        block(tree.unflatten(flat), x, state, extras)


def test_an_error_names_the_block_it_comes_from() -> None:
    block = nets.residual_mlp(4, 8, 3)
    params = params_of(block)
    with pytest.raises(pure.errors.DtypeError, match=r"in 0\.branch\.fc1"):
        block(params, torch.zeros(2, 4, dtype=torch.float64))


def test_stack_and_unstack_are_inverse_whatever_the_order_of_keys() -> None:
    a, b = (params_of(nets.simple_block(2, 3, 2), seed) for seed in (0, 1))
    reordered = {"fc2": b["fc2"], "fc1": {"bias": b["fc1"]["bias"], "weight": b["fc1"]["weight"]}}
    stacked = pure.stack([a, reordered])
    assert stacked["fc1"]["weight"].shape == (2, 3, 2)
    first, second = pure.unstack(stacked)
    assert same(first, a)
    assert same(second, b)
    with pytest.raises(TreeError, match=r"trees\[1\]"):
        pure.stack([a, {"fc1": a["fc1"]}])
    with pytest.raises(ArgumentError, match="at least one"):
        pure.stack([])
    with pytest.raises(TreeError, match="one size"):
        pure.unstack({"a": torch.zeros(2), "b": torch.zeros(3)})


def test_partition_freezes_and_combine_restores() -> None:
    block = nets.simple_block(2, 3, 2)
    params = params_of(block)
    chosen, frozen = pure.partition(params, "fc2.*")
    assert tree.names(chosen) == ["fc2.weight", "fc2.bias"]
    assert same(pure.combine(frozen, chosen), params)
    gradient = torch.func.grad(lambda t: block(pure.combine(t, frozen), torch.ones(1, 2)).sum())(chosen)
    assert tree.names(gradient) == tree.names(chosen)
    biases, _ = pure.partition(params, lambda name, leaf: leaf.ndim == 1)
    assert tree.names(biases) == ["fc1.bias", "fc2.bias"]
    with pytest.raises(TreeError, match="matches none"):
        pure.partition(params, ["fc1.*", "fc7.*"])
    with pytest.raises(TreeError, match="two of the trees"):
        pure.combine(params, chosen)


def test_cast_count_and_summary() -> None:
    block, params, state, _, _ = pure.catalogue.case("residual_conv").example()
    low = pure.cast(state, torch.bfloat16)
    counters = [leaf for leaf in tree.leaves(low) if leaf.dtype == torch.int64]
    assert len(counters) == 3, "counters stay integers"
    assert pure.count(params) == sum(leaf.numel() for leaf in tree.leaves(params))
    table = pure.summary(block, (2, 4, 8, 8))
    assert table.parameters == pure.count(params)
    assert table.out_shape == (2, 6, 4, 4)
    assert "branch.norm1.running_var" in str(table)
    assert table.to_dict()["parameters"] == table.parameters
    with pytest.raises(ArgumentError, match="floating"):
        pure.cast(params, torch.int32)


def test_save_and_load_are_bit_exact(tmp_path: Path) -> None:
    block, params, state, _, _ = pure.catalogue.case("residual_conv").example()
    path = tmp_path / "net.safetensors"
    pure.save({"params": params, "state": state}, path, metadata={"case": "residual_conv"})
    loaded = pure.load(path)
    assert same(loaded["params"], params)
    assert same(loaded["state"], state)
    assert os.listdir(tmp_path) == ["net.safetensors"]
    shared = torch.arange(6.0)
    pure.save({"a": shared, "b": shared[2:4], "c": shared.reshape(2, 3).T}, path)
    assert torch.equal(pure.load(path)["c"], shared.reshape(2, 3).T)
    pure.check_params(block, loaded["params"], loaded["state"])


def test_bad_files_and_folders_are_typed_errors(tmp_path: Path) -> None:
    with pytest.raises(SaveError, match="exists and is writable"):
        pure.save({"a": torch.zeros(1)}, tmp_path / "no" / "net.safetensors")
    with pytest.raises(TreeError, match="expected a tensor"):
        pure.save({"a": 3}, tmp_path / "net.safetensors")
    with pytest.raises(SaveError, match="cannot read"):
        pure.load(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("not a safetensors file")
    with pytest.raises(SaveError, match="as safetensors"):
        pure.load(tmp_path / "text.safetensors")
    assert os.listdir(tmp_path) == ["text.safetensors"]


def test_a_killed_save_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    pure.save({"a": torch.ones(4)}, path)
    program = (
        "import os, sys, torch, pure\n"
        "os.replace = lambda *a: os.kill(os.getpid(), 9)\n"
        f"pure.save({{'a': torch.zeros(4)}}, {str(path)!r})\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], check=False)
    assert result.returncode == -9
    assert torch.equal(pure.load(path)["a"], torch.ones(4))


def test_saved_files_can_be_read_by_others(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    pure.save({"a": torch.ones(4)}, path)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
