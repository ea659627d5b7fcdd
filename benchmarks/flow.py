"""Gradient flow against its peers: per-sample norms, Hessian products, tangent kernels, path spectra, the audit.

Ratios are to the first contender of each comparison: one gradient of the same batch, or the tutorials' way. Peers are
skipped where they are not installed (`pip install pure-export[peers]`), and the notes say so.
"""

import dataclasses
import importlib.util
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

import pure
from benchmarks.harness import QUICK, Budget, Comparison, Contender, Measurement, measure
from pure import Block, Repeat, Sequential, flow, nets, tree

NAME = "flow"
SLOW = Budget(rounds=25, sample_seconds=0.0, warm_up_seconds=0.0, warm_up_calls=2)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A network, one sample's loss and the whole batch's, which is the sum over the samples."""

    name: str
    params: Any
    batch: tuple[Tensor, ...]
    one: Callable[..., Tensor]
    whole: Callable[..., Tensor]
    module: nn.Module | None = None
    loss_of_output: Callable[..., Tensor] | None = None

    def gradient(self) -> list[Tensor]:
        """One gradient of the batch's loss by every parameter, by autograd alone."""
        leaves, spec = tree.tree_flatten(self.params)
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        return list(torch.autograd.grad(self.whole(tree.tree_unflatten(leaves, spec), *self.batch), leaves))


def square(y: Tensor) -> Tensor:
    """A loss of the output alone."""
    return y.square().sum()


def cross_entropy(y: Tensor, target: Tensor) -> Tensor:
    """The classifiers' loss, summed."""
    return F.cross_entropy(y, target, reduction="sum")


def problem(name: str, block: Block, batch: tuple[Tensor, ...], loss: Callable[..., Tensor], peer: bool) -> Problem:
    """A problem of a block in evaluation."""
    params, state = block.init(torch.Generator().manual_seed(0))
    return Problem(
        name,
        params,
        batch,
        lambda p, x, *target: loss(block(p, x[None], state), *(t[None] for t in target)),
        lambda p, x, *target: loss(block(p, x, state), *target),
        as_module(block, params, batch[0]) if peer else None,
        loss,
    )


def as_module(block: Block, params: Any, x: Tensor) -> nn.Module:
    """The same network of plain `torch.nn` layers, which the peers hook into."""
    module: nn.Module
    if isinstance(block, Sequential) and "conv1" in block.children():
        import torchvision

        module = torchvision.models.resnet18(num_classes=10, norm_layer=lambda width: nn.GroupNorm(32, width))
        module.conv1, module.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
        for part in module.modules():
            if isinstance(part, nn.ReLU):
                part.inplace = False
            if isinstance(part, torchvision.models.resnet.BasicBlock):
                part.forward = basic_forward.__get__(part)  # torchvision's `out += x` is refused by hooks
    else:
        module = nn.Sequential(*(Skip(x.shape[1]) for _ in range(16)))
    named = dict(zip(dict(module.named_parameters()), tree.leaves(params), strict=True))
    with torch.no_grad():
        torch.testing.assert_close(functional_call(module, named, (x,)), block(params, x), rtol=1e-4, atol=1e-4)
        for name, parameter in module.named_parameters():
            parameter.copy_(named[name])
    return module


