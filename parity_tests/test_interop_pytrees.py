"""Named arguments, dicts, dataclasses and caches as inputs and results of modules, in transforms and files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.func import grad, jvp, vmap

import export
from pure import interop, tree


@dataclass
class Pair:
    """Two tensors."""

    a: Tensor
    b: Tensor


class Named(NamedTuple):
    """The same."""

    a: Tensor
    b: Tensor


def sampled(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


A, B = sampled(3, 4), sampled(3, 4, seed=1)
INPUTS: dict[str, Any] = {"dict": {"a": A, "b": B}, "list": [A, B], "dataclass": Pair(A, B), "namedtuple": Named(A, B)}
RESULTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "dict": lambda a, b: {"a": a, "b": b},
    "list": lambda a, b: [a, b],
    "dataclass": Pair,
    "namedtuple": Named,
    "ModelOutput": lambda a, b: transformers.modeling_outputs.BaseModelOutput(last_hidden_state=a, hidden_states=(b,)),
}


class Keeps(nn.Module):
    """Takes one kind of container and returns another."""

    def __init__(self, result: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.result = nn.Linear(4, 4), result

    def forward(self, x: Any, scale: Tensor | None = None, *, negative: bool = False) -> Any:
        a, b = (x["a"], x["b"]) if isinstance(x, dict) else x if isinstance(x, list | tuple) else (x.a, x.b)
        y = self.layer(a) if scale is None else self.layer(a) * scale
        return self.result(-y if negative else y, b)


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("given", INPUTS)
def test_containers_pass_through_transforms_and_files(given: str, result: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = Keeps(RESULTS[result]), INPUTS[given]
    block, params, state = interop.from_module(module)
    expected = module(x)
    y = block(params, x, state)
    assert type(y) is type(expected)
    torch.testing.assert_close(tree.leaves(y), [leaf.detach() for leaf in tree.leaves(expected)])
    gradient = grad(lambda p: tree.leaves(block(p, x, state))[0].square().sum())(params)
    tree.leaves(expected)[0].square().sum().backward()
    torch.testing.assert_close(gradient["layer"]["weight"], module.layer.weight.grad)

    single = vmap(lambda x: block(params, x, state))(x)
    assert type(single) is type(expected)
    torch.testing.assert_close(tree.leaves(single), tree.leaves(y))
    tangent = jvp(lambda p: block(p, x, state), (params,), (params,))[1]
    assert type(tangent) is type(expected)

    path, batch = tmp_path / "file.onnx", {0: "batch"}
    export.to_onnx(lambda p, x: block(p, x, state), (params, x), path, dynamic=(None, batch))
    found = export.load(path, device="cpu")(params, x)
    assert type(found) is (dict if result == "ModelOutput" else type(expected))
    torch.testing.assert_close(tree.leaves(found), tree.leaves(y), rtol=1e-5, atol=1e-6)
    assert export.verify(lambda p, x: block(p, x, state), (params, x), path, dynamic=(None, batch)).passed


def test_a_dataclass_is_called_by_its_names_and_refused_by_them(tmp_path: Path) -> None:
    block, params, state = interop.from_module(Keeps(Pair))
    path = tmp_path / "file.onnx"
    dynamic = (None, {"a": {0: "batch"}, "b": {0: "batch"}})
    export.to_onnx(lambda p, x: block(p, x, state), (params, Pair(A, B)), path, dynamic=dynamic)
    loaded = export.load(path, device="cpu")
    assert {leaf.name for leaf in loaded.inputs} >= {"x.a", "x.b"}
    torch.testing.assert_close(loaded(params, {"a": A, "b": B}).a, loaded(params, Pair(A, B)).a)
    with pytest.raises(export.errors.ArgumentError, match=r"x\.b: missing"):
        loaded(params, {"a": A})
    with pytest.raises(export.errors.ArgumentError, match="expected a Pair"):
        loaded(params, 3)


def test_named_arguments_are_extras(tmp_path: Path) -> None:
    module = Keeps(Pair)
    block, params, state = interop.from_module(module)
    extras, x = {"scale": B, "negative": True}, INPUTS["dict"]
    expected = module(x, scale=B, negative=True).a.detach()
    torch.testing.assert_close(block(params, x, state, extras).a, expected)

    def run(params: Any, x: Any, scale: Tensor) -> Any:
        return block(params, x, state, {"scale": scale, "negative": True}).a

    path = tmp_path / "file.onnx"
    export.to_onnx(run, (params, x, B), path)
    torch.testing.assert_close(export.load(path, device="cpu")(params, x, B), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(block(params, (), state, {"x": x, **extras}).a, expected)


def test_boolean_and_integer_inputs(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 4)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return self.table(ids).masked_fill(~mask[..., None], 0.0).sum(1)

    module = Masked()
    block, params, state = interop.from_module(module)
    ids, mask = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[True, True, False], [True, False, False]])

    def gradient(params: Any, ids: Tensor, mask: Tensor) -> Any:
        return grad(lambda p: block(p, (ids, mask), state).square().sum())(params)

    module(ids, mask).square().sum().backward()
    expected = {"table": {"weight": module.table.weight.grad}}
    torch.testing.assert_close(gradient(params, ids, mask), expected)
    each = vmap(lambda ids, mask: gradient(params, ids[None], mask[None]))(ids, mask)
    torch.testing.assert_close(each["table"]["weight"].sum(0), expected["table"]["weight"])
    path, both = tmp_path / "file.onnx", {0: "batch", 1: "length"}
    export.to_onnx(gradient, (params, ids, mask), path, dynamic=(None, both, both))
    torch.testing.assert_close(export.load(path, device="cpu")(params, ids, mask), expected)


def test_integer_inputs_may_be_cached_across_calls_of_a_decoder(tmp_path: Path) -> None:
    """A key-value cache is an input and a result: of a block, of vmap, and of a file that decodes token by token."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.AutoConfig.for_model(
        "llama", **sizes, intermediate_size=32, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    module = transformers.AutoModelForCausalLM.from_config(config).eval()
    block, params, state = interop.from_module(module)
    ids = torch.randint(3, 61, (2, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        full = module(ids).logits

    def start(ids: Tensor) -> Any:
        return block(params, ids, state, {"use_cache": True})

    def step(params: Any, ids: Tensor, cache: Any) -> Any:
        return block(params, ids, state, {"past_key_values": cache})

    close = {"rtol": 1e-4, "atol": 1e-5}
    cache = start(ids[:, :4]).past_key_values
    for _ in range(2):  # the second call finds the cache as it was
        torch.testing.assert_close(step(params, ids[:, 4:], cache).logits, full[:, 4:], **close)
    each = vmap(lambda row: start(row[None]))(ids[:, :4])
    torch.testing.assert_close(each.past_key_values.layers[1].keys[:, 0], cache.layers[1].keys, **close)
    loss = lambda p: step(p, ids[:, 4:], cache).logits.square().mean()  # noqa: E731
    assert float(grad(loss)(params)["lm_head"]["weight"].abs().max()) > 0

    path, past = tmp_path / "step.onnx", {0: "batch", 2: "past"}
    args = params, ids[:, 4:5], cache
    dynamic = None, {0: "batch"}, {"key_cache": [past, past], "value_cache": [past, past]}
    export.to_onnx(step, args, path, dynamic=dynamic)
    loaded = export.load(path, device="cpu")
    for place in (4, 5):
        out = loaded(params, ids[:, place : place + 1], cache)
        cache = out["past_key_values"]
        torch.testing.assert_close(out["logits"], full[:, place : place + 1], **close)
    assert cache.layers[0].keys.shape[2] == 6


def test_an_encoder_s_and_decoder_s_caches_are_one_result() -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 32, "d_kv": 8}
    config = transformers.AutoConfig.for_model("t5", **sizes, decoder_start_token_id=0)
    block, params, state = interop.from_module(transformers.AutoModelForSeq2SeqLM.from_config(config).eval())
    ids = torch.randint(3, 61, (2, 5), generator=torch.Generator().manual_seed(0))

    def run(ids: Tensor, part: Tensor, **extras: Any) -> Any:
        return block(params, ids, state, {"decoder_input_ids": part, "use_cache": True, **extras})

    full, first = run(ids, ids), run(ids, ids[:, :3])
    second = run(ids, ids[:, 3:], past_key_values=first.past_key_values)
    torch.testing.assert_close(second.logits, full.logits[:, 3:], rtol=1e-4, atol=1e-5)
    each = vmap(lambda row: run(row[None], row[None]).past_key_values)(ids)
    assert len(tree.leaves(each)) == len(tree.leaves(full.past_key_values)) == 4
