"""What is proved on a GPU, as plain functions of a device, so that the same body runs on the CPU in every test run.

Each check takes the device and an empty folder, raises where something is not as claimed, and returns the facts that
it saw. ``python -m parity_tests.cuda_checks NAME DEVICE RESULT`` runs one where there is no pytest.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

import export
import pure
from export.errors import ArgumentError, UnsupportedOpError
from export.runtime import sessions
from export.runtime.placement import assigned
from export.verdict.reference_runs import float32_products
from parity_tests.cuda_predicted import predicted
from pure import nets, tree
from pure.block import Block
from pure.skips import pre_norm

Facts = dict[str, Any]
Case = tuple[Callable[..., Any], tuple[Any, ...]]

PROVIDERS = {"cpu": sessions.CPU, "cuda": sessions.CUDA}


def mlp() -> tuple[Block, tuple[int, ...]]:
    return nets.residual_mlp(32, 64, 3, 0.5, "tanh"), (6, 32)


def convolutional() -> tuple[Block, tuple[int, ...]]:
    return nets.tutorial_resnet(), (4, 3, 8, 8)


def transformer() -> tuple[Block, tuple[int, ...]]:
    attention = pre_norm(pure.Attention(32, 4, fused=True), pure.LayerNorm(32))
    inner = pure.Sequential(fc1=pure.Linear(32, 64), act=pure.Activation("gelu"), fc2=pure.Linear(64, 32))
    return pure.Sequential(attention=attention, mlp=pre_norm(inner, pure.LayerNorm(32))), (2, 5, 32)


NETWORKS = {"mlp": mlp, "convolutional": convolutional, "transformer": transformer}


def placed(value: Any, device: str, dtype: torch.dtype = torch.float32) -> Any:
    """A tree of tensors on the device, in the dtype."""
    return tree.tree_map(lambda leaf: leaf.to(device, dtype if leaf.is_floating_point() else leaf.dtype), value)


def forward(network: str, device: str, dtype: torch.dtype = torch.float32) -> Case:
    """A network's call with its parameters and an input."""
    block, shape = NETWORKS[network]()
    generator = torch.Generator().manual_seed(0)
    params, state = block.init(generator)
    x = torch.randn(shape, generator=generator)

    def call(params: Any, x: Tensor) -> Tensor:
        y: Tensor = block(params, x, tree.tree_map(lambda leaf: leaf.to(x.device), tree.cast(state, x.dtype)))
        return y

    return call, (placed(params, device, dtype), x.to(device, dtype))


