"""Modules with BatchNorm in training: new statistics, whole training steps and their files equal torch.optim's."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.func import grad, jvp, vmap

import export
import pure
from pure import interop, optim, tree


def sampled(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


NORMS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "1d": (nn.BatchNorm1d, (6, 4)),
    "1d of sequences": (nn.BatchNorm1d, (6, 4, 5)),
    "2d": (nn.BatchNorm2d, (3, 4, 5, 5)),
    "3d": (nn.BatchNorm3d, (3, 4, 2, 3, 2)),
}
BATCH = (None, None, {0: "batch"})


def normed(name: str, momentum: float | None = 0.3) -> tuple[nn.Module, Tensor]:
    """A norm that has seen two batches, with weights of its own, and an input."""
    kind, shape = NORMS[name]
    module = kind(4, momentum=momentum).train()
    nn.init.uniform_(module.weight, 0.5, 2.0)
    nn.init.normal_(module.bias)
    for seed in (1, 2):
        module(2 + 3 * sampled(*shape, seed=seed))
    return module, sampled(*shape)


@pytest.mark.parametrize("momentum", [0.3, None, 0.0])
@pytest.mark.parametrize("name", NORMS)
def test_the_new_statistics_are_the_module_s_and_in_the_file(name: str, momentum: float | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = normed(name, momentum)
    block, params, state = interop.from_module(module)
    before = pure.flatten(tree.tree_map(torch.clone, state))

    def run(params: Any, state: Any, x: Tensor) -> Any:
        return block.apply(params, x, state, {}, True)

    y, new = run(params, state, x)
    torch.testing.assert_close(y, module(x).detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(pure.flatten(new), dict(module.named_buffers()), rtol=1e-6, atol=1e-6)
    assert all(torch.equal(leaf, before[key]) for key, leaf in pure.flatten(state).items())
    verdict = export.verify(run, (params, state, x), dynamic=BATCH)
    assert verdict.passed, verdict.table()
    path = tmp_path / "norm.onnx"
    export.to_onnx(run, (params, state, x), path, dynamic=BATCH)
    found_y, found = export.load(path, device="cpu")(params, state, x)
    torch.testing.assert_close(found_y, y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pure.flatten(found), pure.flatten(new), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.3, None])
def test_an_ensemble_shares_its_first_statistics(momentum: float | None) -> None:
    torch.manual_seed(0)
    module, x = normed("2d", momentum)
    net = nn.Sequential(nn.Conv2d(4, 4, 1), module)
    block, params, state = interop.from_module(net.train())
    each = [params, tree.tree_map(lambda leaf: 2 * leaf, params)]
    y, new = vmap(lambda p: block.apply(p, x, state, {}, True))(pure.stack(each))
    for index, one in enumerate(each):
        expected_y, expected = block.apply(one, x, state, {}, True)
        torch.testing.assert_close(y[index], expected_y, rtol=1e-5, atol=1e-5)
        for key, leaf in pure.flatten(new).items():
            torch.testing.assert_close(leaf[index], pure.flatten(expected)[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dynamic", [None, BATCH], ids=["static", "dynamic"])
def test_forward_mode_below_another_derivative_is_right_and_keeps_the_statistics(dynamic: Any, tmp_path: Path) -> None:
    """PyTorch's own grad of jvp through batch statistics is wrong without a word; so the reference is plain code."""
    torch.manual_seed(0)
    module = normed("2d")[0].double()
    block, params, state = interop.from_module(module)
    x, dx, weights = (sampled(3, 4, 5, 5, seed=seed, dtype=torch.float64) for seed in range(3))

    def plain(params: Any, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
        y = (x - mean) * (variance + module.eps).rsqrt()
        return y * params["weight"].view(1, -1, 1, 1) + params["bias"].view(1, -1, 1, 1)

    def by_block(params: Any, x: Tensor) -> Tensor:
        return block.apply(params, x, state, {}, True)[0]

    def twice(fn: Callable[..., Tensor]) -> Callable[..., Any]:
        return lambda params, x: grad(lambda x: (jvp(lambda x: fn(params, x), (x,), (dx,))[1] * weights).sum())(x)

    def nested(fn: Callable[..., Tensor]) -> Callable[..., Any]:
        inner = lambda params, x: jvp(lambda x: fn(params, x), (x,), (dx,))[1]  # noqa: E731
        return lambda params, x: jvp(lambda x: inner(params, x), (x,), (dx,))[1]

    for transform in (twice, nested):
        torch.testing.assert_close(transform(by_block)(params, x), transform(plain)(params, x), rtol=1e-9, atol=1e-9)

    def with_state(params: Any, state: Any, x: Tensor) -> Any:
        return jvp(lambda x: block.apply(params, x, state, {}, True), (x,), (x,), has_aux=True)

    single = tree.tree_map(lambda leaf: leaf.float() if leaf.is_floating_point() else leaf, (params, state, x))
    path = tmp_path / "tangent.onnx"
    export.to_onnx(with_state, single, path, dynamic=dynamic)
    new = pure.flatten(block.apply(params, x, state, {}, True)[1])
    for found in (with_state(*single)[2], export.load(path, device="cpu")(*single)[2]):
        for key, leaf in pure.flatten(found).items():
            torch.testing.assert_close(leaf.to(new[key].dtype), new[key], rtol=1e-5, atol=1e-5)


def step_of(block: Any, optimizer: optim.GradientTransformation) -> Callable[..., Any]:
    def step(params: Any, state: Any, opt_state: Any, images: Tensor, labels: Tensor) -> dict[str, Any]:
        def loss(params: Any) -> tuple[Tensor, Any]:
            y, new = block.apply(params, images, state, {}, True)
            return F.cross_entropy(y, labels), new

        (value, new), gradient = pure.value_and_grad(loss, has_aux=True)(params)
        params, opt_state = optimizer.step(gradient, opt_state, params)
        return {"params": params, "state": new, "opt_state": opt_state, "loss": value}

    return step


def small_net() -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, momentum=None)]
    return nn.Sequential(*layers, nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


OPTIMIZERS: dict[str, tuple[Callable[[], optim.GradientTransformation], Callable[[Any], torch.optim.Optimizer]]] = {
    "sgd": (
        lambda: optim.sgd(0.05, momentum=0.9, weight_decay=1e-4),
        lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=1e-4),
    ),
    "adamw": (
        lambda: optim.adamw(1e-2, weight_decay=1e-2),
        lambda parameters: torch.optim.AdamW(parameters, 1e-2, weight_decay=1e-2),
    ),
}
NETS: dict[str, Callable[[], nn.Module]] = {
    "small": small_net,
    "resnet18": lambda: torchvision.models.resnet18(num_classes=5),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("net", ["small", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_whole_training_steps_equal_those_of_torch_optim_and_are_files(
    net: str, optimizer: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = NETS[net]().double().train()
    block, params, state = interop.from_module(copy.deepcopy(module))
    ours, theirs = OPTIMIZERS[optimizer]
    chosen, peer = ours(), theirs(module.parameters())
    images, labels = sampled(4, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 3, 1, 3])
    step = step_of(block, chosen)
    trees: tuple[Any, ...] = (params, state, chosen.init(params))
    for _ in range(2):
        peer.zero_grad()
        expected = F.cross_entropy(module(images), labels)
        expected.backward()
        peer.step()
        out = step(*trees, images, labels)
        trees = out["params"], out["state"], out["opt_state"]
        torch.testing.assert_close(out["loss"], expected.detach(), rtol=1e-9, atol=0)
        found = {**pure.flatten(out["params"]), **pure.flatten(out["state"])}
        torch.testing.assert_close(found, dict(module.state_dict()), rtol=1e-6, atol=1e-8)

    # The file is judged from where these steps end: AdamW's first is lr · sign(gradient), which rounding decides.
    args = (*(pure.cast(each, torch.float32) for each in trees), images.float(), labels)
    path = tmp_path / "step.onnx"
    export.to_onnx(step, args, path)
    verdict = export.verify(step, args, path)
    assert verdict.passed, verdict.table()
    ran = export.load(path, device="cpu")(*args)
    counters = [leaf for key, leaf in pure.flatten(ran["state"]).items() if key.endswith("num_batches_tracked")]
    assert counters
    assert all(int(leaf) == 3 for leaf in counters)


def test_a_block_of_a_module_with_buffers_is_judged_against_the_module() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(4, 4, 1), normed("2d")[0]).eval()
    block, params, state = interop.from_module(module)
    args = params, sampled(3, 4, 5, 5), state
    assert export.verify(block, args, against=module).passed
    with torch.no_grad():
        module[1].running_var.mul_(1.1)
    assert not export.verify(block, args, against=module).passed
