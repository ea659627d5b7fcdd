"""What a recording may take for granted about a dynamic size: nothing that the function does not need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad

import export
import pure
from export.errors import MutationError, SpecialisedSizeError, TracingError

GENERATOR = torch.Generator().manual_seed(0)


def images(*shape: int) -> Tensor:
    """Return random values of a shape."""
    return torch.randn(*shape, generator=GENERATOR)


def window_products(x: Tensor) -> Tensor:
    """Cut padded maps into windows of 7 by 7, as Swin transformers do."""
    batch, height, width, channels = x.shape
    x = F.pad(x, (0, 0, 0, (7 - width % 7) % 7, 0, (7 - height % 7) % 7))
    height, width = x.shape[1:3]
    x = x.view(batch, height // 7, 7, width // 7, 7, channels).permute(0, 1, 3, 2, 4, 5).reshape(-1, 49, channels)
    count = x.shape[0]
    return x.cumsum(-1).reshape(count, 49, 3, 2).permute(2, 0, 1, 3).softmax(-2)


def patches_of_equal_sides(x: Tensor) -> Tensor:
    """Take a shortcut for square images, as position embeddings do; it computes the same."""
    patches = x[..., ::4, ::4]
    if x.shape[2] == x.shape[3]:
        return patches.flatten(2)
    return patches.reshape(x.shape[0], x.shape[1], (x.shape[2] // 4) * (x.shape[3] // 4))


def released(x: Tensor) -> Tensor:
    """Free the memory of an intermediate, as reversible networks do."""
    y = x.clone()
    z = y * 2
    y.set_()
    return z


def written_views(x: Tensor) -> Tensor:
    """Write to views of an intermediate."""
    y = x.clone()
    y[1:].mul_(3)
    y.view(-1)[0] = 5.0
    y.unsqueeze_(0).squeeze_(0).transpose_(0, 1)
    y[..., ::2] *= 3
    return y * 2


def written_products(x: Tensor) -> Tensor:
    """Write to a shifted view of an einsum's result, as Funnel transformers do with their relative positions."""
    positions = torch.linspace(-1, 1, 12, dtype=x.dtype).reshape(6, 2, 1).expand(6, 2, x.shape[3])
    y = torch.einsum("binh,tnh->bnit", x, positions)
    batch, heads, rows, columns = y.shape
    y = y.reshape(batch, heads, columns, rows)[:, :, 1:].reshape(batch, heads, rows, columns - 1)[..., :2]
    y *= torch.tensor([2.0, -3.0], dtype=x.dtype)
    return y


def halves(x: Tensor) -> Tensor:
    """Multiply the halves of an axis."""
    left, right = x.chunk(2, 1)
    return left[:, : right.shape[1]] * right.sigmoid()


WINDOWS = {0: "b", 1: "h", 2: "w"}
PLANE = {0: "b", 2: "h", 3: "w"}
ROWS = {0: "b", 1: "c"}

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], dict[int, str], list[Tensor]]] = {
    "one window, then several": (window_products, WINDOWS, [images(2, 2, 2, 6), images(3, 8, 15, 6)]),
    "several windows, then one": (window_products, WINDOWS, [images(2, 8, 9, 6), images(3, 2, 15, 6)]),
    "square, then oblong": (patches_of_equal_sides, PLANE, [images(2, 3, 8, 8), images(1, 3, 12, 16)]),
    "released, batch": (released, {0: "b"}, [images(2, 3), images(5, 3)]),
    "written views, batch": (written_views, {0: "b"}, [images(4, 6), images(9, 6)]),
    "written views, two sizes": (written_views, ROWS, [images(4, 6), images(9, 5)]),
    "written products, batch": (written_products, {0: "b"}, [images(2, 3, 2, 4), images(5, 3, 2, 4)]),
    "halves of a dynamic axis": (halves, ROWS, [images(4, 6), images(3, 9), images(1, 2)]),
    "a batch of one": (window_products, {0: "b"}, [images(1, 7, 7, 6), images(4, 7, 7, 6)]),
}


