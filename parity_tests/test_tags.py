"""Tags are the identity; capture gives their values by path and composes with every transform."""

import threading

import pytest
import torch
from torch.func import grad, jvp, vmap

import pure
from pure import nets, tags
from pure.errors import CaptureError


def test_capture_names_every_stream_and_branch_in_order() -> None:
    block, params, state, x, extras = pure.catalogue.case("residual_mlp").example()
    y, seen = pure.capture(block)(params, x, state, extras)
    assert list(seen) == ["0.branch", "0.stream", "1.branch", "1.stream", "2.branch", "2.stream"]
    assert torch.equal(seen["2.stream"], y)
    torch.testing.assert_close(seen["0.stream"] - seen["0.branch"], x)
    assert list(pure.capture(block, kinds="branch")(params, x)[1]) == ["0.branch", "1.branch", "2.branch"]


def test_gates_are_captured() -> None:
    block, params, _, x, _ = pure.catalogue.case("highway").example()
    _, seen = pure.capture(block, ("gate",))(params, x)
    assert list(seen) == ["gate"]
    assert float(seen["gate"].min()) > 0
    dynamic = nets.dynamic_net(6, 8, 3)
    _, seen = pure.capture(dynamic, "gate")(dynamic.init(torch.Generator())[0], x, {}, {"control": 0.9})
    assert {name: float(value) for name, value in seen.items()} == {"middle.gate": 1.0}


def test_a_function_of_ones_own_joins_in_and_a_path_met_twice_is_numbered() -> None:
    def own(x: torch.Tensor) -> torch.Tensor:
        return pure.tag(x * 2, "double", kind="branch")

    block = pure.Sequential(first=pure.Function(own), second=pure.Function(lambda x: own(own(x))))
    _, seen = pure.capture(block)({}, torch.ones(1, 1))
    assert {name: float(value) for name, value in seen.items()} == {
        "first.double": 2.0,
        "second.double": 4.0,
        "second.double#2": 8.0,
    }


def test_capture_composes_with_transforms_and_compile() -> None:
    block, params, _, x, _ = pure.catalogue.case("residual_mlp").example(dtype=torch.float64)

    def energy(params: object, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        y, seen = pure.capture(block)(params, x)
        return y.sum() + sum(value.square().sum() for value in seen.values()), seen

    gradient, seen = grad(energy, has_aux=True)(params, x)
    assert len(seen) == 6
    assert all(torch.isfinite(leaf).all() for leaf in pure.tree.leaves(gradient))
    _, mapped = vmap(pure.capture(lambda row: block(params, row[None])[0]))(x)
    assert mapped["1.branch"].shape == (5, 1, 6)
    _, tangent = jvp(lambda v: pure.capture(block)(params, v)[1]["0.stream"], (x,), (torch.ones_like(x),))
    assert tangent.shape == x.shape
    compiled = torch.compile(pure.capture(block), fullgraph=True, backend="eager")
    y, seen_compiled = compiled(params, x)
    assert torch.equal(y, block(params, x))
    assert list(seen_compiled) == list(seen)


def test_captures_nest_and_each_keeps_its_kinds() -> None:
    block, params, _, x, _ = pure.catalogue.case("residual_mlp").example()
    (_, inner), outer = pure.capture(pure.capture(block, "branch"), "stream")(params, x)
    assert list(inner) == ["0.branch", "1.branch", "2.branch"]
    assert list(outer) == ["0.stream", "1.stream", "2.stream"]


def test_threads_do_not_see_each_other() -> None:
    found: dict[int, list[str]] = {}
    ready = threading.Barrier(2)

    def run(index: int) -> None:
        def fn(x: torch.Tensor) -> torch.Tensor:
            ready.wait()
            y = pure.tag(x, f"thread{index}")
            ready.wait()
            return y

        found[index] = list(pure.capture(fn)(torch.zeros(1))[1])

    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: ["thread0"], 1: ["thread1"]}


def test_an_unknown_kind_and_a_lost_capture_are_errors() -> None:
    with pytest.raises(CaptureError, match="activation"):
        pure.capture(lambda x: x, kinds="activation")
    with pytest.raises(CaptureError, match="one of stream"):
        pure.capture(lambda x: pure.tag(x, "h", kind="hidden"))(torch.zeros(1))
    compiled = torch.compile(lambda x: pure.tag(x * 2, "double"), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="compile the captured function"):
        pure.capture(compiled)(torch.zeros(1))


def test_after_an_error_nothing_watches() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pure.capture(pure.Sequential(a=pure.Function(broken)))({}, torch.zeros(1, 1))
    assert not tags.watching()
    assert tags.current_path() == ""


def test_a_shortcut_inside_a_shortcut_has_its_whole_path() -> None:
    block = pure.Residual(pure.Conv2d(2, 3, 3), pure.Crop(pure.Project(2, 3)))
    params, state = block.init(torch.Generator().manual_seed(0))
    wrong = pure.combine({"branch": params["branch"]}, {"shortcut": pure.cast(params["shortcut"], torch.float64)})
    with pytest.raises(pure.errors.DtypeError, match=r"in shortcut\.channels\.conv"):
        block(wrong, torch.ones(1, 2, 5, 5), state)


def test_a_substitute_takes_the_place_of_what_was_tagged() -> None:
    block, params, _, x, _ = pure.catalogue.case("residual_mlp").example(dtype=torch.float64)

    def scaled(factor: torch.Tensor) -> torch.Tensor:
        changed = tags.substitute(block, lambda t: t.value * factor if t.path == "1.branch" else t.value, "branch")
        y: torch.Tensor = changed(params, x)
        return y

    _, seen = pure.capture(block)(params, x)
    assert torch.equal(scaled(torch.ones(())), block(params, x))
    without = block.children()["2"](params["2"], seen["0.stream"])
    torch.testing.assert_close(scaled(torch.zeros(())), without)
    both = vmap(scaled)(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(both, torch.stack([without, block(params, x)]))
    assert torch.isfinite(grad(lambda factor: scaled(factor).sum())(torch.ones(())))
    _, outer = pure.capture(lambda: scaled(torch.zeros(())))()
    assert torch.equal(outer["1.branch"], torch.zeros_like(x)), "what watches from outside sees the substitute"
    with pytest.raises(CaptureError, match="some of stream"):
        tags.substitute(block, lambda t: t.value, "hidden")
    assert not tags.watching()


def test_inputs_of_the_blocks_are_listed_where_asked() -> None:
    layer = pure.Residual(pure.Sequential(fc=pure.Linear(2, 2)))
    block = pure.Sequential(layer, layer)
    params, _ = block.init(torch.Generator().manual_seed(0))
    x = torch.ones(1, 2)
    _, seen = tags.observe(block, "stream", inputs=True)(params, x)
    found = [(tagged.path, tagged.kind) for tagged in seen]
    assert found[:4] == [("0", "input"), ("0.branch", "input"), ("0.branch.fc", "input"), ("0.shortcut", "input")]
    assert found[4] == ("0.stream", "stream")
    assert seen[0].value is x
    assert next(t for t in seen if t.path == "1").value is seen[4].value
    assert all(tagged.kind == "stream" for tagged in tags.observe(block, "stream")(params, x)[1])
    with pytest.raises(CaptureError, match="input"):
        pure.capture(block, "input")
