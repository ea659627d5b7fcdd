"""Tags of modules from elsewhere: outputs by path, and residual sums that are found without a change of the code."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap

import export
import pure
from export.graph.node_notes import read_notes
from pure import flow, interop, tags
from pure.errors import ForwardError, UnsupportedError
from pure.interop.tagging.module_hooks import FOLLOWERS


def sampled(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Mlp(nn.Module):
    def __init__(self, features: int = 4) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(features, features), nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Skip(nn.Module):
    """A residual block whose sum is written in a way of its own."""

    def __init__(self, add: Callable[[Tensor, Tensor], Tensor] = torch.add, norm: bool = True) -> None:
        super().__init__()
        self.norm, self.mlp, self.add = nn.LayerNorm(4) if norm else nn.Identity(), Mlp(), add

    def forward(self, x: Tensor) -> Tensor:
        return self.add(x, self.mlp(self.norm(x)))


def seen(
    module: nn.Module, x: Any, kinds: Any = ("branch", "stream"), **extras: Any
) -> tuple[Any, list[str], dict[str, Any]]:
    """Return the output, the paths in order and the values, after a check that tags change nothing."""
    torch.manual_seed(0)
    block, params, state = interop.from_module(module.double().eval())
    expected = block(params, x, state, extras)
    y, found = pure.capture(block, kinds)(params, x, state, extras)
    for a, b in zip(pure.tree.leaves(y), pure.tree.leaves(expected), strict=True):
        assert not isinstance(a, Tensor) or torch.equal(a, b)
    assert not FOLLOWERS
    return y, list(found), found


def iadd(x: Tensor, f: Tensor) -> Tensor:
    f += x
    return f


def skip_written_to(x: Tensor, f: Tensor) -> Tensor:
    x = x * 1
    x += f
    return x


def statement(x: Tensor, f: Tensor) -> Tensor:
    f.add_(x)
    return f


@pytest.mark.parametrize(
    "add",
    [
        torch.add,
        lambda x, f: x + f,
        lambda x, f: f + x,
        lambda x, f: f.add(x),
        lambda x, f: sum([f, x]),
        iadd,
        statement,
        skip_written_to,
        lambda x, f: F.relu(x + f, inplace=True),
        lambda x, f: x + 0.5 * f,
        lambda x, f: 0.5 * x + f,
        lambda x, f: x.transpose(0, 1).contiguous().transpose(0, 1) + f,
    ],
)
def test_a_sum_is_found_however_it_is_written(add: Callable[[Tensor, Tensor], Tensor]) -> None:
    net = nn.Sequential(Skip(add), Skip(add))
    x = sampled(3, 4)
    _, paths, values = seen(net, x)
    assert paths == ["0.branch", "0.stream", "1.branch", "1.stream"]
    block, params, state = interop.from_module(net)
    inner = block(params, x, state)
    assert torch.equal(values["1.stream"], inner)
    loss = torch.square
    gone = flow.deletion(block, params, x, state, loss=lambda y: loss(y).mean())
    assert list(gone) == ["0.branch", "1.branch"]
    split = flow.path_spectrum(block, params, x, torch.ones_like(x), state)
    assert split.paths == (1, 2, 1)
    whole = torch.func.jvp(lambda x: block(params, x, state), (x,), (torch.ones_like(x),))[1]
    assert torch.allclose(split.components.sum(0), whole, rtol=1e-12, atol=1e-14)


def test_every_submodule_is_a_tag_by_its_path() -> None:
    net = nn.Sequential(nn.Linear(4, 4), Skip())
    y, paths, values = seen(net, sampled(3, 4), None)
    own = [path for path, _ in net.named_modules() if path]
    assert sorted(paths) == sorted([*own, "1.branch", "1.stream"])
    assert torch.equal(values["1"], y)
    assert torch.equal(values["0"], net[0](sampled(3, 4)))
    assert list(seen(net, sampled(3, 4), "output")[1]) == [path for path in paths if path in own]


def test_a_tag_inside_forward_has_the_path_of_its_module() -> None:
    class Tagged(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(pure.tag(torch.sigmoid(self.fc1(x)), "gate", kind="gate"))

    assert seen(nn.Sequential(Mlp(), Tagged()), sampled(3, 4), "gate")[1] == ["1.gate"]
    block, params, state = interop.from_module(nn.Sequential(Mlp(), Tagged()).double())
    chain = pure.Sequential(first=pure.Activation("relu"), body=block)
    _, found = pure.capture(chain)({"body": params}, sampled(3, 4), {"body": state} if state else {})
    assert {"body.0", "body.0.fc1", "body.1.gate", "body.1"} <= set(found)


def test_a_shared_module_is_numbered_by_its_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Skip()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    _, paths, _ = seen(Twice(), sampled(3, 4))
    assert paths == ["layer.branch", "layer.stream", "layer#2.branch", "layer#2.stream"]
    outputs = seen(Twice(), sampled(3, 4), "output")[1]
    assert [path for path in outputs if path.startswith("layer.mlp.fc1")] == ["layer.mlp.fc1", "layer.mlp.fc1#2"]


class Pair(NamedTuple):
    a: Tensor
    b: Tensor


@pytest.mark.parametrize("wrapped", [lambda a, b: (a, b), lambda a, b: [a, b], Pair, lambda a, b: {"a": a, "b": b}])
def test_of_several_outputs_the_first_is_tagged_and_can_be_replaced(wrapped: Callable[..., Any]) -> None:
    class Several(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return wrapped(x.sin(), x.cos())

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Several()

        def forward(self, x: Tensor) -> Tensor:
            both = self.part(x)
            a, b = both.values() if isinstance(both, dict) else both
            return a + 2 * b

    x = sampled(3)
    assert torch.equal(seen(Net(), x, "output")[2]["part"], x.sin())
    block, params, state = interop.from_module(Net())
    changed = tags.substitute(block, lambda tagged: tagged.value * 0, "output")(params, x, state)
    assert torch.equal(changed, 2 * x.cos())


class Projected(nn.Module):
    """A block with a projection in its shortcut."""

    def __init__(self, shortcut: nn.Module) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1))
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.f(x) + self.shortcut(x))


@pytest.mark.parametrize(
    "shortcut",
    [
        nn.Conv2d(2, 3, 1),
        nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)),
        nn.Sequential(nn.AvgPool2d(1), nn.Conv2d(2, 3, 1)),
    ],
)
def test_a_projection_is_a_shortcut(shortcut: nn.Module) -> None:
    x = sampled(2, 2, 3, 3)
    net = Projected(shortcut)
    _, paths, values = seen(net, x)
    assert paths == ["f.branch", "f.stream"]
    assert torch.equal(values["f.branch"], net.f(x))
    assert torch.equal(values["f.stream"], net(x))


def test_parallel_branches_are_both_found() -> None:
    class Parallel(nn.Module):
        def __init__(self, together: bool) -> None:
            super().__init__()
            self.norm, self.attn, self.mlp, self.together = nn.LayerNorm(4), Mlp(), Mlp(), together

        def forward(self, x: Tensor) -> Tensor:
            h = self.norm(x)
            if self.together:
                return self.attn(h) + self.mlp(h) + x
            return x + self.attn(h) + self.mlp(h)

    x = sampled(3, 4)
    assert seen(nn.Sequential(Parallel(True), Parallel(True)), x)[1] == [
        "0.branch",
        "0.stream",
        "1.branch",
        "1.stream",
    ]
    apart = nn.Sequential(Parallel(False), Parallel(False))
    assert seen(apart, x)[1] == [
        "0.attn.branch",
        "0.mlp.branch",
        "0.mlp.stream",
        "1.attn.branch",
        "1.mlp.branch",
        "1.mlp.stream",
    ]
    block, params, state = interop.from_module(apart)
    assert flow.path_spectrum(block, params, x, torch.ones_like(x), state).paths == (1, 4, 4)


class Dense(nn.Module):
    """Layers that read the concatenation of all before them, as torchvision's DenseNet has it, or two at a time."""

    def __init__(self, from_list: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(2 + i, 1), nn.Tanh()) for i in range(3)])
        self.from_list = from_list

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for layer in self.layers:
            joined = torch.cat(found, 1)
            new = layer(joined)
            found = [*found, new] if self.from_list else [torch.cat([joined, new], 1)]
        return torch.cat(found, 1)