@pytest.mark.parametrize("derived", [False, True], ids=["value", "gradient"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_sizes_than_the_example_are_right(name: str, derived: bool, tmp_path: Path) -> None:
    fn, axes, inputs = FUNCTIONS[name]
    f = grad(lambda x: fn(x).sin().sum()) if derived else fn
    export.to_onnx(f, (inputs[0],), tmp_path / "f.onnx", dynamic=(axes,))
    loaded = export.load(tmp_path / "f.onnx", device="cpu")
    for x in inputs:
        expected = f(x.double())
        torch.testing.assert_close(loaded(x).double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_fixed_sizes_are_right_as_well(tmp_path: Path) -> None:
    for name, (fn, _, inputs) in FUNCTIONS.items():
        export.to_onnx(fn, (inputs[0],), tmp_path / "f.onnx")
        found = export.load(tmp_path / "f.onnx", device="cpu")(inputs[0])
        torch.testing.assert_close(found.double(), fn(inputs[0].double()), rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("axes", [{0: "b"}, ROWS], ids=["against a number", "against another size"])
def test_a_comparison_inside_pytorch_is_no_silent_limit(axes: dict[int, str], tmp_path: Path) -> None:
    with pytest.raises(SpecialisedSizeError, match="'b'"):
        export.to_onnx(lambda x: (x * 2).diagonal(), (images(4, 6),), tmp_path / "f.onnx", dynamic=(axes,))


@pytest.mark.parametrize("dynamic", [None, ({0: "b"},)], ids=["fixed", "dynamic"])
def test_an_argument_is_not_released(dynamic: tuple[dict[int, str]] | None, tmp_path: Path) -> None:
    with pytest.raises(MutationError, match="set_"):
        export.to_onnx(lambda x: x.set_() * 2, (images(2, 3),), tmp_path / "f.onnx", dynamic=dynamic)


def test_a_value_used_in_python_is_named_behind_another_error(tmp_path: Path) -> None:
    def wrapped(x: Tensor) -> Tensor:
        try:
            return x if int(x.sum()) > 3 else -x
        except RuntimeError as error:
            raise ValueError("the input does not fit") from error

    with pytest.raises(TracingError, match=r"a tensor's value in Python[\s\S]*in wrapped"):
        export.to_onnx(wrapped, (images(2, 3),), tmp_path / "f.onnx")


def test_a_branch_on_a_root_of_a_size_is_evaluated(tmp_path: Path) -> None:
    def harmless(x: Tensor) -> Tensor:
        return x * 1.0 if x.shape[1] ** 0.5 > 1.5 else x

    def wrong(x: Tensor) -> Tensor:
        return x * 2.0 if x.shape[1] ** 0.5 > 1.5 else x

    path = tmp_path / "model.onnx"
    export.to_onnx(harmless, (images(2, 7),), path, dynamic=({0: "b", 1: "n"},))
    for x in (images(3, 2), images(2, 9)):
        torch.testing.assert_close(export.load(path, device="cpu")(x), x)
    with pytest.raises(SpecialisedSizeError, match="'n'"):
        export.to_onnx(wrong, (images(2, 7),), path, dynamic=({0: "b", 1: "n"},))


def attention_loss(params: dict[str, Tensor], x: Tensor) -> Tensor:
    """Attend with a key's bias, whose gradient is 0, and a table of positions, after a branch that changes nothing."""
    if x.shape[0] > 8:
        x = x.clone()
    places = torch.tensor([[0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]])
    scores = (x @ params["query"]) @ (x @ params["key"] + params["key_bias"]).mT + params["position"][places]
    return (scores.softmax(-1) @ x).square().mean()


def test_rounding_in_a_gradient_of_0_is_no_wrong_branch(tmp_path: Path) -> None:
    shapes = {"query": (6, 6), "key": (6, 6), "key_bias": (6,), "position": (3,)}
    args = {name: images(*shape) for name, shape in shapes.items()}, images(3, 4, 6)
    fn, dynamic = pure.grad(attention_loss), (None, {0: "batch"})
    export.to_onnx(fn, args, tmp_path / "f.onnx", dynamic=dynamic)
    assert export.verify(fn, args, tmp_path / "f.onnx", dynamic=dynamic).passed
