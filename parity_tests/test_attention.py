"""Attention, rotary positions, embeddings and tied heads: what the rows of the catalogue do not show."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import grad

import export
from pure import tree
from pure.block import Block
from pure.compose import Sequential
from pure.compose.tied import TiedHead
from pure.errors import ArgumentError, DtypeError, NoiseError, RankError, ShapeError
from pure.layers import LayerNorm, Linear
from pure.layers.attention import Attention
from pure.layers.embedding import Embedding, LearnedPositions
from pure.layers.rotary import Rotary
from pure.layers.tokens import FirstToken
from pure.nets.transformers.llama import llama
from pure.nets.transformers.parts import feed_forward
from pure.skips import Residual
from pure.skips.scaled.norm_placement import pre_norm
from pure.skips.streams.value_residual import ValueResidual

X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def drawn(block: Block, dtype: torch.dtype = torch.float64) -> Any:
    return block.init(torch.Generator().manual_seed(0), dtype)[0]


def test_a_causal_token_does_not_see_later_ones() -> None:
    block = Attention(8, 2, causal=True, rotary=Rotary())
    params = drawn(block)
    short = block(params, X[:, :3])
    torch.testing.assert_close(block(params, X)[:, :3], short)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_a_masked_token_does_not_count(dtype: torch.dtype) -> None:
    block = Attention(8, 2)
    params = drawn(block)
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 3).to(dtype)
    masked = block(params, X, {}, {"mask": mask})
    torch.testing.assert_close(masked[:, :3], block(params, X[:, :3]))


def test_a_token_that_may_attend_to_none_takes_the_mean_and_gives_no_nan() -> None:
    block = Attention(8, 2)
    params = drawn(block)
    nothing = {"mask": torch.zeros(3, 5)}
    values = torch.nn.functional.linear(X, params["v"]["weight"], params["v"]["bias"]).mean(1, keepdim=True)
    expected = torch.nn.functional.linear(values, params["out"]["weight"], params["out"]["bias"]).expand_as(X)
    torch.testing.assert_close(block(params, X, {}, nothing), expected)
    gradient = grad(lambda x: block(params, x, {}, nothing).sum())(X)
    assert bool(torch.isfinite(gradient).all())


def test_fused_and_separate_projections_are_the_same() -> None:
    apart, fused = (Attention(8, 4, kv_heads=2, fused=fused, causal=True) for fused in (False, True))
    params = drawn(apart)
    joined = {name: torch.cat([params[part][name] for part in ("q", "k", "v")]) for name in ("weight", "bias")}
    torch.testing.assert_close(fused({"qkv": joined, "out": params["out"]}, X), apart(params, X))


def test_the_softmax_of_a_narrow_dtype_runs_in_float32() -> None:
    block = Attention(64, 1)
    params = tree.tree_map(torch.zeros_like, drawn(block))
    params["v"]["weight"] = params["out"]["weight"] = torch.eye(64, dtype=torch.float64)
    x = torch.ones(1, 3000, 64, dtype=torch.float64)  # a float16 sum of 3000 weights of 1/3000 would be far from 1
    for dtype in (torch.float16, torch.bfloat16):
        y = block(tree.cast(params, dtype), x.to(dtype))
        assert float((y.double() - 1).abs().max()) < 2 * torch.finfo(dtype).eps


def test_large_float16_queries_do_not_overflow_where_the_scaled_scores_fit() -> None:
    block = Attention(64, 1, bias=False)
    params = {name: {"weight": torch.eye(64, dtype=torch.float16)} for name in ("q", "k", "v", "out")}
    y = block(params, torch.full((1, 2, 64), 40.0, dtype=torch.float16))
    torch.testing.assert_close(y, torch.full_like(y, 40.0))


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    for rotary in (Rotary(), Rotary(interleaved=True), Rotary(4), Rotary(4, 100.0, interleaved=True)):
        q, k = X[:1, :1].expand(1, 5, 8), X[1:2, :1].expand(1, 5, 8)
        scores = rotary(q) @ rotary(k).transpose(1, 2)
        for offset in range(-3, 4):
            diagonal = scores[0].diagonal(offset)
            torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))


def test_dropout_of_probabilities_follows_its_noise() -> None:
    block = Attention(8, 2, dropout=0.5)
    noise = block.noise((3, 5, 8), torch.Generator().manual_seed(0))
    assert noise["dropout"]["mask"].shape == (3, 2, 5, 5)
    with pytest.raises(NoiseError, match="mask"):
        block.apply(drawn(block), X, {}, {}, True, block.noise((3, 4, 8), torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "3 heads do not divide 8"),
        ({"heads": 4, "kv_heads": 3}, "kv_heads=3"),
        ({"heads": 4, "kv_heads": 0}, "kv_heads=0"),
        ({"heads": 0}, "0 heads"),
        ({"heads": 2, "head_features": 0}, "head_features=0"),
        ({"heads": 2, "softcap": -1.0}, "softcap"),
        ({"heads": 2, "q_norm": "rms"}, "q_norm"),
        ({"heads": 2, "dropout": 1.0}, "rate"),
    ],
)
def test_impossible_attention_is_refused(options: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Attention(8, **options)


def test_inputs_that_do_not_fit_are_refused() -> None:
    block = Attention(8, 2)
    params = drawn(block)
    with pytest.raises(RankError, match="unsqueeze"):
        block(params, X[0])
    with pytest.raises(ShapeError, match="8"):
        block(params, X[..., :6])
    with pytest.raises(ShapeError, match="one value a token"):
        block(params, X, {}, {"mask": torch.ones(3, 4)})
    with pytest.raises(ShapeError):
        block.out_shape((3, 5, 6))
    with pytest.raises(ShapeError, match="even"):
        Attention(6, 2, rotary=Rotary())(drawn(Attention(6, 2)), X[..., :6])
    with pytest.raises(RankError):
        FirstToken()({}, X[0])


def test_embedding_inputs_that_do_not_fit_are_refused() -> None:
    block = Embedding(7, 4)
    params = drawn(block)
    with pytest.raises(DtypeError, match="int64"):
        block(params, torch.ones(2, 3))
    with pytest.raises(RankError, match="unsqueeze"):
        block(params, torch.tensor([1, 2]))
    with pytest.raises(ArgumentError, match="outside 0 to 6"):
        block(params, torch.tensor([[7]]))
    positions = LearnedPositions(4, 8)
    with pytest.raises(ShapeError, match="at most 4 tokens"):
        positions(drawn(positions), X)
    with pytest.raises(RankError, match="tokens"):
        positions(drawn(positions), X[0])


def test_impossible_tables_are_refused() -> None:
    for make in (lambda: Embedding(0, 4), lambda: Embedding(4, 4, padding=4), lambda: LearnedPositions(4, 0)):
        with pytest.raises(ArgumentError):
            make()
    for features in (3, 0, -2):
        with pytest.raises(ArgumentError, match="even"):
            Rotary(features)
    with pytest.raises(ArgumentError, match="base"):
        Rotary(base=0.0)
    with pytest.raises(ArgumentError, match="embedding"):
        TiedHead(Sequential(fc=Linear(4, 4)))
    with pytest.raises(ArgumentError, match="Attention"):
        ValueResidual(Linear(8, 8), LayerNorm(8))


def test_the_gradient_of_a_tied_weight_is_the_sum_over_both_uses() -> None:
    body = Sequential(embedding=Embedding(7, 8), fc=Linear(8, 8))
    x = torch.tensor([[1, 2, 3]])
    params = drawn(TiedHead(body))

    def loss(inside: torch.Tensor, outside: torch.Tensor) -> torch.Tensor:
        rest = {**params["body"], "embedding": {"weight": inside}}
        return (body(rest, x) @ outside.t()).square().sum()

    weight = params["body"]["embedding"]["weight"]
    apart = sum(grad(loss, argnums=(0, 1))(weight, weight))
    together = grad(lambda p: TiedHead(body)(p, x).square().sum())(params)
    torch.testing.assert_close(together["body"]["embedding"]["weight"], apart)


def test_value_residual_of_one_layer_or_without_mixing_is_the_plain_stack() -> None:
    attention, norm = Attention(8, 2, causal=True, dropout=0.25), LayerNorm(8)
    mlp = pre_norm(feed_forward(8, 16), norm, dropout=0.25)
    stack = ValueResidual(attention, norm, depth=2, mlp=mlp, mix=0.0)
    params = drawn(stack)
    noise = stack.noise((3, 5, 8), torch.Generator().manual_seed(0), dtype=torch.float64)
    assert [leaf.shape[0] for leaf in tree.leaves(noise)] == [3] * 4
    y, _ = stack.apply(params, X, {}, {}, True, noise)
    plain = Residual(Sequential(norm=norm, attention=attention))
    x = X
    for name in ("0", "1"):
        branch = {key: params[name][key] for key in ("norm", "attention")}
        x, _ = plain.apply({"branch": branch}, x, {}, {}, True, {"branch": {"attention": noise[name]["attention"]}})
        x, _ = mlp.apply(params[name]["mlp"], x, {}, {}, True, noise[name]["mlp"])
    torch.testing.assert_close(y, x)
    half = ValueResidual(attention, norm, depth=2, mlp=mlp)
    assert not torch.allclose(half(params, X), stack(params, X))


def test_a_language_model_exports_with_dynamic_batch_and_length(tmp_path: Path) -> None:
    block = llama(vocab_size=11, features=8, depth=2, heads=4, kv_heads=2, hidden=12)
    params = drawn(block, torch.float32)
    mask = torch.ones(2, 5)
    mask[1, 3:] = 0
    args = (params, torch.randint(11, (2, 5)), {}, {"attention_mask": mask})
    dynamic = (None, {0: "batch", 1: "tokens"}, None, {"attention_mask": {0: "batch", 1: "tokens"}})
    export.to_onnx(block, args, tmp_path / "llama.onnx", dynamic=dynamic)
    verdict = export.verify(block, args, tmp_path / "llama.onnx", dynamic=dynamic)
    assert verdict.passed, verdict.table()
    f = export.load(tmp_path / "llama.onnx")
    longer = (params, torch.randint(11, (3, 9)), {}, {"attention_mask": torch.ones(3, 9)})
    torch.testing.assert_close(f(*longer), block(*longer))