@pytest.mark.parametrize("from_list", [True, False])
def test_dense_concatenations_are_streams(from_list: bool) -> None:
    x = sampled(3, 2)
    net = Dense(from_list)
    y, paths, values = seen(net, x)
    assert paths == [f"layers.{i}.{kind}" for i in range(3) for kind in ("branch", "stream")]
    assert torch.equal(values["layers.2.stream"], y)
    block, params, state = interop.from_module(net)
    split = flow.path_spectrum(block, params, x, torch.ones_like(x), state)
    assert split.paths == (1, 3, 3, 1)
    found = flow.deletion(block, params, x, state, loss=torch.sum)

    def without(at: int) -> Tensor:
        h = x
        for i, layer in enumerate(net.layers):
            h = torch.cat([h, layer(h) * (i != at)], 1)
        return h.sum()

    expected = torch.stack([without(at) for at in range(3)]) - y.sum()
    assert torch.allclose(found.loss_change, expected, rtol=1e-12, atol=1e-14)


def test_a_branch_that_is_concatenated_twice_is_deleted_twice() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = Mlp()

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.mlp(x).chunk(2, 1)  # two results of one call
            return torch.cat([x, first, second], 1)

    x = sampled(3, 4)
    assert seen(Doubled(), x)[1] == ["mlp.branch", "mlp.branch#2", "mlp.stream"]
    block, params, state = interop.from_module(Doubled().double())
    gone = tags.substitute(block, lambda tagged: tagged.value * 0, "branch")(params, x, state)
    assert torch.equal(gone, torch.cat([x, torch.zeros_like(x)], 1))


class TanhGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1.0 + torch.tanh(0.8 * (x + 0.044715 * torch.pow(x, 3.0))))


class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cos", torch.ones(4) * 0.8)
        self.register_buffer("sin", torch.ones(4) * 0.6)

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.cat([-x[..., 2:], x[..., :2]], -1)
        return x * self.cos + turned * self.sin


class TwoMaps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.a(x) + self.b(x))


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = nn.Parameter(torch.ones(3, 4)), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + self.table) + 2 * self.table


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Mlp(), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x) + torch.cat([self.a(x), self.b(x)], 1)[:, :4]


@pytest.mark.parametrize("module", [TanhGelu(), Rotary(), TwoMaps(), Table(), Branches(), Mlp()])
def test_other_sums_are_not_residual(module: nn.Module) -> None:
    assert seen(nn.Sequential(module, nn.Linear(4, 4)), sampled(3, 4))[1] == []


def test_sums_inside_a_branch_are_named_within_it() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(Skip(), Skip())

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inner(x)

    x = sampled(3, 4)
    net = nn.Sequential(Outer(), Outer())
    _, paths, _ = seen(net, x, "branch")
    assert paths == [
        "0.inner.0.branch",
        "0.inner.1.branch",
        "0.branch",
        "1.inner.0.branch",
        "1.inner.1.branch",
        "1.branch",
    ]
    block, params, state = interop.from_module(net)
    outer = flow.path_spectrum(block, params, x, torch.ones_like(x), state)
    assert outer.paths == (1, 2, 1)
    assert flow.path_spectrum(block, params, x, torch.ones_like(x), state, count="innermost").paths == (1, 4, 6, 4, 1)


def test_what_autograd_functions_compute_is_known_by_their_module() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
            return 2 * g * ctx.saved_tensors[0]

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return Square.apply(self.linear(x))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = Hidden()

        def forward(self, x: Tensor) -> Tensor:
            return x + self.f(x)

    assert seen(nn.Sequential(Block(), Block()), sampled(3, 4), "branch")[1] == ["0.branch", "1.branch"]


