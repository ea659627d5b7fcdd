"""Models of transformers as blocks: attention masks, labels and caches through transforms, files and verdicts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import export
import pure
from pure import interop, tree

SMALL = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "bert": {**SMALL, "intermediate_size": 32},
    "llama": {**SMALL, "intermediate_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "t5": {"vocab_size": 61, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 32, "d_kv": 8},
}
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
BOTH = {0: "batch", 1: "length"}


def made(name: str, auto: str = "AutoModel", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **MODELS[name], **options)
    return getattr(transformers, auto).from_config(config).eval()


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(3, 61, shape, generator=torch.Generator().manual_seed(seed))


def arguments(name: str, ids: Tensor, mask: Tensor) -> dict[str, Any]:
    further = {"decoder_input_ids": ids} if name == "t5" else {}
    return (
        {"attention_mask": mask, **further}
        if name == "bert"
        else {"attention_mask": mask, "use_cache": False, **further}
    )


def loss_of(block: Any, state: Any, name: str) -> Callable[..., Tensor]:
    def loss(params: Any, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = block(params, ids, state, arguments(name, ids, mask)).last_hidden_state
        return (hidden.tanh() * mask[..., None]).sum() / mask.sum()

    return loss


def assert_near(found: Any, expected: Any, share: float) -> None:
    """Compare trees; a leaf whose exact value is 0, such as the gradient of a key's bias, has no scale of its own."""
    found, expected = (each if "." in next(iter(each)) else pure.flatten(each) for each in (found, expected))
    assert found.keys() == expected.keys()
    largest = max(float(leaf.abs().max()) for leaf in expected.values())
    for key, leaf in expected.items():
        assert float((found[key] - leaf).abs().max()) < share * largest, key


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_with_an_attention_mask_is_a_file_for_any_batch_and_length(name: str, tmp_path: Path) -> None:
    module = made(name)
    block, params, state = interop.from_module(module)
    gradient = grad(loss_of(block, state, name))
    args = params, tokens(2, 5), MASK
    names = dict(module.named_parameters())
    value = module(args[1], **arguments(name, *args[1:])).last_hidden_state
    ((value.tanh() * MASK[..., None]).sum() / MASK.sum()).backward()
    expected = {key: leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for key, leaf in names.items()}
    assert_near(gradient(*args), tree.unflatten(expected), 1e-5)
    path = tmp_path / "gradient.onnx"
    export.to_onnx(gradient, args, path, dynamic=(None, BOTH, BOTH))
    loaded = export.load(path, device="cpu")
    longer = torch.ones(3, 8, dtype=torch.long)
    longer[1, 4:] = 0
    for ids, mask in ((args[1], MASK), (tokens(3, 8), longer)):
        assert_near(loaded(params, ids, mask), gradient(params, ids, mask), 1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_per_sample_gradients_with_masks_are_those_of_each_sample(name: str) -> None:
    block, params, state = interop.from_module(made(name))
    loss = loss_of(block, state, name)
    ids = tokens(2, 5)
    one = grad(lambda params, ids, mask: loss(params, ids[None], mask[None]))
    found = vmap(one, (None, 0, 0))(params, ids, MASK)
    for index in range(2):
        expected = one(params, ids[index], MASK[index])
        assert_near(tree.tree_map(lambda leaf, index=index: leaf[index], found), expected, 1e-5)


def test_masks_in_a_plain_function_are_recorded_below_grad(tmp_path: Path) -> None:
    module = made("bert")
    params = {name: leaf.detach() for name, leaf in module.named_parameters()}

    def loss(params: Any, ids: Tensor, mask: Tensor) -> Tensor:
        given = {"input_ids": ids, "attention_mask": mask}
        return functional_call(module, {**params, **dict(module.named_buffers())}, (), given).pooler_output.sum()

    args = params, tokens(2, 5), MASK
    path = tmp_path / "gradient.onnx"
    export.to_onnx(grad(loss), args, path)
    assert not torch.compiler.is_exporting(), "the state in which libraries choose code for graphs has ended"
    assert_near(export.load(path, device="cpu")(*args), grad(loss)(*args), 1e-5)


def test_a_failed_recording_leaves_exporting(tmp_path: Path) -> None:
    with pytest.raises(export.errors.TracingError):
        export.to_onnx(lambda x: x if x.sum() > 0 else -x, (torch.ones(3),), tmp_path / "failed.onnx")
    assert not torch.compiler.is_exporting()
