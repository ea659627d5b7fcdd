"""The optimisers equal torch.optim and optax step by step, as pure functions, and export."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torchopt
from torch.func import vmap

import export
import pure
from parity_tests import optim_references
from pure import nets, optim, tree
from pure.errors import ArgumentError, TreeError

PAIRS: list[tuple[optim.GradientTransformation, Callable[[list[torch.Tensor]], torch.optim.Optimizer]]] = [
    (optim.sgd(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    (optim.sgd(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    (
        optim.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    (optim.adamw(0.01), lambda p: torch.optim.AdamW(p, 0.01)),
    (
        optim.adamw(0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.0),
        lambda p: torch.optim.Adam(p, 0.02, (0.8, 0.95), 1e-6),
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_equals_torch_optim_over_many_steps(ours: optim.GradientTransformation, theirs: Callable[..., Any]) -> None:
    block = nets.simple_block(3, 4, 2)
    params, _ = block.init(torch.Generator().manual_seed(0), torch.float64)
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    flat, spec = tree.tree_flatten(params)
    leaves = [leaf.clone().requires_grad_() for leaf in flat]
    optimizer, state = theirs(leaves), ours.init(params)
    start = tree.tree_map(torch.clone, params)
    for _ in range(20):
        gradient = torch.func.grad(lambda p: (block(p, x) - 1).square().mean())(params)
        params, state = ours.step(gradient, state, params)
        optimizer.zero_grad()
        (block(tree.tree_unflatten(leaves, spec), x) - 1).square().mean().backward()
        optimizer.step()
        for a, b in zip(tree.leaves(params), leaves, strict=True):
            assert float((a - b.detach()).abs().max()) < 1e-12
    assert all(int(step) == 20 for name, step in tree.flatten(state).items() if name.endswith("step"))
    assert all(not torch.equal(a, b) for a, b in zip(tree.leaves(start), tree.leaves(params), strict=True))


def test_a_step_maps_over_an_ensemble_and_compiles() -> None:
    block, optimizer = nets.simple_block(3, 4, 2), optim.adamw(0.01)
    members = [block.init(torch.Generator().manual_seed(seed))[0] for seed in range(3)]
    stacked, x = pure.stack(members), torch.ones(5, 3)

    def step(params: Any, state: Any) -> Any:
        return optimizer.step(torch.func.grad(lambda p: block(p, x).square().mean())(params), state, params)

    states = pure.stack([optimizer.init(member) for member in members])
    together, _ = vmap(step)(stacked, states)
    alone = pure.stack([step(member, optimizer.init(member))[0] for member in members])
    for a, b in zip(tree.leaves(together), tree.leaves(alone), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    compiled = torch.compile(step, fullgraph=True, backend="eager")(members[0], optimizer.init(members[0]))
    assert torch.equal(tree.leaves(compiled[0])[0], tree.leaves(step(members[0], optimizer.init(members[0]))[0])[0])


def test_the_rate_may_follow_the_step() -> None:
    optimizer = optim.sgd(lambda step: torch.where(step < 1, 1.0, 0.5))
    params, ones = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    state = optimizer.init(params)
    first, state = optimizer.step(ones, state, params)
    second, state = optimizer.step(ones, state, first)
    assert (float(first["w"]), float(second["w"])) == (-1.0, -1.5)


@pytest.mark.parametrize(
    "make",
    [lambda: optim.sgd(0.1, nesterov=True), lambda: optim.sgd(0.1, momentum=-1), lambda: optim.adamw(betas=(1.0, 0.9))],
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ArgumentError):
        make()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adamw_corrects_its_bias_in_narrow_dtypes(dtype: torch.dtype) -> None:
    optimizer = optim.adamw(0.1, weight_decay=0.0)
    params = {"w": torch.ones(3, dtype=dtype), "s": torch.ones((), dtype=dtype)}
    grads = {"w": torch.tensor([1.0, 0.0, -1.0], dtype=dtype), "s": torch.ones((), dtype=dtype)}
    new, _ = optimizer.step(grads, optimizer.init(params), params)
    torch.testing.assert_close(new["w"].float(), torch.tensor([0.9, 1.0, 1.1]), rtol=0, atol=4e-3)
    assert {leaf.dtype for leaf in new.values()} == {dtype}


@pytest.mark.parametrize("name", optim_references.comparisons())
def test_equals_its_reference(name: str) -> None:
    row = optim_references.comparisons()[name]()
    assert row.error <= 1e-12, f"{row.reference}: {row.error}"


def test_muon_equals_torch_in_its_bfloat16() -> None:
    generator = torch.Generator().manual_seed(0)
    params = {"tall": torch.randn(8, 3, generator=generator), "wide": torch.randn(3, 8, generator=generator)}
    leaves = [leaf.clone() for leaf in tree.leaves(params)]
    theirs, ours = torch.optim.Muon(leaves, 0.1), optim.muon(0.1, dtype=torch.bfloat16)
    state = ours.init(params)
    for _ in range(3):
        grads = tree.tree_map(lambda p: torch.randn(p.shape, generator=generator), params)
        params, state = ours.step(grads, state, params)
        for leaf, grad in zip(leaves, tree.leaves(grads), strict=True):
            leaf.grad = grad
        theirs.step()
        for new, leaf in zip(tree.leaves(params), leaves, strict=True):
            torch.testing.assert_close(new, leaf, rtol=1e-6, atol=1e-6)


def test_orthogonalize_brings_singular_values_to_one() -> None:
    matrices = torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = torch.linalg.svdvals(optim.orthogonalize(matrices))
    assert 0.6 < float(found.min()) < float(found.max()) < 1.3
    alone = torch.stack([optim.orthogonalize(matrix) for matrix in matrices])
    torch.testing.assert_close(optim.orthogonalize(matrices), alone, rtol=1e-12, atol=1e-12)


WHOLE: dict[str, optim.GradientTransformation] = {
    "sgd": optim.sgd(optim.cosine_decay_schedule(0.1, 10), momentum=0.9, nesterov=True),
    "adamw": optim.chain(
        optim.clip_by_global_norm(0.1),
        optim.adamw(optim.warmup_cosine_decay_schedule(0.0, 0.1, 2, 10), mask="*.weight"),
    ),
    "lamb": optim.lamb(0.1, weight_decay=0.1),
    "lion": optim.lion(optim.piecewise_constant_schedule(0.01, {1: 0.5})),
    "multi_transform": optim.multi_transform(
        {"muon": optim.muon(0.1), "adam": optim.adam(optim.cosine_onecycle_schedule(9, 0.1))},
        {"*.weight": "muon", "*": "adam"},
    ),
    "apply_if_finite": optim.apply_if_finite(optim.chain(optim.clip(0.1), optim.ema(0.9), optim.scale(-0.1)), 2),
}


def several_steps(optimizer: optim.GradientTransformation) -> Callable[..., Any]:
    """Return three steps of training as one scan."""
    block = nets.simple_block(3, 4, 2)

    def train(params: Any, state: Any, batches: torch.Tensor) -> Any:
        def step(carry: Any, x: torch.Tensor) -> Any:
            grads, value = torch.func.grad_and_value(lambda p: (block(p, x) - 1).square().mean())(carry[0])
            return optimizer.step(grads, carry[1], carry[0]), value

        return pure.scan(step, (params, state), batches)

    return train


@pytest.mark.parametrize("optimizer", [pytest.param(given, id=name) for name, given in WHOLE.items()])
def test_steps_export_as_one_scan(optimizer: optim.GradientTransformation, tmp_path: Path) -> None:
    params, _ = nets.simple_block(3, 4, 2).init(torch.Generator().manual_seed(0))
    args = params, optimizer.init(params), torch.randn(3, 8, 3, generator=torch.Generator().manual_seed(1))
    train, path = several_steps(optimizer), tmp_path / "train.onnx"
    export.to_onnx(train, args, path)
    verdict = export.verify(train, args, path)
    assert verdict.passed, verdict.table()
    assert "Scan" in {node.op_type for node in onnx.load(path).graph.node}
    after, _ = export.load(path)(*args)
    for name, leaf in tree.flatten(after[0]).items():
        assert not torch.equal(leaf, tree.flatten(params)[name]), f"{name} moved"


@pytest.mark.parametrize("optimizer", [pytest.param(given, id=name) for name, given in WHOLE.items()])
def test_steps_map_over_an_ensemble(optimizer: optim.GradientTransformation) -> None:
    block = nets.simple_block(3, 4, 2)
    members = [block.init(torch.Generator().manual_seed(seed), torch.float64)[0] for seed in range(3)]
    states, x = [optimizer.init(member) for member in members], torch.ones(2, 5, 3, dtype=torch.float64)
    train = several_steps(optimizer)
    together = vmap(train, in_dims=(0, 0, None))(pure.stack(members), pure.stack(states), x)
    alone = pure.stack([train(member, state, x) for member, state in zip(members, states, strict=True)])
    for a, b in zip(tree.leaves(together), tree.leaves(alone), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_state_is_saved_and_goes_on(tmp_path: Path) -> None:
    optimizer = WHOLE["adamw"]
    params = {"fc": {"weight": torch.ones(2, 2), "bias": torch.zeros(2)}}
    _, state = optimizer.step(params, optimizer.init(params), params)
    pure.save(state, tmp_path / "state.safetensors")
    loaded = pure.load(tmp_path / "state.safetensors")
    expected, found = optimizer.step(params, state, params), optimizer.step(params, loaded, params)
    assert all(map(torch.equal, tree.leaves(found), tree.leaves(expected)))


def test_steps_that_are_not_finite_are_left_out() -> None:
    optimizer = optim.apply_if_finite(optim.sgd(0.5, momentum=0.5), 2)
    params = {"w": torch.ones(1)}
    state = optimizer.init(params)
    values = []
    for gradient in (1.0, float("nan"), float("inf"), 1.0, *[float("nan")] * 3):
        params, state = optimizer.step({"w": torch.full((1,), gradient)}, state, params)
        values.append(float(params["w"]))
    assert values[:6] == [0.5, 0.5, 0.5, -0.25, -0.25, -0.25]
    assert values[6] != values[6], "a lasting error shows"
    assert (int(state["errors"]), int(state["all_errors"])) == (3, 5)


def test_torchopt_transformations_are_links() -> None:
    params = {"w": torch.tensor([1.0, -2.0]), "b": torch.ones(3)}
    grads = tree.tree_map(lambda p: 3 * p, params)
    given = tree.tree_map(torch.clone, grads)
    theirs = optim.chain(optim.clip(1.0), torchopt.adamw(0.1, weight_decay=0.01))
    ours = optim.chain(optim.clip(1.0), optim.adamw(0.1, weight_decay=0.01))
    state, own, found, expected = theirs.init(params), ours.init(params), params, params
    for _ in range(5):
        found, state = theirs.step(grads, state, found)
        expected, own = ours.step(grads, own, expected)
    for a, b, c, d in zip(*map(tree.leaves, (found, expected, grads, given)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
        assert torch.equal(c, d), "gradients stay as they were"


def test_one_cycle_is_that_of_torch() -> None:
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], 1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=21, pct_start=0.5)
    ours = optim.schedules._interpolated([0, 9.5, 20], [0.004, 0.1, 4e-7], optim.schedules._half_cosine)  # type: ignore[list-item]
    for step in range(21):
        assert abs(theirs.get_last_lr()[0] - float(ours(torch.tensor(step)))) < 1e-15
        optimizer.step()
        if step < 20:
            theirs.step()


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: optim.chain(lambda grads: grads), ArgumentError, "init and update"),
        (lambda: optim.clip(-1.0), ArgumentError, "max_delta=-1.0"),
        (lambda: optim.ema(1.0), ArgumentError, "decay=1.0"),
        (lambda: optim.warmup_cosine_decay_schedule(0.0, 1.0, 10, 10), ArgumentError, "more than the warmup_steps=10"),
        (lambda: optim.cosine_onecycle_schedule(2, 1.0), ArgumentError, "expected them to rise"),
        (lambda: optim.join_schedules([], [3]), ArgumentError, "one boundary less"),
        (lambda: optim.muon().init({"bias": torch.ones(3)}), ArgumentError, r"bias has the shape \(3,\)"),
        (lambda: optim.masked(optim.clip(1.0), "head.*").init({"w": torch.ones(1)}), TreeError, "matches none"),
        (
            lambda: optim.masked(optim.clip(1.0), {"v": True}).init({"w": torch.ones(1)}),
            TreeError,
            "one boolean a leaf",
        ),
        (
            lambda: optim.multi_transform({}, {"b*": "a"}).init({"w": torch.ones(1)}),
            ArgumentError,
            "add '\\*' as the last",
        ),
        (lambda: optim.multi_transform({}, {"*": "a"}).init({"w": torch.ones(1)}), ArgumentError, "labelled 'a'"),
        (lambda: optim.global_norm({}), ArgumentError, "at least one tensor"),
        (lambda: optim.adamw().step({"w": torch.ones(1)}, {}, {"w": torch.ones(1)}), ArgumentError, "what init"),
    ],
)
def test_mistakes_are_named(make: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()
