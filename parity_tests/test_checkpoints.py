"""Checkpoints of other libraries: in and out bit for bit, one error for everything that is wrong, and fine-tuning."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import pure
from parity_tests.libraries import torchvision
from pure import interop, nets, optim, tree
from pure.errors import ArgumentError, SaveError, TreeError
from pure.interop import CheckpointError


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, torch.Tensor]:
    """A ResNet-18 of torchvision with random statistics, as if it had been trained."""
    torch.manual_seed(0)
    module = torchvision.models.resnet18(num_classes=100)
    state_dict: dict[str, torch.Tensor] = module.state_dict()
    floats = {name: leaf * (1 + torch.rand_like(leaf)) + 0.1 for name, leaf in state_dict.items() if leaf.ndim == 1}
    counters = {name: leaf + 7 for name, leaf in state_dict.items() if leaf.ndim == 0}
    return {**state_dict, **floats, **counters}


def test_a_file_of_torchvision_goes_in_and_out_bit_for_bit(checkpoint: Any, tmp_path: Path) -> None:
    save_file(checkpoint, tmp_path / "theirs.safetensors")
    block = nets.create("resnet18", num_classes=100)
    params, state = interop.from_state_dict(block, tmp_path / "theirs.safetensors")
    interop.write(interop.to_state_dict(block, params, state, "torchvision"), tmp_path / "ours.safetensors")
    written = load_file(tmp_path / "ours.safetensors")
    assert sorted(written) == sorted(checkpoint)
    assert all(torch.equal(written[name], leaf) for name, leaf in checkpoint.items())
    torchvision.models.resnet18(num_classes=100).load_state_dict(written)


def test_a_sharded_checkpoint_is_read_through_its_index(checkpoint: Any, tmp_path: Path) -> None:
    names = list(checkpoint)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: checkpoint[name] for name in part}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    weight_map = {name: file for file, part in parts.items() for name in part}
    index.write_text(json.dumps({"weight_map": weight_map}))
    block = nets.create("resnet18", num_classes=100)
    params, _ = interop.from_state_dict(block, index)
    assert torch.equal(tree.flatten(params)["fc.weight"], checkpoint["fc.weight"])
    index.write_text(json.dumps({"weight_map": {**weight_map, "fc.gone": "a.safetensors"}}))
    with pytest.raises(SaveError, match=r"fc\.gone"):
        interop.read(index)
    index.write_text(json.dumps({"weight_map": {"fc.weight": "../elsewhere.safetensors"}}))
    with pytest.raises(SaveError, match="beside it"):
        interop.read(index)


@pytest.mark.parametrize("name", ["model.pth", "pytorch_model.bin", "model.pt"])
def test_a_pickle_is_never_opened(name: str, tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.ones(1)}, tmp_path / name)
    with pytest.raises(SaveError, match=r"pickle.*weights_only=True"):
        interop.from_state_dict(nets.create("resnet18"), tmp_path / name)


def test_a_missing_an_extra_and_a_mis_shaped_tensor_are_one_error(checkpoint: Any) -> None:
    broken = dict(checkpoint)
    broken["layer1.0.convolution1.weight"] = broken.pop("layer1.0.conv1.weight")
    broken["bn1.weight"] = broken["bn1.weight"][:5]
    broken["banana"] = torch.ones(1)
    block = nets.create("resnet18", num_classes=100)
    with pytest.raises(TreeError) as caught:
        interop.from_state_dict(block, broken)
    message = str(caught.value)
    assert "missing 'layer1.0.conv1.weight'" in message
    assert "did you mean 'layer1.0.convolution1.weight'" in message
    assert "unexpected 'layer1.0.convolution1.weight'" in message
    assert "unexpected 'banana'" in message
    assert "'bn1.weight' is (5,), expected (64,)" in message
    assert "torchvision" in message


def test_an_old_checkpoint_without_counters_starts_them_at_zero(checkpoint: Any) -> None:
    old = {name: leaf for name, leaf in checkpoint.items() if not name.endswith("num_batches_tracked")}
    block = nets.create("resnet18", num_classes=100)
    _, state = interop.from_state_dict(block, old)
    counters = [leaf for name, leaf in tree.flatten(state).items() if name.endswith("num_batches_tracked")]
    assert len(counters) == 20
    assert all(int(leaf) == 0 and leaf.dtype == torch.int64 for leaf in counters)


def test_the_older_names_of_densenet_are_read_and_the_present_ones_written() -> None:
    module = torchvision.models.densenet121(num_classes=5)
    present = module.state_dict()
    older = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): leaf for name, leaf in present.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in older
    block = nets.create("densenet121", num_classes=5)
    params, state = interop.from_state_dict(block, older)
    written = interop.to_state_dict(block, params, state)
    assert sorted(written) == sorted(present)
    assert all(torch.equal(written[name], leaf) for name, leaf in present.items())


def test_what_is_ignored_is_drawn_and_everything_else_is_the_checkpoints(checkpoint: Any) -> None:
    block = nets.create("resnet18", num_classes=3)
    with pytest.raises(TreeError, match=r"'fc\.weight' is \(100, 512\), expected \(3, 512\).*ignore"):
        interop.from_state_dict(block, checkpoint)
    half = {name: leaf.half() if leaf.is_floating_point() else leaf for name, leaf in checkpoint.items()}
    params, _ = interop.from_state_dict(block, half, ignore=("fc",), generator=torch.Generator().manual_seed(5))
    flat = tree.flatten(params)
    fresh = tree.flatten(block.init(torch.Generator().manual_seed(5))[0])
    assert torch.equal(flat["fc.weight"], fresh["fc.weight"].half())
    assert torch.equal(flat["conv1.weight"], half["conv1.weight"])
    again, _ = interop.from_state_dict(block, half, ignore="fc", generator=torch.Generator().manual_seed(5))
    assert torch.equal(tree.flatten(again)["fc.bias"], flat["fc.bias"])
    with pytest.raises(ArgumentError, match=r"ignore.*'head'.*fc"):
        interop.from_state_dict(block, checkpoint, ignore=("fc", "head"))


def test_sources_and_blocks_that_are_not_known_are_refused(checkpoint: Any) -> None:
    with pytest.raises(ArgumentError, match=r"'torchvison'.*did you mean 'torchvision'"):
        interop.from_state_dict(nets.create("resnet18"), checkpoint, source="torchvison")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="no names of any library"):
        interop.from_state_dict(pure.Linear(2, 2), checkpoint)
    block = nets.create("vit_b_16", image_size=32, depth=1)
    params, state = block.init(torch.Generator())
    with pytest.raises(ArgumentError, match="source= one of 'timm', 'torchvision'"):
        interop.to_state_dict(block, params, state)


def test_fine_tuning_another_head_with_the_rest_frozen(checkpoint: Any, tmp_path: Path) -> None:
    block = nets.create("resnet18", num_classes=2)
    params, state = interop.from_state_dict(block, checkpoint, source="torchvision", ignore=("fc",))
    trainable, frozen = pure.partition(params, "fc.*")
    assert tree.names(trainable) == ["fc.weight", "fc.bias"]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 3, 32, 32, generator=generator)
    target = (x.mean((1, 2, 3)) > 0).long()

    def loss(trainable: Any) -> torch.Tensor:
        logits = block(pure.combine(frozen, trainable), x, state)
        return torch.nn.functional.cross_entropy(logits, target)

    optimizer = optim.adamw(1e-3)
    opt_state = optimizer.init(trainable)
    first = float(loss(trainable))
    for _ in range(20):
        _, gradient = pure.value_and_grad(loss)(trainable)
        trainable, opt_state = optimizer.step(gradient, opt_state, trainable)
    assert float(loss(trainable)) < 0.5 * first
    tuned = pure.combine(frozen, trainable)
    assert torch.equal(tree.flatten(tuned)["conv1.weight"], checkpoint["conv1.weight"]), "frozen leaves do not move"
    interop.write(interop.to_state_dict(block, tuned, state, "torchvision"), tmp_path / "tuned.safetensors")
    loaded, loaded_state = interop.from_state_dict(block, tmp_path / "tuned.safetensors")
    assert torch.equal(block(loaded, x, loaded_state), block(tuned, x, state))
    module = torchvision.models.resnet18(num_classes=2)
    module.load_state_dict(load_file(tmp_path / "tuned.safetensors"))
    torch.testing.assert_close(module.eval()(x), block(tuned, x, state))


def test_names_behind_a_prefix_and_tensors_in_a_deeper_mapping_say_what_to_do(checkpoint: Any) -> None:
    block = nets.create("resnet18", num_classes=100)
    wrapped = {f"module.{name}": leaf for name, leaf in checkpoint.items()}
    with pytest.raises(CheckpointError, match=r"behind 'module\.'.*name\.removeprefix\('module\.'\)") as caught:
        interop.from_state_dict(block, wrapped)
    assert len(str(caught.value)) < 300
    for key in ("state_dict", "model"):
        with pytest.raises(CheckpointError, match=rf"under '{key}': give state_dict\['{key}'\]"):
            interop.from_state_dict(block, {"epoch": 3, "config": {"depth": 18}, key: checkpoint})


@pytest.mark.parametrize(("network", "library"), [("resnet18", "vit_b_16"), ("vit_b_16", "resnet18")])
def test_another_network_s_checkpoint_is_one_short_error(network: str, library: str) -> None:
    given = torchvision.models.get_model(library).state_dict()
    with pytest.raises(CheckpointError, match=r"none of the network's \d+ tensors.*another network's") as caught:
        interop.from_state_dict(nets.create(network), given)
    assert len(str(caught.value)) < 400
    assert set(caught.value.unexpected) == set(given)
    assert len(caught.value.missing) > 50


def test_a_deeper_network_s_checkpoint_counts_what_it_does_not_show() -> None:
    given = torchvision.models.resnet34().state_dict()
    with pytest.raises(CheckpointError, match=r"unexpected 'layer1\.2\.conv1\.weight'.*… and \d+ more") as caught:
        interop.from_state_dict(nets.create("resnet18"), given)
    assert len(str(caught.value)) < 1000
    assert len(caught.value.unexpected) == len(given) - len(torchvision.models.resnet18().state_dict())
    assert not caught.value.missing


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], type[Exception], str]] = {
    "empty": (lambda given: {}, CheckpointError, "empty, expected 122"),
    "a list": (list, ArgumentError, "state_dict is list, expected a mapping"),
    "nothing": (lambda given: None, ArgumentError, "state_dict is NoneType"),
    "a module": (lambda given: torch.nn.Linear(2, 2), ArgumentError, r"module\.state_dict\(\)"),
    "a list as tensor": (lambda given: {**given, "fc.bias": [0.0]}, CheckpointError, "'fc.bias' is list"),
    "arrays": (
        lambda given: {name: leaf.numpy() for name, leaf in given.items()},
        CheckpointError,
        "is ndarray.*… and 117 more",
    ),
    "a number as name": (lambda given: {**given, 3: torch.ones(1)}, CheckpointError, "3 is int"),
    "an integer weight": (
        lambda given: {**given, "fc.bias": torch.zeros(100, dtype=torch.int64)},
        CheckpointError,
        "torch.int64, expected floats",
    ),
    "a complex weight": (
        lambda given: {**given, "fc.bias": torch.zeros(100, dtype=torch.complex64)},
        CheckpointError,
        "torch.complex64, expected floats",
    ),
    "a counter of floats": (
        lambda given: {**given, "bn1.num_batches_tracked": torch.tensor(3.0)},
        CheckpointError,
        "torch.float32, expected integers",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_checkpoint_is_a_typed_error(checkpoint: Any, name: str) -> None:
    spoil, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        interop.from_state_dict(nets.create("resnet18", num_classes=100), spoil(checkpoint))


def test_what_is_no_network_is_refused(checkpoint: Any) -> None:
    module: Any = torchvision.models.resnet18()
    with pytest.raises(ArgumentError, match="block is ResNet"):
        interop.from_state_dict(module, checkpoint)
    with pytest.raises(ArgumentError, match="block is ResNet"):
        interop.to_state_dict(module, {})


@pytest.mark.parametrize(
    "ignore",
    ["fc", "fc.", "fc.*", ("fc",), ["fc.weight", "fc.bias"], {"fc"}, iter(["fc"])],
    ids=["name", "dot", "glob", "tuple", "list", "set", "iterator"],
)
def test_what_is_ignored_can_be_said_in_many_ways(checkpoint: Any, ignore: Any) -> None:
    params, _ = interop.from_state_dict(nets.create("resnet18", num_classes=3), checkpoint, ignore=ignore)
    assert params["fc"]["weight"].shape == (3, 512)
    assert params["conv1"]["weight"] is checkpoint["conv1.weight"]


@pytest.mark.parametrize("ignore", ["", "f", "fc.*.x", 3, [3], None], ids=str)
def test_what_cannot_be_ignored_is_refused(checkpoint: Any, ignore: Any) -> None:
    with pytest.raises(ArgumentError, match="ignore="):
        interop.from_state_dict(nets.create("resnet18", num_classes=100), checkpoint, ignore=ignore)


def test_what_is_ignored_need_be_no_tensor(checkpoint: Any) -> None:
    block = nets.create("resnet18", num_classes=100)
    params, _ = interop.from_state_dict(block, {**checkpoint, "epoch": 3}, ignore="epoch")
    assert params["fc"]["bias"] is checkpoint["fc.bias"]


def test_tensors_without_values_give_trees_without_values(checkpoint: Any) -> None:
    block = nets.create("resnet18", num_classes=3)
    given = {name: leaf.to("meta") for name, leaf in checkpoint.items()}
    trees = interop.from_state_dict(block, given, ignore="fc")
    assert all(leaf.is_meta for leaf in tree.leaves(trees))
    tied = nets.create("gpt2", vocab_size=7, positions=5, features=8, depth=1, heads=2)
    params, state = tied.init(torch.Generator(), device="meta")
    again, _ = interop.from_state_dict(tied, interop.to_state_dict(tied, params, state))
    assert tree.names(again) == tree.names(params)


def test_names_stand_in_messages_as_in_the_checkpoint() -> None:
    block = nets.create("gpt2", vocab_size=7, positions=5, features=8, depth=1, heads=2)
    given = interop.to_state_dict(block, *block.init(torch.Generator().manual_seed(0)))
    del given["transformer.ln_f.bias"]
    with pytest.raises(CheckpointError, match=r"missing 'transformer\.ln_f\.bias'"):
        interop.from_state_dict(block, given)
    params, _ = interop.from_state_dict(block, given, ignore="transformer.ln_f.bias")
    assert params["body"]["norm"]["bias"].shape == (8,)
    bare = {name.removeprefix("transformer."): leaf for name, leaf in given.items()}
    with pytest.raises(CheckpointError, match=r"missing 'ln_f\.bias'"):
        interop.from_state_dict(block, bare)
