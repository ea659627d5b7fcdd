"""What goes to another process arrives as it was; where it holds what pickle cannot take, the error says what."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import export
import pure
from pure import errors, optim

X = torch.tensor([1.0, 2.0, 3.0])


def cubed(x: Tensor) -> Tensor:
    return (x**3).sum()


def of_two(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return (x * y).sum(), y


def tripled(x: Tensor) -> Tensor:
    return x * 3


def scaled(params: dict[str, Tensor], x: Tensor) -> Tensor:
    return x * params["w"]


def ones(generator: torch.Generator) -> dict[str, Tensor]:
    return {"w": torch.ones(3)}


def again(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def test_functions_as_blocks() -> None:
    for block in (pure.Function(tripled), pure.Sequential(pure.Linear(3, 3), pure.Residual(pure.Function(tripled)))):
        assert again(block) == block
    assert torch.equal(again(pure.Function(scaled, ones))({"w": X}, X), X * X)


def test_gradients() -> None:
    assert torch.equal(again(pure.grad(cubed))(X), 3 * X**2)
    value, gradient = again(pure.value_and_grad(cubed))(X)
    assert (float(value), gradient.tolist()) == (36.0, [3.0, 12.0, 27.0])
    (gradient, aux) = again(pure.grad(of_two, 1, has_aux=True))(X, 2 * X)
    assert (gradient.tolist(), aux.tolist()) == (X.tolist(), [2.0, 4.0, 6.0])
    assert torch.equal(again(pure.grad(pure.grad(cubed)))(torch.tensor(2.0)), torch.tensor(12.0))


def test_a_compiled_function_is_compiled_again() -> None:
    fast = export.jit(pure.grad(cubed), device="cpu", cache_size=3)
    fast(X)
    found = again(fast)
    assert found.compilations() == []
    assert torch.equal(found(X), fast(X))
    baked = again(export.jit(torch.mul, bake=(0,), device="cpu"))
    assert torch.equal(baked(X, X), X * X)


def test_a_loaded_file_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export.to_onnx(lambda p, x: p["w"] * x, ({"w": X}, X), tmp_path / "f.onnx")
    monkeypatch.chdir(tmp_path)
    f = export.load("f.onnx", device="cpu")
    sent, bound = pickle.dumps(f), pickle.dumps(f.bind({"w": X}))
    monkeypatch.chdir("/")
    assert torch.equal(pickle.loads(sent)({"w": X}, X), X * X)
    assert torch.equal(pickle.loads(bound)(X), X * X)
    assert torch.equal(again(pickle.loads(bound))(X), X * X)
    (tmp_path / "f.onnx").unlink()
    with pytest.raises(export.errors.LoadError):
        pickle.loads(sent)


def test_a_file_with_other_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    export.to_onnx(lambda p, x: p["w"] * x, ({"w": X}, X), path, bake=(0,))
    with pytest.raises(errors.ArgumentError, match=r"weights=.*replace_weights"):
        pickle.dumps(export.load(path, weights={"p": {"w": X}}))


SCHEDULES = {
    "constant": optim.constant_schedule(0.1),
    "cosine": optim.cosine_decay_schedule(0.1, 10),
    "warm-up": optim.warmup_cosine_decay_schedule(0.0, 0.1, 2, 10),
    "joined": optim.join_schedules([optim.constant_schedule(0.1), optim.linear_schedule(0.1, 0.0, 4)], [3]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name: str) -> None:
    schedule = SCHEDULES[name]
    found = again(schedule)
    assert [float(found(torch.tensor(step))) for step in range(9)] == [
        float(schedule(torch.tensor(step))) for step in range(9)
    ]
    assert repr(found) == repr(schedule)
    assert copy.deepcopy(schedule) is schedule


TRANSFORMATIONS: dict[str, Callable[[], optim.GradientTransformation]] = {
    "sgd": lambda: optim.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.1, mask="head.*"),
    "adam": lambda: optim.adam(SCHEDULES["warm-up"]),
    "adamw": lambda: optim.adamw(torch.tensor(0.1)),
    "lamb": lambda: optim.lamb(0.1),
    "lion": lambda: optim.lion(0.1),
    "muon": lambda: optim.multi_transform({"m": optim.muon(0.1), "a": optim.adam(0.1)}, {"stem.*": "m", "*": "a"}),
    "chain": lambda: optim.chain(optim.clip(0.1), optim.clip_by_global_norm(0.5), optim.ema(0.9), optim.scale(-0.1)),
    "masked": lambda: optim.masked(optim.apply_if_finite(optim.sgd(0.1), 2), "stem.*"),
    "a pair of functions": lambda: optim.GradientTransformation(dict, unchanged),
    "stateless": lambda: optim.transformation.stateless(first),
}


def unchanged(updates: Any, state: Any, params: Any) -> Any:
    return updates, state


def first(updates: Any, params: Any) -> Any:
    return updates


def stepped(optimizer: optim.GradientTransformation) -> Any:
    params = {"stem": {"w": torch.eye(3)}, "head": {"w": torch.ones(3)}}
    state = optimizer.init(params)
    for _ in range(3):
        params, state = optimizer.step(pure.tree.tree_map(torch.sin, params), state, params)
    return pure.flatten(params)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_optimisers(name: str) -> None:
    optimizer = TRANSFORMATIONS[name]()
    expected, found = stepped(optimizer), stepped(again(again(optimizer)))
    assert all(torch.equal(found[leaf], expected[leaf]) for leaf in expected)
    assert copy.deepcopy(optimizer) is optimizer


HERE: Callable[[Any], Any] = lambda x: x  # noqa: E731
UNPICKLABLE: dict[str, Callable[[], Any]] = {
    "Function holds <lambda> (fn)": lambda: pure.Function(HERE),
    "Activation holds": lambda: pure.Sequential(pure.Activation(HERE)),
    "pure.grad holds <lambda> (function)": lambda: pure.grad(HERE),
    "pure.value_and_grad holds": lambda: pure.value_and_grad(HERE),
    "jit holds": lambda: export.jit(HERE, device="cpu"),
    "optim.scale_by_schedule holds": lambda: optim.scale_by_schedule(HERE),
    "optim.masked holds": lambda: optim.masked(optim.scale(1.0), mask=lambda name, leaf: True),
    "optim.stateless holds": lambda: optim.chain(
        optim.clip(1.0), optim.transformation.stateless(lambda updates, params: updates)
    ),
    "GradientTransformation holds <lambda> (init)": lambda: optim.GradientTransformation(HERE, optim.apply_updates),
}


@pytest.mark.parametrize("said", UNPICKLABLE)
def test_what_does_not_pickle_says_so(said: str) -> None:
    made = UNPICKLABLE[said]()
    with pytest.raises(errors.ArgumentError) as caught:
        pickle.dumps(made)
    text = str(caught.value)
    assert "which pickle cannot take along" in text
    assert "top level of a module" in text
    assert said in text
    copy.copy(made)
    copy.deepcopy(made)


def test_a_pickler_that_takes_functions_along_is_not_stopped() -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    scale = 2.0
    block = pickle.loads(cloudpickle.dumps(pure.Function(lambda x: x * scale)))
    assert torch.equal(block({}, X), X * 2)
    assert torch.equal(
        pickle.loads(cloudpickle.dumps(pure.grad(lambda x: (x * scale).sum())))(X), torch.full((3,), 2.0)
    )
