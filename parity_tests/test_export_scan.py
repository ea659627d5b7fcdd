"""Loops in files: a Repeat and a scan are held once, in the forward graph and in those of transforms, and are right."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch.func import grad, hessian, jacrev, jvp, vjp, vmap

import export
import pure
from export.errors import MutationError, RandomOpError, SpecialisedSizeError
from export.graph import onnx_export
from export.graph.onnx_export import build
from export.verdict import branch_forcing
from parity_tests import edited_files
from pure import nets

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning"),  # PyTorch's own, in its forward derivatives
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
]

Case = Callable[[pure.Block], Callable[..., Any]]


def drawn(*shapes: tuple[int, ...], seed: int = 1) -> list[torch.Tensor]:
    """Tensors for steps that keep their carry's size: what a loop amplifies says nothing about the file."""
    generator = torch.Generator().manual_seed(seed)
    return [0.4 * torch.randn(shape, generator=generator) for shape in shapes]


X, V = drawn((5, 4), (5, 4))


def repeat(depth: int, block: pure.Block | None = None) -> tuple[pure.Repeat, Any, Any]:
    """A Repeat with parameters that are not those of the start, and its state."""
    net = pure.Repeat(block or nets.residual_mlp_block(4, 6, scale=0.3, activation="gelu"), depth)
    params, state = net.init(torch.Generator().manual_seed(0))
    return net, params, state