def mean_square(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, x: call(params, x).square().mean()


def gradient(network: str, device: str) -> Case:
    call, args = forward(network, device)
    return grad(mean_square(call), argnums=(0, 1)), args


def per_sample(network: str, device: str) -> Case:
    call, args = forward(network, device)
    loss = mean_square(call)
    return vmap(grad(lambda params, sample: loss(params, sample[None])), (None, 0)), args


def curved(network: str, device: str) -> Case:
    call, args = forward(network, device)
    loss = mean_square(call)

    def product(params: Any, x: Tensor) -> Any:
        return jvp(lambda x: grad(loss)(params, x), (x,), (torch.ones_like(x),))[1]

    return product, args


TRANSFORMS = {"forward": forward, "gradient": gradient, "per-sample gradient": per_sample, "Hessian product": curved}
BATCH = (None, {0: "batch"})


def judged(case: Case, device: str, **options: Any) -> Facts:
    """The verdict's figures; raises with its table if it did not pass."""
    if "path" in options:
        export.to_onnx(*case, options["path"], dynamic=options.get("dynamic"))
    verdict = export.verify(*case, device=device, **options)
    verdict.raise_if_failed()
    assert verdict.device == device
    return {"worst_ratio": verdict.worst, "comparisons": len(verdict.rows), "open_decisions": len(verdict.decisions)}


def outside(f: export.Loaded, device: str) -> list[str]:
    """The operators that run elsewhere than on the device's own provider; `load` sees that they compute sizes alone."""
    return [kind for _, kind, provider in assigned(f._session) if provider != PROVIDERS[device]]


def placement(device: str, folder: Path) -> Facts:
    """With fixed sizes every node runs on the device; with a free batch what does not is arithmetic of sizes."""
    facts: Facts = {}
    for network in NETWORKS:
        for name, make in TRANSFORMS.items():
            for label, dynamic in (("fixed", None), ("free batch", BATCH)):
                path = folder / f"{network}-{name}-{label}.onnx".replace(" ", "-")
                f = export.to_onnx(*make(network, device), path, dynamic=dynamic).load(device=device)
                elsewhere = outside(f, device)
                assert f.placement
                assert label != "fixed" or not elsewhere, (network, name, elsewhere)
                facts[f"{network}, {name}, {label}"] = {"nodes": len(f.placement), "elsewhere": elsewhere}
    return facts


def verdicts(name: str) -> Callable[[str, Path], Facts]:
    """Every network passes under a transform, without TF32, at every size of the batch."""

    def check(device: str, folder: Path) -> Facts:
        return {network: judged(TRANSFORMS[name](network, device), device, dynamic=BATCH) for network in NETWORKS}

    return check


def distance(result: Any, truth: Any) -> float:
    """The norm of the difference of two trees, relative to the second's."""
    pairs = list(zip(tree.leaves(result), tree.leaves(truth), strict=True))
    missed = sum((a.double() - b.double()).square().sum().item() for a, b in pairs)
    return math.sqrt(missed / sum(b.double().square().sum().item() for _, b in pairs))


def tensor_float(device: str, folder: Path) -> Facts:
    """TF32 is off unless asked for; with it the file loses what eager loses with it, and without it far less."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator).to(device) for _ in range(2))
    image, kernel = (torch.randn(shape, generator=generator).to(device) for shape in ((4, 64, 16, 16), (64, 64, 3, 3)))
    cases: dict[str, Case] = {
        "matrix product": (torch.matmul, (a, b)),
        "convolution": (lambda x, w: torch.nn.functional.conv2d(x, w, padding=1), (image, kernel)),
    }
    facts: Facts = {}
    for name, (fn, args) in cases.items():
        exported = export.to_onnx(fn, args, folder / f"{name}.onnx".replace(" ", "-"))
        truth = fn(*(x.double() for x in args))
        found: Facts = {}
        for asked in (False, True):
            f = export.load(exported.path, device=device, tf32=asked)
            assert f.numerics.tf32 == (asked and device == "cuda")
            with float32_products(asked):
                eager = distance(fn(*args), truth)
            found["with TF32" if asked else "without"] = {"file": distance(f(*args), truth), "eager": eager}
            judged((fn, args), device, path=exported.path, tf32=asked)
        strict, loose = found["without"]["file"], found["with TF32"]["file"]
        assert strict < 1e-5
        if device == "cuda":  # it rounds to 11 bits, and a rounding scale without it would not pass it
            assert 1e-5 < loose < 1e-2
            assert loose > 2 * found["without"]["eager"]
            assert loose < 2 * found["with TF32"]["eager"]
        facts[name] = found
    return facts


def rounding_scale(device: str, folder: Path) -> Facts:
    """PyTorch's own TF32, which is on for convolutions by default, does not loosen a verdict without it."""
    found: Facts = {}
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    with float32_products(False):
        found["inside"] = [backend.fp32_precision for backend in backends]
    assert found["inside"] == ["ieee", "ieee"]
    assert [backend.fp32_precision for backend in backends] == before
    x = torch.randn(2, 8, 12, 12, generator=torch.Generator().manual_seed(0)).to(device)
    w = torch.randn(8, 8, 3, 3, generator=torch.Generator().manual_seed(1)).to(device)

    def exact(x: Tensor, w: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x, w)

    def coarse(x: Tensor, w: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x * (1 + 2e-4), w)  # an error of TF32's size

    path = folder / "coarse.onnx"
    export.to_onnx(coarse, (x, w), path)
    verdict = export.verify(exact, (x, w), path=path, device=device)
    assert verdict.status == "fail"
    return {**found, "ratio of an error of TF32's size": verdict.worst}


def half(dtype: torch.dtype) -> Callable[[str, Path], Facts]:
    """A half type is right, or refused with the operator's name; on a GPU float16 is never refused."""

    def check(device: str, folder: Path) -> Facts:
        facts: Facts = {}
        for network in NETWORKS:
            try:
                facts[network] = judged(forward(network, device, dtype), device)
            except UnsupportedOpError as refusal:
                if not refusal.op or (device, dtype) == ("cuda", torch.float16):
                    raise
                facts[network] = {"refused": refusal.op}
        return facts

    return check


def branches(device: str, folder: Path) -> Facts:
    """A condition stays an ``If``; both branches are right."""
    facts: Facts = {}
    block = nets.dynamic_net(16, 32, 8, mode="branch")
    params = placed(block.init(torch.Generator().manual_seed(0))[0], device)
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(1)).to(device)
    for control in (0.9, 0.1):
        args = (params, x, {}, {"control": torch.tensor(control, device=device)})
        path = folder / f"{control}.onnx"
        facts[str(control)] = judged((block, args), device, path=path, dynamic=(None, {0: "batch"}, None, None))
        f = export.load(path, device=device)
        assert "If" in {kind for _, kind, _ in assigned(f._session)}
    return facts


