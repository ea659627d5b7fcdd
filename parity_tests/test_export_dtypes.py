"""In each dtype and opset a function is right by the float64 verdict, or a typed error names operator and dtype."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad

import export
import pure
from export import errors
from export.graph.onnx_export import DEFAULT_OPSET, OPSETS
from pure import nets
from pure.tree import tree_map

Call = tuple[Any, tuple[Any, ...]]


def drawn(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def mlp(params: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x @ params["in"] + params["bias"]) @ params["out"]


def loss(params: Any, x: torch.Tensor) -> torch.Tensor:
    return mlp(params, x).square().mean()


def gelu(params: Any, x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x @ params["in"])


def convolution(params: Any, x: torch.Tensor) -> torch.Tensor:
    h = F.conv2d(x, params["weight"], padding=1)
    return F.relu(F.group_norm(h, 2, params["scale"], params["bias"])).mean((2, 3))


def attention(params: Any, x: torch.Tensor) -> torch.Tensor:
    q, k, v = ((x @ params[name]).unflatten(-1, (2, 4)).transpose(1, 2) for name in "qkv")
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


def batch_norm(params: Any, x: torch.Tensor) -> Any:
    h = x @ params["in"]
    variance, mean = torch.var_mean(h, 0, correction=1)
    y = F.batch_norm(h, None, None, params["bias"], None, True)
    return y, {"mean": mean, "variance": variance}


MLP = {"in": drawn(4, 8, seed=0, scale=0.3), "bias": drawn(8, seed=1, scale=0.1), "out": drawn(8, 2, seed=2, scale=0.3)}
CONV = {"weight": drawn(4, 3, 3, 3, seed=3, scale=0.2), "scale": 1 + drawn(4, seed=4) / 9, "bias": drawn(4, seed=5)}
ATTENTION = {name: drawn(8, 8, seed=6 + i, scale=0.3) for i, name in enumerate("qkv")}
CALLS: dict[str, Call] = {
    "mlp": (mlp, (MLP, drawn(5, 4, seed=9))),
    "gradient of mlp": (grad(loss), (MLP, drawn(5, 4, seed=9))),
    "mlp with gelu": (gelu, (MLP, drawn(5, 4, seed=9))),
    "convolution and group norm": (convolution, (CONV, drawn(2, 3, 6, 6, seed=10))),
    "attention": (attention, (ATTENTION, drawn(2, 5, 8, seed=11))),
    "batch norm in training": (batch_norm, (MLP, drawn(6, 4, seed=12))),
}
LACKING = {
    ("mlp", torch.bfloat16): "MatMul or Tanh",
    ("gradient of mlp", torch.bfloat16): "MatMul or Tanh",
    ("mlp with gelu", torch.bfloat16): "MatMul or Mul",
    ("mlp with gelu", torch.float64): "Erf",
    ("convolution and group norm", torch.bfloat16): "Conv",
    ("convolution and group norm", torch.float64): "Conv",
    ("attention", torch.bfloat16): "MatMul or Where",  # Where below opset 16, in the standard itself
    ("batch norm in training", torch.bfloat16): "MatMul",
}
"""What ONNX Runtime's CPU provider has no kernel for; where it lacks several, it names one of them."""


def cast(args: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    return tuple(tree_map(lambda leaf: leaf.to(dtype), arg) for arg in args)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", CALLS)
def test_it_is_right_or_the_missing_operator_is_named(
    name: str, dtype: torch.dtype, opset: int, tmp_path: Path
) -> None:
    fn, args = CALLS[name]
    given = cast(args, dtype)
    path = tmp_path / "f.onnx"
    if (name, dtype) in LACKING:
        with pytest.raises(errors.UnsupportedOpError, match=r"pure\.cast\(tree, torch\.float32\)") as caught:
            export.to_onnx(fn, given, path, opset=opset).load(device="cpu")
        assert caught.value.op in LACKING[name, dtype].split(" or ")
        assert caught.value.dtype == str(dtype).removeprefix("torch.")
        assert "test_export_dtypes.py" in caught.value.source
        return
    assert export.to_onnx(fn, given, path, opset=opset).opset == opset
    verdict = export.verify(fn, given, path, device="cpu")
    assert verdict.passed, verdict.table()


def test_an_opset_without_the_dtype_says_which_one_has_it(tmp_path: Path) -> None:
    fn, args = CALLS["convolution and group norm"]
    with pytest.raises(errors.UnsupportedOpError, match=r"opset 21 has no Conv for bfloat16.*opset=22") as caught:
        export.to_onnx(fn, cast(args, torch.bfloat16), tmp_path / "f.onnx", opset=21)
    assert (caught.value.op, caught.value.dtype) == ("Conv", "bfloat16")
    assert "test_export_dtypes.py" in caught.value.source
    assert not list(tmp_path.iterdir())
    export.to_onnx(fn, cast(args, torch.bfloat16), tmp_path / "f.onnx", opset=22)


@pytest.mark.parametrize("way", ["forward", "gradient"])
def test_mixed_precision_keeps_its_parameters_in_float32(way: str, tmp_path: Path) -> None:
    inner = nets.create("residual_mlp", features=6, hidden_features=12, depth=2)
    block = pure.MixedPrecision(inner, torch.float16)
    params, _ = block.init(torch.Generator().manual_seed(0))
    x = drawn(3, 6, seed=13)

    def mean(params: Any, x: torch.Tensor) -> torch.Tensor:
        return block(params, x).square().mean()

    fn = grad(mean) if way == "gradient" else block
    for given in (x, x.half()):
        exported = export.to_onnx(fn, (params, given), tmp_path / "f.onnx")
        f = exported.load(device="cpu")
        assert {leaf.dtype for leaf in f.inputs if leaf.name != "x"} == {"float32"}
        assert {leaf.dtype for leaf in f.outputs} == {"float32" if way == "gradient" else str(given.dtype)[6:]}
        verdict = export.verify(fn, (params, given), exported.path, device="cpu")
        assert verdict.passed, verdict.table()


def test_bfloat16_parameters_may_be_stored_and_computed_with_in_float32(tmp_path: Path) -> None:
    """The way out for a bfloat16 checkpoint: half the bytes in the file, every operator in float32."""
    params = cast((MLP,), torch.bfloat16)[0]

    def fn(params: Any, x: torch.Tensor) -> torch.Tensor:
        return mlp(pure.cast(params, torch.float32), x)

    x = drawn(5, 4, seed=9)
    exported = export.to_onnx(fn, (params, x), tmp_path / "f.onnx", bake=(0,))
    verdict = export.verify(fn, (params, x), exported.path, bake=(0,), device="cpu")
    assert verdict.passed, verdict.table()
    found = export.weights(exported.path, "torch")["params"]
    assert all(leaf.dtype == torch.bfloat16 and torch.equal(leaf, params[name]) for name, leaf in found.items())
    assert exported.opset == DEFAULT_OPSET