def ops(model: onnx.ModelProto, kind: str) -> list[onnx.NodeProto]:
    """All nodes of one type, those of bodies included."""

    def visit(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
        found = []
        for node in graph.node:
            found += [node] if node.op_type == kind else []
            for attribute in node.attribute:
                found += visit(attribute.g) if attribute.HasField("g") else []
        return found

    return visit(model.graph)


def passes(fn: Callable[..., Any], args: Sequence[Any], dynamic: Any = None, loops: int | None = None) -> None:
    """The file passes the float64 verdict, and holds that many loops (at least one where that is not said)."""
    model, _ = build(fn, args, dynamic=dynamic)
    found = len(ops(model, "Scan"))
    assert found == loops if loops is not None else found, found
    verdict = export.verify(fn, args, dynamic=dynamic)
    assert verdict.passed, verdict.table()


TRANSFORMS: dict[str, tuple[Case, int]] = {
    "forward": (lambda net: lambda p, x, v: net(p, x), 1),
    "grad by params": (lambda net: grad(lambda p, x, v: net(p, x).square().mean()), 2),
    "grad by input": (lambda net: grad(lambda p, x, v: net(p, x).square().mean(), 1), 2),
    "pure.grad": (lambda net: pure.grad(lambda p, x, v: net(p, x).square().mean()), 2),
    "vjp": (lambda net: lambda p, x, v: vjp(lambda x: net(p, x), x)[1](v), 2),
    "vmap": (lambda net: vmap(lambda p, x, v: net(p, x[None]).sum(), (None, 0, 0)), 1),
    "vmap(grad)": (lambda net: vmap(grad(lambda p, x, v: net(p, x[None]).square().mean()), (None, 0, 0)), 2),
    "jvp": (lambda net: lambda p, x, v: jvp(lambda x: net(p, x), (x,), (v,)), 2),
    "Hessian-vector product": (
        lambda net: lambda p, x, v: jvp(grad(lambda x: net(p, x).square().mean()), (x,), (v,))[1],
        4,
    ),
    "grad of grad": (
        lambda net: grad(lambda p, x, v: (grad(lambda x: net(p, x).square().mean())(x) * v).sum()),
        4,
    ),
    "jacrev": (lambda net: jacrev(lambda p, x, v: net(p, x).sum(0), 1), 2),
    "hessian": (lambda net: hessian(lambda p, x, v: net(p, x[:1]).square().sum(), 1), 4),
}


@pytest.mark.parametrize(("transform", "loops"), TRANSFORMS.values(), ids=TRANSFORMS)
def test_depth_does_not_count(transform: Case, loops: int) -> None:
    counts = []
    for depth in (10, 1000):
        net, params, _ = repeat(depth)
        model, _ = build(transform(net), (params, X, V))
        counts.append({kind: len(ops(model, kind)) for kind in {node.op_type for node in model.graph.node}})
        assert len(ops(model, "Scan")) == loops
        assert onnx_export.count_nodes(model.graph) < 400
    assert counts[0] == counts[1]


@pytest.mark.parametrize("transform", [case for case, _ in TRANSFORMS.values()], ids=TRANSFORMS)
def test_a_transform_of_a_loop_passes_the_verdict(transform: Case) -> None:
    net, params, _ = repeat(6)
    passes(transform(net), (params, X, V))


def test_a_thousand_blocks_are_exported_in_seconds_and_run(tmp_path: Path) -> None:
    net, params, _ = repeat(1000, nets.residual_mlp_block(4, 6, scale=0.01))
    loss = grad(lambda p, x: net(p, x).square().mean())
    started = time.perf_counter()
    exported = export.to_onnx(loss, (params, X), tmp_path / "deep.onnx", dynamic=(None, {0: "batch"}))
    assert time.perf_counter() - started < 30
    found = exported.load(device="cpu")(params, X)
    expected = loss(pure.cast(params, torch.float64), X.double())
    for own, exact in zip(pure.tree.leaves(found), pure.tree.leaves(expected), strict=True):
        assert torch.linalg.vector_norm(own - exact) < 1e-4 * torch.linalg.vector_norm(exact)


@pytest.mark.parametrize("name", ["forward", "grad by params", "vmap(grad)", "jvp"])
def test_the_batch_may_be_dynamic(name: str) -> None:
    net, params, _ = repeat(5)
    passes(TRANSFORMS[name][0](net), (params, X, V), (None, {0: "batch"}, {0: "batch"}))


def test_sizes_inside_a_step_may_be_dynamic() -> None:
    """The step reshapes by the batch and the length, whose sizes it closes over or reads from its carry."""

    def fn(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch = x.shape[0]

        def step(carry: torch.Tensor, part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            wide = (carry @ part).reshape(batch * 2, -1)
            again = wide.reshape(carry.shape[0], -1) + torch.ones(batch, 1)
            return again.sin(), again.sum(1) / carry.shape[0]

        return pure.scan(step, x, w)

    args = tuple(drawn((5, 4), (6, 4, 4)))
    passes(fn, args, ({0: "batch"}, None))
    passes(grad(lambda x, w: fn(x, w)[1].sum(), (0, 1)), args, ({0: "batch"}, None))


@pytest.mark.parametrize("transform", [lambda f: f, lambda f: grad(lambda *args: f(*args)[1].square().sum(), (0, 1))])
def test_the_number_of_steps_may_be_dynamic(transform: Callable[..., Any]) -> None:
    def fn(w: torch.Tensor, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return pure.scan(lambda h, x: ((h @ w + x).sin(), h), torch.zeros(2, 4), words)

    passes(transform(fn), tuple(drawn((4, 4), (6, 2, 4))), (None, {0: "time"}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["forward", "grad by params"])
def test_other_precisions(dtype: torch.dtype, name: str) -> None:
    net, params, _ = repeat(5, nets.residual_mlp_block(4, 6, scale=0.3, activation="tanh"))
    passes(TRANSFORMS[name][0](net), (pure.cast(params, dtype), X.to(dtype), V.to(dtype)))


def normed() -> tuple[pure.Repeat, Any, Any]:
    block = pure.Residual(pure.Sequential(norm=pure.BatchNorm(4), fc=pure.Linear(4, 4), act=pure.Activation("gelu")))
    net, params, state = repeat(5, block)
    state["branch"]["norm"]["running_mean"] += 0.25
    return net, params, state


def test_batch_norm_in_training_gives_its_new_state() -> None:
    net, params, state = normed()

    def loss(params: Any, x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        y, new = net.apply(params, x, state, {}, True)
        return y.square().mean(), new

    passes(lambda p, x, s: net.apply(p, x, s, {}, True), (params, X, state), loops=1)
    passes(lambda p, x, s: net(p, x, s), (params, X, state), loops=1)
    passes(grad(loss, has_aux=True), (params, X, state), loops=2)


def test_noise_of_every_depth() -> None:
    net, params, state = repeat(5, pure.Residual(pure.Sequential(fc=pure.Linear(4, 4), drop=pure.Dropout(0.4))))
    noise = net.noise(X.shape, torch.Generator().manual_seed(3))

    def loss(params: Any, x: torch.Tensor, noise: Any) -> torch.Tensor:
        return net.apply(params, x, state, {}, True, noise)[0].square().mean()

    passes(grad(loss), (params, X, noise), loops=2)
    passes(vmap(grad(lambda p, x, n: loss(p, x[None], pure.tree.tree_map(lambda leaf: leaf[None], n))), (None, 0, 0)),
           (params, X, noise), loops=2)  # fmt: skip


@pytest.mark.parametrize("name", ["forward", "grad by params", "vmap(grad)", "Hessian-vector product"])
def test_a_repeat_inside_a_repeat(name: str) -> None:
    counts = []
    for depth in (4, 40):
        net, params, _ = repeat(depth, pure.Repeat(nets.residual_mlp_block(4, 3, scale=0.1, activation="gelu"), depth))
        model, _ = build(TRANSFORMS[name][0](net), (params, X, V))
        counts.append(onnx_export.count_nodes(model.graph))
    assert counts[0] == counts[1]
    net, params, _ = repeat(4, pure.Repeat(nets.residual_mlp_block(4, 3, scale=0.1, activation="gelu"), 4))
    passes(TRANSFORMS[name][0](net), (params, X, V))


def test_a_repeat_inside_the_branches_of_a_condition() -> None:
    net, params, _ = repeat(5)

    def fn(params: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: net(params, x), lambda x: 2 * net(params, x).sin(), (x,))

    model, _ = build(fn, (params, X))
    assert len(ops(model, "If")) == 1
    assert len(ops(model, "Scan")) == 2
    passes(fn, (params, X))
    passes(fn, (params, X), dynamic=(None, {0: "batch"}))
    passes(grad(lambda p, x: fn(p, x).square().mean()), (params, X))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_condition_inside_a_loop(sign: int) -> None:
    (w,) = drawn((4, 4))

    def step(carry: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        carry = torch.cond(x.sum() * sign > 0, lambda c: (c @ w).sin(), lambda c: c - x, (carry,))
        return carry, carry.sum()

    fn = lambda c, xs: pure.scan(step, c, xs)  # noqa: E731
    args = (X, drawn((6, 5, 4))[0])
    model, _ = build(fn, args)
    assert len(ops(model, "If")) == 1
    assert len(branch_forcing.conditions(model.graph)) == 1
    passes(fn, args)
    passes(grad(lambda c, xs: fn(c, xs)[1].square().sum(), (0, 1)), args, loops=2)


def closed_over(w: torch.Tensor, c: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
    """A step that closes over what is differentiated by, names it in many ways, and gives part of it out."""
    table = {"w": w}

    def step(carry: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, Any]:
        rows = torch.stack([carry @ table["w"], carry + w[0], carry * w.T[1]])
        return rows.mean(0).sin() + x, {"given": w, "rows": rows, "nothing": None}

    last, ys = pure.scan(step, c, xs)
    assert ys["nothing"] is None
    return last.square().sum() + ys["given"].sin().sum() + ys["rows"].cos().sum()


def inner_gradient(w: torch.Tensor, c: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
    """Steps of gradient descent inside the loop, differentiated through."""

    def step(carry: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        slope = grad(lambda c: ((c @ w).sin() - x).square().mean())(carry)
        return carry - 0.1 * slope, slope

    last, slopes = pure.scan(step, c, xs)
    return last.square().sum() + slopes.sin().sum()


def mapped_inside(w: torch.Tensor, c: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
    def step(carry: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return vmap(lambda row, by: (row @ w * by).sin())(carry, x), None

    return pure.scan(step, c, xs)[0].square().sum()


def scan_in_scan(w: torch.Tensor, c: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
    """The inner step closes over what the outer step was given, made, and closes over."""

    def outer(carry: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        made = (x @ w).sin()

        def inner(small: torch.Tensor, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return (small @ w + made + row * x).sin(), small.sum() * w.sum()

        last, ys = pure.scan(inner, carry, w)
        return last, ys

    last, ys = pure.scan(outer, c, xs)
    return last.square().sum() + ys.sum()


FUNCTIONS = [closed_over, inner_gradient, mapped_inside, scan_in_scan]
OVER: dict[str, Callable[..., Any]] = {
    "as it is": lambda f: f,
    "grad": lambda f: grad(f, (0, 1, 2)),
    "vmap(grad)": lambda f: vmap(grad(f, (0, 1, 2)), (0, None, None)),
    "jvp": lambda f: lambda w, c, xs: jvp(lambda w: f(w, c, xs), (w,), (w.cos(),)),
    "grad of grad": lambda f: grad(lambda w, c, xs: grad(f)(w, c, xs).square().sum(), (0, 1)),
    "Hessian-vector product": lambda f: lambda w, c, xs: jvp(lambda w: grad(f)(w, c, xs), (w,), (w.cos(),))[1],
}


@pytest.mark.parametrize("over", OVER.values(), ids=OVER)
@pytest.mark.parametrize("fn", FUNCTIONS)
def test_tensors_that_a_step_closes_over(fn: Callable[..., Any], over: Callable[..., Any]) -> None:
    w, c, xs = drawn((4, 4), (5, 4), (6, 5, 4))
    if over is OVER["vmap(grad)"]:
        w = torch.stack([w, w.cos()])
    passes(over(fn), (w, c, xs))


def test_a_tensor_that_cannot_be_followed_is_unrolled() -> None:
    """A gradient inside the step by what is differentiated by outside: nothing can be put in its place."""

    def fn(w: torch.Tensor, c: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
        step = lambda carry, x: (carry - grad(lambda v: ((carry @ v).sin() * x).sum())(w).sum(0), None)  # noqa: E731
        return pure.scan(step, c, xs)[0].square().sum()

    args = tuple(drawn((4, 4), (5, 4), (6, 5, 4)))
    passes(fn, args, loops=1)
    passes(grad(fn, (0, 1)), args, loops=0)


def test_integers_and_booleans_are_carried() -> None:
    def fn(x: torch.Tensor, xs: torch.Tensor) -> Any:
        def step(carry: Any, row: torch.Tensor) -> Any:
            value, count, seen = carry
            value = torch.where(seen, value * row, value + row) / (count + 1)
            return (value, count + 1, seen | (row.sum() > 0)), {"count": count, "value": value}

        return pure.scan(step, (x, torch.tensor(0), torch.tensor(False)), xs)

    args = tuple(drawn((4,), (6, 4)))
    passes(fn, args)
    passes(grad(lambda x, xs: fn(x, xs)[1]["value"].square().sum(), (0, 1)), args, loops=2)
    passes(vmap(fn, (0, None)), tuple(drawn((3, 4), (6, 4))), loops=1)
    passes(lambda x, xs, t: jvp(lambda x: fn(x, xs)[1]["value"], (x,), (t,)), tuple(drawn((4,), (6, 4), (4,))))


def test_steps_may_be_counted_only() -> None:
    fn = lambda x: pure.scan(lambda c, _: (c.cos(), c), x, None, 7)  # noqa: E731
    passes(fn, (X,), loops=1)
    passes(grad(lambda x: fn(x)[0].sum()), (X,), loops=2)


def test_autograd_inside_the_function() -> None:
    def fn(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            v = w.detach().requires_grad_()
            last, _ = pure.scan(lambda c, part: ((c @ v).sin() + part, None), x, torch.stack([x] * 5))
            return torch.autograd.grad(last.square().sum(), v)[0]

    passes(fn, (drawn((4, 4))[0], X), loops=2)


def test_writing_to_an_intermediate_is_allowed_and_to_the_carry_is_not() -> None:
    def fine(x: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
        return pure.scan(lambda c, row: ((c @ row).relu_().mul_(0.5), None), x, xs)[0]

    def wrong(x: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
        return pure.scan(lambda c, row: (c.add_(row), None), x, xs)[0]

    args = tuple(drawn((5, 4), (6, 4, 4)))
    passes(fine, args, loops=1)
    with pytest.raises(MutationError, match=r"carry \+ x(.|\n)*test_export_scan.py"):
        build(wrong, (X, drawn((6, 5, 4))[0]))


def test_random_numbers_in_a_step_are_refused() -> None:
    with pytest.raises(RandomOpError, match=r"test_export_scan\.py"):
        build(lambda x: pure.scan(lambda c, _: (c + torch.rand(4), None), x, None, 5)[0], (X,))


def test_a_size_that_must_equal_the_length_is_no_free_size() -> None:
    (other,) = drawn((6, 5, 4), seed=2)
    fn = lambda c, xs: pure.scan(lambda c, x: (c + x["a"] * x["b"], None), c, {"a": xs, "b": other})[0]  # noqa: E731
    with pytest.raises(SpecialisedSizeError, match="time"):
        build(fn, (X, drawn((6, 5, 4))[0]), dynamic=(None, {0: "time"}))


def test_what_is_unrolled() -> None:
    """Shallow ones, varied ones, those that change their input's dtype, and those that are looked into."""
    shallow, params, _ = repeat(pure.compose.repeat.LOOPED_FROM - 1)
    passes(shallow, (params, X), loops=0)
    dropped = pure.Residual(pure.Sequential(fc=pure.Linear(4, 4), drop=pure.DropPath(0.0)))
    varied = pure.Repeat(dropped, 5, vary={"branch.drop.rate": (0.0, 0.1, 0.2, 0.3, 0.4)})
    params, _ = varied.init(torch.Generator().manual_seed(0))
    passes(varied, (params, X), loops=0)
    net, params, _ = repeat(5)
    passes(pure.capture(net, "branch"), (params, X), loops=0)
    widening = pure.Repeat(pure.Function(lambda p, x: x.double().sin()), 5)
    passes(lambda x: widening({}, x), (X,), loops=0)


def test_wrong_parameters_are_reported_as_without_a_loop() -> None:
    net, params, _ = repeat(5)
    params["branch"]["fc1"]["wieght"] = params["branch"]["fc1"].pop("weight")
    with pytest.raises(pure.errors.TreeError, match="did you mean"):
        build(net, (params, X))


def test_nodes_of_a_loop_name_their_block_and_line() -> None:
    net, params, _ = repeat(5)
    model, _ = build(grad(lambda p, x: net(p, x).sum()), (params, X))
    gemms = ops(model, "Gemm")
    assert gemms
    for node in gemms:
        notes = {entry.key: entry.value for entry in node.metadata_props}
        assert notes["path"].startswith("*.branch.fc")
        assert "linear.py" in notes["source"]


def test_a_wrong_loop_is_named(tmp_path: Path) -> None:
    net, params, _ = repeat(5)
    path = tmp_path / "wrong.onnx"
    export.to_onnx(lambda p, x: net(p, x).sin(), (params, X), path)
    model = onnx.load(path)
    (scan,) = ops(model, "Scan")
    (body,) = (attribute.g for attribute in scan.attribute if attribute.HasField("g"))
    (add,) = (node for node in body.node if node.op_type == "Add" and node.output[0] == body.output[0].name)
    add.op_type = "Sub"
    edited_files.save(model, path)
    verdict = export.verify(lambda p, x: net(p, x).sin(), (params, X), path)
    assert not verdict.passed
    assert verdict.divergence is not None
    assert (verdict.divergence.node, verdict.divergence.op) == (add.name, "Sub")
    assert verdict.divergence.within == f"body of {scan.name!r}, step 1 of 5"
    assert verdict.divergence.root


def swapped(carry: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[Any, Any]:
    chosen, rest = pure.partition(carry, "b")
    after = pure.combine(pure.tree.tree_map(lambda leaf: leaf * x, chosen), rest)
    return {**after, "a": after["a"] + x}, {"b": after["b"].sum(), "a": after["a"].sum()}


def scan_of_swapped(carry: dict[str, torch.Tensor], x: torch.Tensor) -> Any:
    return pure.scan(swapped, carry, x)


def slopes_of_swapped(carry: dict[str, torch.Tensor], rows: torch.Tensor) -> Any:
    def loss(carry: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        last, ys = scan_of_swapped(carry, x)
        return last["a"].square().sum() + (last["b"] * ys["b"].sum()).sum()

    return torch.func.vmap(torch.func.grad(loss), (None, 0))(carry, rows)


@pytest.mark.parametrize("fn", [scan_of_swapped, slopes_of_swapped])
def test_the_order_of_a_carry_s_keys_does_not_matter(fn: Any, tmp_path: Path) -> None:
    carry = {"a": torch.ones(2), "b": torch.full((2,), 2.0)}
    x = torch.tensor([0.5, 3.0, -2.0]) if fn is scan_of_swapped else torch.tensor([[0.5, 3.0, -2.0], [1.0, 0.5, 2.0]])
    export.to_onnx(fn, (carry, x), tmp_path / "f.onnx")
    export.verify(fn, (carry, x), tmp_path / "f.onnx").raise_if_failed()
    assert "Scan" in {node.op_type for node in onnx.load(tmp_path / "f.onnx").graph.node}


@pytest.mark.parametrize("mapped", [False, True])
def test_the_order_of_the_keys_of_a_condition_s_branches_does_not_matter(mapped: bool, tmp_path: Path) -> None:
    def one(x: torch.Tensor) -> Any:
        return torch.cond(x.sum() > 0, lambda x: {"a": x, "b": -x}, lambda x: {"b": x * 3, "a": x * 2}, (x,))

    fn, x = (
        (torch.func.vmap(one), torch.tensor([[1.0, 2.0], [-3.0, 1.0]])) if mapped else (one, torch.tensor([-1.0, 0.5]))
    )
    export.to_onnx(fn, (x,), tmp_path / "f.onnx")
    found = export.load(tmp_path / "f.onnx")(x)
    assert list(found) == ["a", "b"]
    assert torch.equal(found["a"], torch.where(x.sum(-1, keepdim=True) > 0, x, x * 2))
    assert torch.equal(found["b"], torch.where(x.sum(-1, keepdim=True) > 0, -x, x * 3))