def compiled(device: str, folder: Path) -> Facts:
    """A compiled function is the function, for every transform, with results on the device."""
    facts: Facts = {}
    with float32_products(False):
        for network in NETWORKS:
            for name, make in TRANSFORMS.items():
                fn, (params, x) = make(network, device)
                run = export.jit(fn, device=device)
                assert run.device == device
                for given in (x, 0.5 * x[:2]):
                    truth = fn(*tree.cast((params, given), torch.float64))
                    own, result = distance(fn(params, given), truth), run(params, given)
                    assert {leaf.device.type for leaf in tree.leaves(result)} == {device}
                    missed = distance(result, truth)
                    assert missed <= 4 * max(own, 2 * torch.finfo(torch.float32).eps), (network, name, missed, own)
                    facts[f"{network}, {name}, batch {len(given)}"] = {"error": missed, "error of eager": own}
    return facts


def memory(device: str, folder: Path) -> Facts:
    """Results are the session's own memory; arguments are left alone; nothing is kept from call to call."""
    run = export.jit(lambda x, y: (x @ y, x.sum()), device=device)
    x, y = (torch.randn(512, 512, generator=torch.Generator().manual_seed(i)).to(device) for i in range(2))
    before = x.clone()
    product, total = run(x, y)
    expected = product.clone()
    assert product.device == x.device
    assert product.data_ptr() not in (x.data_ptr(), y.data_ptr())
    product.add_(1)  # it is the caller's
    again, _ = run(x, y)
    torch.testing.assert_close(again, expected, rtol=0, atol=0)
    assert torch.equal(x, before)
    assert total.shape == ()
    if device == "cpu":
        return {"device": device}
    torch.cuda.synchronize()
    free, _ = torch.cuda.mem_get_info()
    for _ in range(200):
        run(x, y)
    torch.cuda.synchronize()
    left, _ = torch.cuda.mem_get_info()
    assert free - left < 32 * 2**20, f"{(free - left) / 2**20:.0f} MiB more after 200 calls"
    return {"bytes more after 200 calls": free - left}


def transfers(device: str, folder: Path) -> Facts:
    """A call copies nothing between host and GPU: neither arguments nor results, as CUDA's own trace shows."""
    fn, args = gradient("mlp", device)
    run = export.jit(fn, device=device)
    for _ in range(3):
        result = run(*args)
    assert {leaf.device.type for leaf in tree.leaves(result)} == {device}
    if device == "cpu":
        return {"device": device}
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        run(*args)
        torch.cuda.synchronize()
    on_device = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    crossing = [e.name for e in on_device if "Memcpy" in e.name and ("HtoD" in e.name or "DtoH" in e.name)]
    assert any("Memcpy" not in e.name and "Memset" not in e.name for e in on_device), "the trace shows no kernel"
    assert not crossing, crossing
    return {"events on the GPU": len(on_device), "copies between host and GPU": len(crossing)}