def basic_forward(self: Any, x: Tensor) -> Tensor:
    """The basic block, out of place."""
    out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
    return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Skip(nn.Module):
    """x + fc2(relu(fc1(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        return x + self.fc2(torch.relu(self.fc1(x)))


def group_normed(block: Block) -> Block:
    """The same network with GroupNorm in the place of BatchNorm, whose per-sample gradients do not exist."""
    if isinstance(block, pure.BatchNorm):
        return pure.GroupNorm(32, block.channels)
    if type(block) is Sequential or isinstance(block, pure.Project):
        return Sequential(**{name: group_normed(child) for name, child in block.children().items()})
    children = {entry.name: getattr(block, entry.name) for entry in dataclasses.fields(block)}
    changed = {name: group_normed(child) for name, child in children.items() if isinstance(child, Block)}
    return dataclasses.replace(block, **changed) if changed else block


def residual_mlp(peer: bool = True) -> Problem:
    """16 residual blocks of width 512, 128 samples."""
    x = torch.randn(128, 512, generator=torch.Generator().manual_seed(1))
    return problem("residual MLP 16×512, batch 128", nets.residual_mlp(512, 512, 16), (x,), square, peer)


def resnet18(peer: bool = True) -> Problem:
    """ResNet-18 with GroupNorm for 32×32 images, 16 samples."""
    generator = torch.Generator().manual_seed(1)
    x, target = torch.randn(16, 3, 32, 32, generator=generator), torch.randint(0, 10, (16,), generator=generator)
    block = group_normed(nets.resnet18(num_classes=10, stem="3x3"))
    return problem("ResNet-18 with GroupNorm, 16×3×32×32", block, (x, target), cross_entropy, peer)


def resnet18_evaluated() -> Problem:
    """ResNet-18 in evaluation; PyTorch has no forward derivative of GroupNorm's backward, which peers need."""
    generator = torch.Generator().manual_seed(1)
    x, target = torch.randn(16, 3, 64, 64, generator=generator), torch.randint(0, 10, (16,), generator=generator)
    return problem("ResNet-18, 16×3×64×64", nets.resnet18(num_classes=10), (x, target), cross_entropy, peer=False)


