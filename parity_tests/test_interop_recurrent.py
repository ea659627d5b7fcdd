"""LSTM, GRU and RNN modules under every transform and in files of any length: their own values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, hessian, jacfwd, jvp, vmap

import export
import pure
from export.errors import TracingError
from pure import flow, interop, tree
from pure.errors import UnsupportedError

KINDS: dict[str, Callable[..., nn.Module]] = {
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "RNN": nn.RNN,
    "RNN relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "two layers both ways": {"num_layers": 2, "bidirectional": True},
    "no bias": {"num_layers": 2, "bias": False},
}
CASES = [(kind, option, OPTIONS[option]) for kind in KINDS for option in OPTIONS]
CASES += [("LSTM", "projected", {"proj_size": 2})]
CASES += [("LSTM", "projected both ways", {"proj_size": 2, "bidirectional": True, "bias": False, "num_layers": 2})]
each_case = pytest.mark.parametrize(
    ("kind", "options"), [(k, o) for k, _, o in CASES], ids=[f"{k} {n}" for k, n, _ in CASES]
)
BOTH = (None, {0: "batch", 1: "length"})


def sampled(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def inputs(kind: str, options: dict[str, Any], *, batched: bool, given: bool) -> tuple[Tensor, dict[str, Any]]:
    """An input of 4 steps, and the first states where they are given."""
    leading = ((2, 4) if options.get("batch_first") else (4, 2)) if batched else (4,)
    x = sampled(*leading, 5)
    if not given:
        return x, {}
    count = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    state = (count, 2) if batched else (count,)
    hidden = sampled(*state, options.get("proj_size", 3), seed=1)
    return x, {"hx": (hidden, sampled(*state, 3, seed=2)) if kind == "LSTM" else hidden}


@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("batched", [True, False], ids=["batch", "unbatched"])
@each_case
def test_values_and_derivatives_are_the_module_s(
    kind: str, options: dict[str, Any], batched: bool, given: bool
) -> None:
    torch.manual_seed(0)
    module = KINDS[kind](5, 3, **options).double()
    block, params, state = interop.from_module(module)
    x, extras = inputs(kind, options, batched=batched, given=given)
    expected = module(x, **extras)
    close = {"rtol": 1e-12, "atol": 1e-13}
    torch.testing.assert_close(block(params, x, state, extras), expected, **close)
    each = [tree.tree_map(lambda leaf: 2 * leaf, params), params]
    found = vmap(lambda p: block(p, x, state, extras))(pure.stack(each))
    torch.testing.assert_close(tree.tree_map(lambda leaf: leaf[1], found), expected, **close)

    def loss(params: Any) -> Tensor:
        output, last = block(params, x, state, extras)
        return output.square().sum() + sum(leaf.sin().sum() for leaf in tree.leaves(last))

    output, last = expected
    (output.square().sum() + sum(leaf.sin().sum() for leaf in tree.leaves(last))).backward()
    gradient = {name: leaf.grad for name, leaf in module.named_parameters()}
    torch.testing.assert_close(pure.flatten(grad(loss)(params)), gradient, **close)
    direction = tree.tree_map(torch.cos, params)
    slope = sum((gradient[name] * leaf).sum() for name, leaf in pure.flatten(direction).items())
    torch.testing.assert_close(jvp(loss, (params,), (direction,))[1], slope, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_second_derivatives_agree_with_differences(kind: str) -> None:
    torch.manual_seed(0)
    block, params, state = interop.from_module(KINDS[kind](3, 2).double())
    x = sampled(3, 1, 3)

    def loss(x: Tensor) -> Tensor:
        return block(params, x, state)[0].square().sum()

    found = hessian(loss)(x).reshape(9, 9)
    steps = torch.eye(9, dtype=torch.float64).reshape(9, *x.shape) * 1e-5
    rows = [(grad(loss)(x + step) - grad(loss)(x - step)).reshape(9) / 2e-5 for step in steps]
    torch.testing.assert_close(found, torch.stack(rows), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(jacfwd(grad(loss))(x).reshape(9, 9), found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_per_sample_norms_are_those_of_each_sample_s_gradient(kind: str) -> None:
    torch.manual_seed(0)
    block, params, state = interop.from_module(KINDS[kind](5, 3, batch_first=True).double())
    x = sampled(4, 6, 5)

    def one(params: Any, x: Tensor) -> Tensor:
        return block(params, x[None], state)[0].square().sum()

    found = flow.per_sample_norms(one, params, x)
    gradients = [pure.flatten(pure.grad(one)(params, sample)) for sample in x]
    expected = torch.stack([sum(leaf.square().sum() for leaf in each.values()).sqrt() for each in gradients])
    torch.testing.assert_close(found.total, expected, rtol=1e-10, atol=0)


def transformed(run: Callable[..., Tensor]) -> dict[str, Callable[..., Any]]:
    def one(params: Any, x: Tensor) -> Tensor:
        return run(params, x[None])

    def doubled(params: Any) -> Any:
        return tree.tree_map(lambda leaf: torch.stack([leaf, 2 * leaf]), params)

    return {
        "gradient": grad(run),
        "per-sample gradients": lambda params, x: vmap(grad(one), (None, 0))(params, x),
        "ensemble": lambda params, x: vmap(run, (0, None))(doubled(params), x),
        "tangent": lambda params, x: jvp(run, (params, x), (params, x))[1],
        "Hessian-vector product": lambda params, x: jvp(grad(run), (params, x), (params, x))[1],
    }


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=["plain", "both ways"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_file_takes_any_length_and_batch(kind: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    block, params, state = interop.from_module(KINDS[kind](5, 3, batch_first=True, **options))
    x = sampled(2, 4, 5, dtype=torch.float32)
    verdict = export.verify(lambda params, x: block(params, x, state), (params, x), dynamic=BOTH)
    assert verdict.passed, verdict.table()


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", transformed(lambda params, x: x.sum()))
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_transformed_file_has_eager_s_values(kind: str, name: str, dynamic: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    block, params, state = interop.from_module(KINDS[kind](5, 3, batch_first=True))
    fn = transformed(lambda params, x: block(params, x, state)[0].square().sum())[name]
    path = tmp_path / "file.onnx"
    export.to_onnx(fn, (params, sampled(2, 4, 5, dtype=torch.float32)), path, dynamic=BOTH if dynamic else None)
    loaded = export.load(path, device="cpu")
    shapes = [(2, 4, 5), (3, 9, 5), (1, 1, 5)] if dynamic else [(2, 4, 5)]
    for shape in shapes:
        x = sampled(*shape, seed=3, dtype=torch.float32)
        wide = tree.tree_map(lambda leaf: leaf.double(), (params, x))
        found = tree.tree_map(lambda leaf: leaf.double(), loaded(params, x))
        torch.testing.assert_close(found, fn(*wide), rtol=1e-4, atol=1e-5)


def test_dropout_between_layers_composes_with_transforms(tmp_path: Path) -> None:
    torch.manual_seed(0)
    block, params, state = interop.from_module(nn.LSTM(5, 3, 2, dropout=0.5, batch_first=True).train())
    x = sampled(4, 6, 5, dtype=torch.float32)
    noise = block.noise(tuple(x.shape), torch.Generator().manual_seed(0))

    def run(params: Any, x: Tensor, noise: Any) -> Tensor:
        return block.apply(params, x, state, {}, True, noise)[0][0]

    found = vmap(run, (0, None, None))(pure.stack([params, params]), x, noise)
    torch.testing.assert_close(found[1], run(params, x, noise), rtol=1e-5, atol=1e-6)
    batch = {0: "batch", 1: "length"}
    path = tmp_path / "lstm.onnx"
    export.to_onnx(run, (params, x, noise), path, dynamic=(None, batch, {"seed": {0: "batch"}}))
    longer = sampled(3, 8, 5, dtype=torch.float32)
    other = block.noise(tuple(longer.shape), torch.Generator().manual_seed(1))
    expected = run(params, longer, other)
    torch.testing.assert_close(export.load(path, device="cpu")(params, longer, other), expected, rtol=1e-4, atol=1e-5)


class Packing(nn.Module):
    """Packs its padded input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(5, 3, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return self.layer(packed)[1][0]


def test_packed_sequences_run_eagerly_and_are_refused_by_transforms_with_a_way_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Packing()
    block, params, state = interop.from_module(module)
    x, lengths = sampled(2, 6, 5, dtype=torch.float32), torch.tensor([6, 3])
    expected = module(x, lengths).detach()
    torch.testing.assert_close(block(params, (x, lengths), state), expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(UnsupportedError, match=r"packed.*padded"):
        grad(lambda p: block(p, (x, lengths), state).sum())(params)
    with pytest.raises(TracingError, match=r"packed.*padded"):
        export.to_onnx(lambda p, x, n: block(p, (x, n), state), (params, x, lengths), tmp_path / "packed.onnx")
    plain, own, _ = interop.from_module(module.layer)  # the way out
    outputs = plain(own, x)[0]
    torch.testing.assert_close(outputs[torch.arange(2), lengths - 1], expected, rtol=1e-6, atol=1e-6)


def test_a_packed_input_runs_eagerly_and_is_refused_by_transforms() -> None:
    torch.manual_seed(0)
    module = nn.GRU(5, 3)
    block, params, state = interop.from_module(module)
    packed = nn.utils.rnn.pack_padded_sequence(sampled(6, 2, 5, dtype=torch.float32), torch.tensor([6, 3]))
    torch.testing.assert_close(block(params, packed, state)[1], module(packed)[1].detach(), rtol=1e-6, atol=1e-6)
    with pytest.raises(UnsupportedError, match=r"packed.*padded"):
        vmap(lambda p: block(p, packed, state)[1])(pure.stack([params, params]))