def replayed(device: str, folder: Path) -> Facts:
    """One CUDA graph gives what single launches give, call after call, in memory that is the caller's; no branches."""
    facts: Facts = {}
    with float32_products(False):
        for network in NETWORKS:
            for name, make in TRANSFORMS.items():
                fn, (params, x) = make(network, device)
                run = export.jit(fn, device=device, cuda_graph=True)
                assert run._replayed == (device == "cuda")
                run._replayed = True  # a CPU takes the same way, without the graph
                kept: list[tuple[Any, Any]] = []
                for scale in (1.0, 0.5, 2.0):
                    given = (scale * x).transpose(0, 1).contiguous().transpose(0, 1)  # not where the first one lay
                    truth = fn(*tree.cast((params, given), torch.float64))
                    own, result = distance(fn(params, given), truth), run(params, given)
                    missed = distance(result, truth)
                    assert missed <= 4 * max(own, 2 * torch.finfo(torch.float32).eps), (network, name, missed, own)
                    kept.append((result, truth))
                assert all(distance(result, truth) < 1e-2 for result, truth in kept), "a later call wrote there"
                assert [one.replayed for one in run.compilations()] == [True]
                facts[f"{network}, {name}"] = {"error": missed, "error of eager": own}
    block = nets.dynamic_net(16, 32, 8, mode="branch")
    params = placed(block.init(torch.Generator().manual_seed(0))[0], device)
    branching = export.jit(block, device=device, cuda_graph=True)
    branching._replayed = True
    try:
        branching(params, torch.ones(2, 16, device=device), {}, {"control": torch.tensor(0.9, device=device)})
    except UnsupportedOpError as refusal:
        return {**facts, "a branch": f"{refusal.op}: {refusal}"}
    raise AssertionError("a branch was taken into a CUDA graph")


def order(device: str, folder: Path) -> Facts:
    """What PyTorch has queued comes first, and results may be used and dropped at once."""
    run = export.jit(lambda x: x * 2 + 1, device=device)
    size = 1024 if device == "cuda" else 32
    x = torch.zeros(size, size, device=device)
    weight = torch.eye(size, device=device)
    kept = []
    for step in range(20):
        queued = x + step
        for _ in range(10):
            queued = queued @ weight  # still running when the call comes
        result = run(queued)
        kept.append(result * 3)  # queued on memory that the session may take back
        del result
    for step, value in enumerate(kept):
        assert torch.equal(value, torch.full_like(value, (2 * step + 1) * 3)), step
    return {"calls": len(kept)}


def kinds(device: str, folder: Path) -> Facts:
    """Every dtype, views, scalars and empty tensors; a tensor elsewhere is an error."""
    run = export.jit(lambda x: x[..., :1] * 1 if x.dtype != torch.bool else ~x, device=device)
    seen = []
    for dtype in (torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.bool):
        x = (torch.arange(24, device=device).reshape(4, 6) % 5).to(dtype)
        for given in (x, x.T, x[::2], x[:0]):
            expected = ~given if dtype == torch.bool else given[..., :1]
            assert torch.equal(run(given), expected), (dtype, given.shape)
        seen.append(str(dtype))
    elsewhere = torch.ones(4, 6, device="cpu" if device == "cuda" else "meta")
    try:
        run(elsewhere)
    except ArgumentError as refusal:
        return {"dtypes": seen, "elsewhere": str(refusal)}
    raise AssertionError("a tensor on another device was taken")


def network(device: str, folder: Path) -> Facts:
    """A whole ResNet-18 with its batch statistics, and its gradient."""
    block = nets.resnet18(num_classes=10)
    generator = torch.Generator().manual_seed(0)
    params, state = (placed(part, device) for part in block.init(generator))
    x = torch.randn(2, 3, 32, 32, generator=generator).to(device)
    facts = {"forward": judged((block, (params, x, state)), device)}
    loss = grad(lambda params, x, state: block(params, x, state).square().mean())
    facts["gradient"] = judged((loss, (params, x, state)), device)
    return facts


CHECKS: dict[str, Callable[[str, Path], Facts]] = {
    "predicted placement": predicted,
    **{f"verdict: {name}": verdicts(name) for name in TRANSFORMS},
    "TF32": tensor_float,
    "bfloat16": half(torch.bfloat16),
    "float16": half(torch.float16),
    "CUDA graph": replayed,
    "order": order,
    "compiled": compiled,
    "kinds": kinds,
    "placement": placement,
    "rounding scale": rounding_scale,
    "branches": branches,
    "memory": memory,
    "transfers": transfers,
    "ResNet-18": network,
}
"""What says most comes first: a machine may be lent for a few minutes."""


def main() -> None:
    """Run one check and write what it found."""
    name, device, path = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="pure-export-") as folder:
        facts = CHECKS[name](device, Path(folder))
    Path(path).write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