def test_capture_of_a_module_composes_with_transforms_and_compile() -> None:
    x = sampled(3, 4)
    block, params, state = interop.from_module(nn.Sequential(Skip(), Skip()).double())
    _, found = pure.capture(block)(params, x, state)
    _, mapped = vmap(lambda row: pure.capture(block)(params, row[None], state))(x)
    assert mapped.keys() == found.keys()
    assert all(torch.allclose(mapped[path][:, 0], found[path], atol=1e-14) for path in found)
    slope = grad(lambda p: pure.capture(block, "branch")(p, x, state)[1]["0.branch"].square().sum())(params)
    assert float(slope["0"]["mlp"]["fc1"]["weight"].norm()) > 0
    assert float(slope["1"]["mlp"]["fc1"]["weight"].norm()) == 0
    torch._dynamo.reset()
    for compiled in (
        torch.compile(pure.capture(block), backend="eager"),
        pure.capture(torch.compile(block, backend="eager")),
    ):
        y, other = compiled(params, x, state)
        assert other.keys() == found.keys()
        assert torch.allclose(y, block(params, x, state), atol=1e-14)
    assert torch.allclose(
        torch.compile(block, backend="eager", fullgraph=True)(params, x, state), block(params, x, state)
    )
    torch._dynamo.reset()


def test_a_training_call_draws_and_counts_once() -> None:
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Conv2d(2, 2, 1)).double()
    block, params, state = interop.from_module(net)
    x = sampled(4, 2, 3, 3)
    noise = block.noise((4,), torch.Generator().manual_seed(0))
    y, new = block.apply(params, x, state, {}, True, noise)
    (other, again), found = pure.capture(lambda: block.apply(params, x, state, {}, True, noise))()
    assert torch.equal(y, other)
    assert pure.tree.flatten(new).keys() == pure.tree.flatten(again).keys()
    assert all(torch.equal(a, b) for a, b in zip(pure.tree.leaves(new), pure.tree.leaves(again), strict=True))
    assert int(new["1"]["num_batches_tracked"]) == int(state["1"]["num_batches_tracked"]) + 1
    assert list(found) == ["0", "1", "2", "3"]


def test_forward_may_catch_what_a_part_raises() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no")

    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.broken, self.mlp = Broken(), Mlp()

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.broken(x)
            except ValueError:
                return x + self.mlp(x)

    assert seen(nn.Sequential(Careful(), Careful()), sampled(3, 4))[1] == [
        "0.branch",
        "0.stream",
        "1.branch",
        "1.stream",
    ]
    block, params, state = interop.from_module(nn.Sequential(Broken()))
    with pytest.raises(ForwardError, match="ValueError: no"):
        pure.capture(block)(params, sampled(1, 1), state)
    assert not FOLLOWERS
    assert not tags.watching()


def test_a_forward_that_takes_another_way_the_second_time_is_refused() -> None:
    outside = SimpleNamespace(calls=0)

    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = Mlp()

        def forward(self, x: Tensor) -> Tensor:
            outside.calls += 1
            return x + self.mlp(x) if outside.calls % 2 else x * self.mlp(x)

    block, params, state = interop.from_module(Fickle().double())
    with pytest.raises(UnsupportedError, match="where a first run on the same arguments called 'add'"):
        pure.capture(block)(params, sampled(3, 4), state)


def test_nodes_of_a_file_carry_module_path_and_line(tmp_path: Any) -> None:
    onnx = pytest.importorskip("onnx")
    net = nn.Sequential(nn.Linear(4, 4), Skip(norm=False))
    block, params, state = interop.from_module(net.eval())
    export.to_onnx(lambda p, x: block(p, x, state), (params, torch.ones(2, 4)), tmp_path / "net.onnx")
    nodes = [read_notes(node) for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert {"0", "1.mlp.fc1", "1.mlp.fc2", "1"} <= {note.get("path") for note in nodes}
    lines = {note["path"]: note["source"] for note in nodes if note.get("path", "").startswith("1")}
    assert "test_interop_tags.py" in lines["1.mlp.fc1"]
    assert lines["1.mlp.fc1"].endswith("in forward")
    assert not any("interop/" in line for line in lines.values())
    as_outputs = pure.capture(lambda p, x: block(p, x, state), "branch")
    assert export.verify(as_outputs, (params, torch.ones(2, 4))).passed