def gpt() -> Problem:
    """A small GPT-2: 4 blocks of width 128, 8 sequences of 64 tokens."""
    tokens = torch.randint(0, 512, (8, 64), generator=torch.Generator().manual_seed(1))

    def loss(y: Tensor, tokens: Tensor) -> Tensor:
        return F.cross_entropy(y[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")

    block = nets.gpt2(vocab_size=512, positions=64, features=128, depth=4, heads=4)
    return problem("GPT-2, 4 blocks of width 128, 8×64 tokens", block, (tokens, tokens), loss, peer=False)


def norms_agree(expected: Any, given: Any) -> None:
    """Raise where two ways find other norms."""
    torch.testing.assert_close(given[0].double(), expected[0].double(), rtol=1e-3, atol=1e-6)


def per_sample(task: Problem, budget: Budget, mapped: bool) -> Measurement:
    """Norms of each sample's gradient."""
    leaves, spec = tree.tree_flatten(task.params)

    def loop() -> list[Tensor]:
        own = [leaf.detach().requires_grad_() for leaf in leaves]
        params = tree.tree_unflatten(own, spec)
        rows = []
        for sample in zip(*task.batch, strict=True):
            found = torch.autograd.grad(task.one(params, *sample), own)
            rows.append(torch.stack([gradient.norm() for gradient in found]).norm())
        return [torch.stack(rows)]

    def by_vmap() -> list[Tensor]:
        found = tree.leaves(vmap(grad(task.one), (None, *(0 for _ in task.batch)))(task.params, *task.batch))
        return [torch.stack([gradient.flatten(1).norm(dim=1) for gradient in found]).norm(dim=0)]

    contenders = [
        Contender("one gradient of the batch", task.gradient),
        Contender("flow.per_sample_norms", lambda: [flow.per_sample_norms(task.one, task.params, *task.batch).total]),
        Contender("a loop over the samples", loop),
    ]
    notes: dict[str, Any] = {}
    opacus = opacus_ghost(task)
    if opacus is None:
        notes["left out"] = "Opacus, which is not installed"
    else:
        contenders.insert(2, Contender("Opacus ghost norms", opacus))
    if mapped:
        contenders.append(Contender("vmap(grad)", by_vmap))
    reference = loop()
    for contender in contenders[1:]:
        norms_agree(reference, contender.call())
    return measure(Comparison(f"per-sample norms: {task.name}", tuple(contenders), lambda *_: None, notes), budget)


def opacus_ghost(task: Problem) -> Callable[[], list[Tensor]] | None:
    """Opacus' ghost clipping, up to the norms; None where it is not installed."""
    if task.module is None or importlib.util.find_spec("opacus") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.grad_sample import GradSampleModuleFastGradientClipping

    hooked = GradSampleModuleFastGradientClipping(
        task.module, use_ghost_clipping=True, max_grad_norm=1.0, loss_reduction="sum"
    )
    loss = task.loss_of_output or square

    def norms() -> list[Tensor]:
        hooked.zero_grad()
        loss(hooked(task.batch[0]), *task.batch[1:]).backward()
        return [hooked.get_norm_sample()]

    return norms


def memory(which: str, work: str) -> float:
    """Peak of what PyTorch's allocator holds in MiB, beyond the parameters and the batch, in a process of its own."""
    code = f"from benchmarks.flow import allocated; print(allocated({which!r}, {work!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def allocated(which: str, work: str) -> float:
    """Run once, then once more under the profiler, and follow what is allocated."""
    task = {"mlp": residual_mlp, "resnet18": resnet18}[which](peer=False)
    call = {
        "gradient": task.gradient,
        "norms": lambda: flow.per_sample_norms(task.one, task.params, *task.batch),
    }[work]
    call()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        result = call()
    del result
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


def hessian_products(task: Problem, budget: Budget) -> Measurement:
    """One product from nothing, and a further one."""
    leaves, spec = tree.tree_flatten(task.params)
    generator = torch.Generator().manual_seed(2)
    direction = tree.tree_unflatten([torch.randn(leaf.shape, generator=generator) for leaf in leaves], spec)
    kept = flow.hvp(task.whole, task.params, *task.batch)

    def forward_over_reverse() -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return torch.func.jvp(lambda p: torch.func.grad(task.whole)(p, *task.batch), (task.params,), (direction,))[
                1
            ]

    contenders = [
        Contender("one gradient", task.gradient),
        Contender("flow.hvp, from nothing", lambda: flow.hvp(task.whole, task.params, *task.batch)(direction)),
        Contender("flow.hvp, each further one", lambda: kept(direction)),
        Contender("torch.func.jvp of grad", forward_over_reverse),
    ]
    notes: dict[str, Any] = {"floor of matrix products, in gradients": 8 / 3, "floor of a further one": 2.0}
    expected = tree.leaves(forward_over_reverse())
    for contender in contenders[1:3]:
        for one, other in zip(tree.leaves(contender.call()), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=2e-2, atol=1e-3 * float(other.abs().max()) + 1e-7)
    peer = curvlinops_product(task, direction)
    if peer is None:
        notes["left out"] = "curvlinops, which is not installed"
    else:
        contenders.append(Contender("curvlinops HessianLinearOperator", peer))
    return measure(Comparison(f"Hessian product: {task.name}", tuple(contenders), lambda *_: None, notes), budget)


def curvlinops_product(task: Problem, direction: Any) -> Callable[[], Any] | None:
    """curvlinops' Hessian of the same function; None where it is not installed."""
    if importlib.util.find_spec("curvlinops") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from curvlinops import HessianLinearOperator

    flat = tree.flatten(task.params)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.ParameterList([leaf.clone() for leaf in flat.values()])

        def forward(self, x: Tensor) -> Tensor:
            params = tree.tree_unflatten(list(self.own), tree.tree_flatten(task.params)[1])
            return task.whole(params, x, *task.batch[1:])[None]

    module = Whole()
    parameters = list(module.parameters())
    data = [(task.batch[0], torch.zeros(1))]

    vector = torch.cat([leaf.flatten() for leaf in tree.leaves(direction)])
    operator = HessianLinearOperator(module, Total(), parameters, data, check_deterministic=False)

    def product() -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return operator @ vector

    return product


class Total(nn.Module):
    """A loss that is the network's own output."""

    reduction = "sum"

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """The output's sum."""
        return output.sum()


def tangent_kernel(budget: Budget, width: int = 512, depth: int = 3, count: int = 32) -> Measurement:
    """The kernel of a fully connected network with 10 outputs, against contracted Jacobians."""
    layers: dict[str, Block] = {}
    size = 256
    for index in range(depth):
        layers |= {f"fc{index}": pure.Linear(size, width), f"act{index}": pure.Activation("relu")}
        size = width
    block = Sequential(**layers, out=pure.Linear(size, 10))
    params, _ = block.init(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    x1, x2 = (torch.randn(count, 256, generator=generator) for _ in range(2))

    def contraction() -> Tensor:
        jacobian = vmap(jacrev(lambda p, x: block(p, x[None])[0]), (None, 0))
        pairs = zip(tree.leaves(jacobian(params, x1)), tree.leaves(jacobian(params, x2)), strict=True)
        return torch.stack([torch.einsum("Naf,Mbf->NMab", a.flatten(2), b.flatten(2)) for a, b in pairs]).sum(0)

    contenders = (
        Contender("contracted Jacobians", contraction),
        Contender("flow.ntk", lambda: flow.ntk(block, params, x1, x2, outputs="full").kernel),
    )
    name = f"tangent kernel: {depth} hidden layers of width {width}, 10 outputs, {count}×{count} inputs"

    def agree(expected: Any, given: Any) -> None:
        torch.testing.assert_close(given, expected.double(), rtol=1e-3, atol=1e-4 * float(expected.abs().max()))

    return measure(Comparison(name, contenders, agree), budget)


def once(name: str, quick: bool) -> Measurement:
    """A long run in a process of its own: seconds, and the largest resident memory."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.flow", name, *["--quick"] * quick],
        capture_output=True,
        text=True,
        check=True,
    )
    notes = json.loads(done.stdout.strip().splitlines()[-1])
    return Measurement(notes.pop("name"), notes, ())


def path_spectrum(quick: bool) -> dict[str, Any]:
    """The path spectrum of a deep chain; the second of two runs counts, as the first also loads the library."""
    depth, orders = (50, 5) if quick else (1000, 40)
    block = Repeat(nets.residual_mlp_block(64, 64, scale=depth**-0.5), depth)
    params, _ = block.init(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    x, v = torch.randn(1, 64, generator=generator), torch.randn(1, 64, generator=generator)
    seconds = []
    for _ in range(2 if quick else 6):
        start = time.perf_counter()
        found = flow.path_spectrum(block, params, x, v, orders=orders)
        seconds.append(time.perf_counter() - start)
    return {
        "name": f"path spectrum: {depth:,} blocks of width 64, {orders} orders",
        "seconds, median": sorted(seconds[1:])[len(seconds[1:]) // 2],
        "seconds": seconds[1:],
        "components": len(found.components),
    }


def audit(quick: bool) -> dict[str, Any]:
    """The whole audit of a very deep chain."""
    depth = 100 if quick else 10_000
    block = Repeat(nets.residual_mlp_block(64, 64, scale=depth**-0.5), depth)
    params, _ = block.init(torch.Generator().manual_seed(0))
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    start = time.perf_counter()
    found = flow.audit(block, params, x, generator=torch.Generator().manual_seed(2))
    return {
        "name": f"audit: {depth:,} blocks of width 64, batch 16",
        "seconds": time.perf_counter() - start,
        "peak resident memory of the process, MiB": peak_mib(),
        "blocks seen": len(found.blocks),
    }


def peak_mib() -> float:
    """Peak resident memory of this process, MiB.

    `ru_maxrss` alone would not do: it outlives exec, so that a child begins with its parent's peak.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")]
    in_mib = 2**20 if sys.platform == "darwin" else 2**10
    return found[0] if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / in_mib


def measurements(quick: bool = False) -> Iterator[Measurement]:
    """Every comparison."""
    budget = QUICK if quick else SLOW
    yield per_sample(residual_mlp(), budget, mapped=False)
    if not quick:
        yield per_sample(resnet18(), budget, mapped=True)
        for which in ("mlp", "resnet18"):
            peaks = {work: memory(which, work) for work in ("gradient", "norms")}
            notes = {f"peak of {work}, MiB": peak for work, peak in peaks.items()}
            yield Measurement(f"memory: {which}", {**notes, "ratio": peaks["norms"] / peaks["gradient"]}, ())
        yield hessian_products(resnet18_evaluated(), budget)
        yield hessian_products(gpt(), budget)
    yield hessian_products(residual_mlp(peer=False), budget)
    yield tangent_kernel(budget, *((64, 2, 4) if quick else ()))
    yield once("path_spectrum", quick)
    yield once("audit", quick)


def main(arguments: Sequence[str]) -> None:
    """Run one long case in this process and print what it took."""
    print(json.dumps({"path_spectrum": path_spectrum, "audit": audit}[arguments[0]]("--quick" in arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
