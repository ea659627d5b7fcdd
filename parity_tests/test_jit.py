"""A compiled function is the function: same values, same errors, no copy kept, nothing stale, from any thread."""

import gc
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, hessian, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import export
from export.errors import ArgumentError, ExportError, RandomOpError
from pure import nets, tree

ROWS = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
BLOCK = nets.residual_mlp(4, 8, 2, 0.5, "tanh")
PARAMS, _ = BLOCK.init(torch.Generator().manual_seed(0), torch.float64)


def loss(params: Any, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = BLOCK(params, x)
    return y.square().mean()


def assert_close(given: Any, expected: Any) -> None:
    left, right = tree.flatten({"_": given}), tree.flatten({"_": expected})
    assert list(left) == list(right)
    for name, leaf in left.items():
        torch.testing.assert_close(leaf, right[name], rtol=1e-9, atol=1e-12)


FUNCTIONS = {
    "value": loss,
    "gradient": grad(loss),
    "per_sample_gradient": vmap(grad(lambda params, sample: loss(params, sample[None])), (None, 0)),
    "jvp": lambda params, x: jvp(lambda z: loss(params, z), (x,), (torch.ones_like(x),)),
    "hessian": lambda params, x: hessian(lambda z: loss(params, z))(x),
    "step": lambda params, x: tree.tree_map(lambda p, g: p - 0.1 * g, params, grad(loss)(params, x)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("bake", [(), (0,)], ids=["inputs", "baked"])
def test_it_equals_the_function(name: str, bake: tuple[int, ...]) -> None:
    compiled = export.jit(FUNCTIONS[name], bake=bake)
    for x in (ROWS, ROWS + 1, ROWS[:2]):
        assert_close(compiled(PARAMS, x), FUNCTIONS[name](PARAMS, x))
    assert len(compiled.compilations()) == 2, "one for each shape, none for new values"


def test_a_gradient_that_is_compiled_in_inference_mode_is_no_zero() -> None:
    slope = export.jit(grad(lambda x: x.square().sum()))
    with torch.inference_mode():
        assert torch.equal(slope(torch.ones(3)), torch.full((3,), 2.0))
    assert torch.equal(slope(torch.ones(3)), torch.full((3,), 2.0))


def test_only_new_kinds_of_arguments_compile_and_the_oldest_goes() -> None:
    compiled = export.jit(lambda x, power: x**power, cache_size=2)
    for x, power in ((ROWS, 2), (ROWS, 3), (ROWS.float(), 2), (ROWS, 3)):
        torch.testing.assert_close(compiled(x, power), x**power)
    assert [one.arguments["x"] for one in compiled.compilations()] == ["float32[5, 4]", "float64[5, 4]"]
    compiled.clear()
    assert not compiled.compilations()


def test_a_baked_tensor_that_changes_or_is_replaced_is_seen() -> None:
    compiled = export.jit(lambda w, x: x * w, bake=(0,))
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(compiled(weight, ROWS), ROWS * weight)
    weight.add_(1)
    torch.testing.assert_close(compiled(weight, ROWS), ROWS * weight)
    for value in range(8):  # a new tensor often gets the address of the one before
        other = torch.full((4,), float(value), dtype=torch.float64)
        torch.testing.assert_close(compiled(other, ROWS), ROWS * value)
        del other
        gc.collect()


def test_a_captured_tensor_that_changes_is_seen() -> None:
    offset = torch.ones(4, dtype=torch.float64)
    compiled = export.jit(lambda x: x + offset)
    torch.testing.assert_close(compiled(ROWS), ROWS + 1)
    offset.mul_(3)
    torch.testing.assert_close(compiled(ROWS), ROWS + 3)
    offset.data = torch.full((4,), 7.0, dtype=torch.float64)  # which counts no version
    torch.testing.assert_close(compiled(ROWS), ROWS + 7)


def test_a_module_that_is_captured_may_be_loaded_again() -> None:
    module = torch.nn.Linear(4, 4, dtype=torch.float64)
    compiled = export.jit(lambda x: module(x))
    torch.testing.assert_close(compiled(ROWS), module(ROWS))
    module.load_state_dict(torch.nn.Linear(4, 4, dtype=torch.float64).state_dict())
    torch.testing.assert_close(compiled(ROWS), module(ROWS))
    assert len(compiled.compilations()) == 1


def test_plain_values_are_told_apart_as_python_sees_them() -> None:
    compiled = export.jit(lambda x, s: x.abs() * s)
    for value in (0.0, -0.0, 1, 1.0, True, float("nan"), float("nan")):
        given, expected = compiled(ROWS, value), ROWS.abs() * value
        torch.testing.assert_close(given, expected, equal_nan=True)
        assert torch.equal(given.signbit(), expected.signbit()) or value != value
    assert len(compiled.compilations()) == 6


def test_autocast_and_the_default_dtype_are_part_of_a_kind() -> None:
    product = export.jit(lambda x: x @ x.T)
    zeros = export.jit(lambda x: torch.zeros(3) + x.sum().to(torch.float16))
    rows = ROWS.float()
    assert product(rows).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.float16):
        assert product(rows).dtype == torch.float16
    assert product(rows).dtype == torch.float32
    assert zeros(rows).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert zeros(rows).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_was_compiled_with_a_tensor_goes_with_it() -> None:
    compiled = export.jit(lambda w, x: x * w, bake=(0,))
    kept = torch.ones(4, dtype=torch.float64)
    for value in range(5):
        compiled(torch.full((4,), float(value), dtype=torch.float64), ROWS)
    compiled(kept, ROWS)
    gc.collect()
    torch.testing.assert_close(compiled(kept, ROWS), ROWS)
    assert len(compiled.compilations()) == 1
    assert len(compiled._alive) == 1


def test_no_tracer_gets_a_constant_in_place_of_a_value(tmp_path: Path) -> None:
    compiled = export.jit(torch.sin)
    compiled(ROWS)
    for trace in (
        lambda: make_fx(compiled)(ROWS),
        lambda: make_fx(compiled, tracing_mode="fake")(ROWS),
        lambda: export.jit(lambda x: compiled(x) + 1)(ROWS),
        lambda: export.to_onnx(compiled, (ROWS,), tmp_path / "net.onnx"),
    ):
        with pytest.raises(ArgumentError, match="attribute fn"):
            trace()
    torch.testing.assert_close(export.jit(lambda x: compiled.fn(x) + 1)(ROWS), torch.sin(ROWS) + 1)
    with forward_ad.dual_level(), pytest.raises(ArgumentError, match="tangents"):
        compiled(forward_ad.make_dual(ROWS, ROWS))


def test_views_scalars_and_empty_tensors() -> None:
    compiled = export.jit(lambda x, s: (x * s, x.sum(0)))
    scalar = torch.tensor(2.0, dtype=torch.float64)
    for x in (ROWS.T, ROWS[::2], ROWS[:, :0], ROWS[:0], torch._neg_view(ROWS), ROWS.expand(3, 5, 4)):
        for given, expected in zip(compiled(x, scalar), (x * scalar, x.sum(0)), strict=True):
            torch.testing.assert_close(given, expected)


def test_results_are_new_tensors_and_arguments_are_left_alone() -> None:
    compiled = export.jit(lambda x: {"same": x, "more": [x + 1]})
    first = compiled(ROWS)
    kept = first["more"][0].clone()
    second = compiled(ROWS + 5)
    assert torch.equal(first["more"][0], kept)
    first["same"].zero_()
    assert ROWS.abs().sum() > 0
    assert torch.equal(second["same"], ROWS + 5)


def test_a_wrapper_that_outlived_its_transform_is_said_to_be_one() -> None:
    left: list[torch.Tensor] = []
    vmap(lambda row: (left.append(row), row)[1])(ROWS)
    compiled = export.jit(lambda x: 2 * x, device="cpu")
    for _ in range(2):  # the second time a compilation of its kind is there
        with pytest.raises(ArgumentError, match="put the transform inside"):
            compiled(left[0])
        compiled(ROWS[0])


def test_other_tensors_at_the_same_place_and_the_same_at_another_are_read() -> None:
    compiled = export.jit(lambda x, y: x - y, device="cpu")
    x, y = ROWS.clone(), ROWS + 1
    assert float(compiled(x, y).mean()) == -1
    x.add_(2)  # the same memory
    assert float(compiled(x, y).mean()) == 1
    assert float(compiled(y, x).mean()) == -1
    assert float(compiled(x.clone(), y).mean()) == 1


def test_what_cannot_be_is_said() -> None:
    compiled = export.jit(lambda x: (x**2).sum())
    compiled(ROWS)
    with pytest.raises(ArgumentError, match=r"jit\(torch\.func\.grad"):
        compiled(ROWS.clone().requires_grad_())
    with torch.no_grad():
        compiled(ROWS.clone().requires_grad_())
    with pytest.raises(ArgumentError, match="put the transform inside"):
        grad(compiled)(ROWS)
    with pytest.raises(ArgumentError, match="put the transform inside"):
        vmap(compiled)(ROWS)
    with pytest.raises(ArgumentError, match="cache_size"):
        export.jit(torch.sin, cache_size=0)
    with pytest.raises(ArgumentError, match=r"bake=\(0,\)"):
        export.jit(torch.sin, bake=0)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="to_dense"):
        compiled(ROWS.to_sparse())
    with pytest.raises(ArgumentError, match="given a tensor on meta"):
        compiled(ROWS.to("meta"))
    with pytest.raises(ArgumentError, match="ndarray"):
        compiled(ROWS.numpy())
    with pytest.raises(ArgumentError, match="returns no tensor"):
        export.jit(lambda s: s * 2)(3)
    with torch.inference_mode():
        made = ROWS + 1
    torch.testing.assert_close(compiled(made), (made**2).sum())
    with pytest.raises(ArgumentError, match="bake a tensor that was made in inference mode"):
        export.jit(torch.sin, bake=(0,))(made)
    with pytest.raises(ArgumentError, match="captured a tensor that was made in inference mode"):
        export.jit(lambda x: x + made)(ROWS)
    with pytest.raises(RandomOpError):
        export.jit(lambda x: x + torch.rand(4))(ROWS)
    torch.testing.assert_close(compiled(ROWS), (ROWS**2).sum())


def test_after_a_failed_compilation_the_same_function_may_work() -> None:
    def positive(x: torch.Tensor) -> torch.Tensor:
        return x if x.ndim == 1 or x.sum() > 0 else -x

    compiled = export.jit(positive)
    with pytest.raises(ExportError):
        compiled(ROWS)
    assert torch.equal(compiled(ROWS[0]), ROWS[0])


def test_eight_threads_give_what_one_gives() -> None:
    compiled = export.jit(grad(loss))
    inputs = [ROWS[: 1 + i % 3] + i for i in range(24)]
    expected = [grad(loss)(PARAMS, x) for x in inputs]
    found: dict[int, Any] = {}

    def work(start: int) -> None:
        for i in range(start, 24, 8):
            found[i] = compiled(PARAMS, inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, value in enumerate(expected):
        assert_close(found[i], value)
    assert len(compiled.compilations()) == 3


def resident() -> int:
    """Bytes of memory that the process has in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc")
def test_memory_stays_flat() -> None:
    compiled = export.jit(lambda x: torch.tanh(x) @ x.T)
    wide = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    for _ in range(500):
        compiled(wide)
    before = resident()
    for _ in range(10_000):
        compiled(wide)
    assert resident() - before < 8 * 2**20
    many = export.jit(lambda x, s: x * s, cache_size=4)
    for s in range(100):
        many(ROWS, s)
    gc.collect()
    before = resident()
    for s in range(100, 300):
        many(ROWS, s)
    gc.collect()
    assert resident() - before < 16 * 2**20


def test_the_report_names_what_was_compiled() -> None:
    def scaled(params: Any, x: torch.Tensor) -> torch.Tensor:
        return params["w"] * x

    compiled = export.jit(scaled, bake=(0,))
    compiled({"w": torch.ones(4, dtype=torch.float64)}, ROWS)
    (one,) = compiled.compilations()
    assert one.baked == ("params.w",)
    assert one.arguments == {"x": "float64[5, 4]"}
    assert one.nodes == 1
    assert "x: float64[5, 4]" in compiled.report()
