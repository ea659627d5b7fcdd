"""`pure.scan` run eagerly is the loop that it says it is, under every transform, and refuses what is no loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.func import grad, jvp, vmap

import pure
from pure.errors import ArgumentError, CarryError, ShapeError

C, XS = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((3, 4), (6, 3, 4)))


def step(carry: Any, x: Any) -> Any:
    value = (carry["value"] * x["a"]).tanh() + x["b"]
    return {"value": value, "count": carry["count"] + 1}, (value.sum(), {"count": carry["count"], "nothing": None})


def start(value: torch.Tensor) -> Any:
    return {"value": value, "count": torch.tensor(0)}


def looped(value: torch.Tensor, xs: torch.Tensor) -> Any:
    carry, sums, counts = start(value), [], []
    for x in xs:
        carry, (total, rest) = step(carry, {"a": x, "b": x.cos()})
        sums.append(total)
        counts.append(rest["count"])
    return carry, (torch.stack(sums), {"count": torch.stack(counts), "nothing": None})


def scanned(value: torch.Tensor, xs: torch.Tensor) -> Any:
    return pure.scan(step, start(value), {"a": xs, "b": xs.cos()})


def same(a: Any, b: Any) -> None:
    assert pure.tree.names(a) == pure.tree.names(b)
    for left, right in zip(pure.flatten(a).values(), pure.flatten(b).values(), strict=True):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)


def test_it_is_the_loop() -> None:
    same(scanned(C, XS), looped(C, XS))
    assert scanned(C, XS)[1][1]["nothing"] is None


def test_transforms_see_the_loop() -> None:
    def loss(fn: Any) -> Any:
        return lambda value, xs: fn(value, xs)[1][0].square().sum()

    same(grad(loss(scanned), (0, 1))(C, XS), grad(loss(looped), (0, 1))(C, XS))
    last = [vmap(lambda value, xs, fn=fn: fn(value, xs)[0], (0, 1))(C, XS) for fn in (scanned, looped)]
    same(*last)
    same(jvp(loss(scanned), (C, XS), (C, XS)), jvp(loss(looped), (C, XS), (C, XS)))


def test_steps_are_counted_without_xs() -> None:
    seen: list[Any] = []

    def step(carry: torch.Tensor, x: Any) -> Any:
        seen.append(x)
        return carry * 2, carry

    last, ys = pure.scan(step, torch.tensor(1), None, 5)
    assert (int(last), ys.tolist(), seen) == (32, [1, 2, 4, 8, 16], [None] * 5)


def test_no_argument_is_changed() -> None:
    before = C.clone(), XS.clone()
    scanned(C, XS)
    assert torch.equal(C, before[0])
    assert torch.equal(XS, before[1])


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "lengths": (lambda: pure.scan(step, C, {"a": XS, "b": XS[:4]}), ShapeError, r"'a': 6, 'b': 4"),
    "length": (lambda: pure.scan(step, C, XS, 5), ShapeError, "length=5, but xs is 6 long"),
    "no axis": (lambda: pure.scan(step, C, torch.tensor(1.0)), ShapeError, "without axes"),
    "no length": (lambda: pure.scan(step, C, None), ArgumentError, "give length"),
    "no step": (lambda: pure.scan(step, C, XS[:0]), ArgumentError, "at least 1"),
    "no tensor in xs": (lambda: pure.scan(step, C, {"a": 3}), ArgumentError, "xs holds int 3"),
    "no tensor in the carry": (lambda: pure.scan(step, 0, XS), ArgumentError, "carry holds int 0"),
    "no tensor in y": (lambda: pure.scan(lambda c, x: (c, 1.0), C, XS), ArgumentError, "y holds float"),
    "one result": (lambda: pure.scan(lambda c, x: c, C, XS), ArgumentError, r"returned Tensor, expected \(carry, y\)"),
    "three results": (lambda: pure.scan(lambda c, x: (c, c, c), C, XS), ArgumentError, "a tuple of 3"),
    "structure": (lambda: pure.scan(lambda c, x: ((c, c), None), C, XS), CarryError, "structure"),
    "shape": (lambda: pure.scan(lambda c, x: (c.sum(0), None), C, XS), CarryError, r"\(3, 4\) into .*\(4,\)"),
    "dtype": (lambda: pure.scan(lambda c, x: (c.double(), None), C, XS), CarryError, "float32 .* into torch.float64"),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_loop_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_repeat_runs_its_own_loop_eagerly() -> None:
    """Eagerly no scan is involved, which would cost time; the chain of the same blocks gives the same bits."""
    net = pure.Repeat(pure.Residual(pure.Linear(4, 4)), 6)
    params, _ = net.init(torch.Generator().manual_seed(0))
    chain = pure.Sequential(*[net.block] * 6)
    parts = {str(i): part for i, part in enumerate(pure.unstack(params))}
    assert torch.equal(net(params, C), chain(parts, C))
    with pure.tags.tracing():
        assert torch.equal(net(params, C), chain(parts, C))


def swapped(carry: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[Any, Any]:
    """A step that returns carry and y with their keys the other way round, as `pure.combine` may."""
    chosen, rest = pure.partition(carry, "b")
    after = pure.combine(pure.tree.tree_map(lambda leaf: leaf * x, chosen), rest)
    after["a"] = after["a"] + x
    return after, {"b": after["b"].sum(), "a": after["a"].sum()}


def in_order(carry: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[Any, Any]:
    after, y = swapped(carry, x)
    return {"a": after["a"], "b": after["b"]}, y


NAMED = {"a": torch.ones(2), "b": torch.full((2,), 2.0)}
FACTORS = torch.tensor([0.5, 3.0, -2.0])


def test_the_order_of_a_carry_s_keys_does_not_matter() -> None:
    last, ys = pure.scan(swapped, NAMED, FACTORS)
    expected, y_expected = pure.scan(in_order, NAMED, FACTORS)
    assert list(last) == ["a", "b"]
    assert list(ys) == ["b", "a"]
    for name in NAMED:
        assert torch.equal(last[name], expected[name])
        assert torch.equal(ys[name], y_expected[name])


def test_an_order_of_y_that_changes_between_steps_does_not_matter() -> None:
    def turning(count: torch.Tensor, x: torch.Tensor) -> tuple[Any, Any]:
        y = {"a": x, "b": -x}
        return count + 1, y if int(count) % 2 else dict(reversed(y.items()))

    _, ys = pure.scan(turning, torch.tensor(0), FACTORS)
    assert list(ys) == ["b", "a"]
    assert torch.equal(ys["a"], FACTORS)
    assert torch.equal(ys["b"], -FACTORS)


def test_a_y_of_other_names_is_a_typed_error() -> None:
    def other(count: torch.Tensor, x: torch.Tensor) -> tuple[Any, Any]:
        return count + 1, {"ab"[int(count)]: x}

    with pytest.raises(CarryError, match="expected the first step's"):
        pure.scan(other, torch.tensor(0), FACTORS[:2])


def test_gradients_through_a_carry_in_another_order() -> None:
    def loss(step: Any, carry: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        last, ys = pure.scan(step, carry, x)
        return last["a"].square().sum() + (last["b"] * ys["b"].sum()).sum()

    rows = torch.stack([FACTORS, FACTORS.flip(0)])
    found, expected = (
        torch.func.vmap(torch.func.grad(lambda c, x, step=step: loss(step, c, x)), (None, 0))(NAMED, rows)
        for step in (swapped, in_order)
    )
    assert list(found) == ["a", "b"]
    assert all(torch.equal(found[name], expected[name]) for name in NAMED)
