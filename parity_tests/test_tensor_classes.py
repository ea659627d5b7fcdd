"""Tensors of other classes, such as DTensor, give right numbers or a typed error, never what lies in their memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import Replicate, distribute_tensor, init_device_mesh

import export
import pure
from pure import errors, flow, nets, tree

X = torch.arange(6.0).reshape(2, 3)


class Wrapped(Tensor):
    """A tensor whose values lie in another one; its own memory holds none."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Wrapped":
        made = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)  # type: ignore[attr-defined]
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree.tree_map(lambda t: t.inner if isinstance(t, Wrapped) else t, (args, kwargs or {}))
        return tree.tree_map(lambda t: Wrapped(t) if isinstance(t, Tensor) else t, func(*args, **kwargs))


@pytest.fixture
def distributed(tmp_path: Path) -> Iterator[Any]:
    """Makes a DTensor, on a mesh of this process only."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    yield lambda leaf: distribute_tensor(leaf, mesh, [Replicate()])
    dist.destroy_process_group()


def double(x: Tensor) -> Tensor:
    return x * 2 + 1


def test_a_compiled_function_refuses_them(distributed: Any) -> None:
    fast = export.jit(double)
    torch.testing.assert_close(fast(X), double(X))
    added = export.jit(lambda p, x: p + x, bake=(0,))
    for strange in (distributed(X), Wrapped(X)):
        with pytest.raises(export.errors.ArgumentError, match=f"given a {type(strange).__name__}.*plain tensors"):
            fast(strange)  # after a call with a plain tensor of the same shape
        with pytest.raises(export.errors.ArgumentError, match="plain tensors"):
            export.jit(double)(strange)
        with pytest.raises(export.errors.ArgumentError, match="plain tensors"):
            added(strange, X)
    torch.testing.assert_close(fast(X), double(X))


def test_a_file_takes_all_of_a_dtensor_and_refuses_the_rest(distributed: Any, tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    export.to_onnx(lambda p, x: p + x, (distributed(X), X), path, bake=(0,))
    f = export.load(path)
    torch.testing.assert_close(f(X), X + X)
    assert export.verify(double, (distributed(X),)).status == "pass"
    for call in (lambda: f(Wrapped(X)), lambda: f(distributed(X)), lambda: export.verify(double, (Wrapped(X),))):
        with pytest.raises(export.errors.ArgumentError, match="plain tensor"):
            call()


def test_a_checkpoint_holds_all_of_a_dtensor(distributed: Any, tmp_path: Path) -> None:
    pure.save({"a": {"b": distributed(X)}}, tmp_path / "p.safetensors")
    assert torch.equal(pure.load(tmp_path / "p.safetensors")["a"]["b"], X)
    with pytest.raises(errors.ArgumentError, match=r"leaf 'a' is Wrapped"):
        pure.save({"a": Wrapped(X)}, tmp_path / "p.safetensors")
    assert torch.equal(pure.load(tmp_path / "p.safetensors")["a"]["b"], X), "the old file is whole"


def test_an_audit_puts_dtensors_together_block_by_block(distributed: Any) -> None:
    net = nets.residual_mlp(4, 8, depth=5)
    params, _ = net.init(torch.Generator().manual_seed(0))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    expected = flow.audit(net, params, x).to_dict()
    assert flow.audit(net, tree.tree_map(distributed, params), x).to_dict() == expected
    with pytest.raises(errors.ArgumentError, match="plain tensor"):
        flow.audit(net, tree.tree_map(Wrapped, params), x)


def test_a_measurement_of_dtensors_names_the_way_out(distributed: Any) -> None:
    with pytest.raises(errors.ArgumentError, match=r"'w' is a DTensor.*full_tensor.*group="):
        flow.gradient_norms(lambda p, x: (x @ p["w"]).sum(), {"w": distributed(torch.ones(3))}, X)
