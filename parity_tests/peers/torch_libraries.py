"""timm, Opacus, BackPACK and curvlinops beside ours, in float64."""

# Each library is imported where it is compared: no machine of the tests has all of them.

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import pure
from parity_tests.peers.comparison import compared, distance, inputs, network
from pure import flow

NAMES = {"0.weight": "fc1.weight", "0.bias": "fc1.bias", "2.weight": "fc2.weight", "2.bias": "fc2.bias"}
"""The leaves of `network`'s module and of its block."""

Case = tuple[pure.Block, Any, torch.nn.Sequential, Tensor, Tensor]


def case() -> Case:
    """Return a network as a block and a module, with seven samples and their classes."""
    return *network(), inputs(7, 4), torch.arange(7) % 3


def summed(block: pure.Block) -> Any:
    """Return the loss of one sample, as the per-sample measurements take it."""
    return lambda params, row, target: F.cross_entropy(block(params, row[None]), target[None], reduction="sum")


@compared("timm", "model.forward_features", 'pure.capture(block)[…]["norm"]', tolerance=1e-5)
def features_of_timm() -> float:
    """In float32, as timm makes its models."""
    import timm

    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=10).eval()
    block, weights, buffers = pure.interop.from_module(vit)
    image = torch.ones(1, 3, 32, 32)
    return distance(vit.forward_features(image), pure.capture(block)(weights, image, buffers)[1]["norm"])


@compared("opacus", "GradSampleModule, p.grad_sample", "flow.per_sample_gradients")
def gradients_of_opacus() -> float:
    from opacus import GradSampleModule

    block, params, module, x, y = case()
    wrapped = GradSampleModule(module, loss_reduction="sum")
    F.cross_entropy(wrapped(x), y, reduction="sum").backward()
    ours = flow.per_sample_gradients(summed(block), params, x, y)
    return max(distance(p.grad_sample, ours[NAMES[name]]) for name, p in module.named_parameters())


@compared("opacus", "ghost clipping, get_norm_sample()", "flow.per_sample_norms")
def norms_of_opacus() -> float:
    """The norm over all leaves."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    block, params, module, x, y = case()
    wrapped = GradSampleModuleFastGradientClipping(
        module, loss_reduction="sum", max_grad_norm=1.0, use_ghost_clipping=True
    )
    F.cross_entropy(wrapped(x), y, reduction="sum").backward()
    ours = flow.per_sample_norms(summed(block), params, x, y)
    return distance(wrapped.get_norm_sample(), torch.stack([ours[name] for name in NAMES.values()]).norm(dim=0))


def extended(extension: Any) -> tuple[Case, torch.nn.Sequential]:
    """Return the case, with the module after a backward pass of one of BackPACK's extensions."""
    from backpack import backpack, extend

    found = case()
    module, loss = extend(found[2]), extend(torch.nn.CrossEntropyLoss(reduction="sum"))
    with backpack(extension):
        loss(module(found[3]), found[4]).backward()
    return found, module


@compared("backpack-for-pytorch", "BatchGrad", "flow.per_sample_gradients", module="backpack")
def gradients_of_backpack() -> float:
    from backpack.extensions import BatchGrad

    (block, params, _, x, y), module = extended(BatchGrad())
    ours = flow.per_sample_gradients(summed(block), params, x, y)
    return max(distance(p.grad_batch, ours[NAMES[name]]) for name, p in module.named_parameters())


@compared("backpack-for-pytorch", "BatchL2Grad", "flow.per_sample_norms, squared", module="backpack")
def norms_of_backpack() -> float:
    from backpack.extensions import BatchL2Grad

    (block, params, _, x, y), module = extended(BatchL2Grad())
    ours = flow.per_sample_norms(summed(block), params, x, y)
    return max(distance(p.batch_l2, ours[NAMES[name]].square()) for name, p in module.named_parameters())


@compared("backpack-for-pytorch", "DiagGGNExact, summed", 'flow.curvature(kind="ggn").trace', module="backpack")
def trace_of_backpack() -> float:
    from backpack.extensions import DiagGGNExact

    (block, params, _, x, y), module = extended(DiagGGNExact())
    theirs = sum(float(p.diag_ggn_exact.sum()) for p in module.parameters())
    ours = flow.curvature(
        lambda out, x, y: F.cross_entropy(out, y, reduction="sum"),
        params,
        x,
        y,
        kind="ggn",
        model=lambda p, x, y: block(p, x),
        generator=torch.Generator().manual_seed(0),
    )
    return distance([theirs], [float(ours.trace)])


def operators() -> tuple[Case, Any, Any]:
    """Return the case, with curvlinops' Hessian and Gauss–Newton matrix of the mean loss."""
    from curvlinops import GGNLinearOperator, HessianLinearOperator

    found = case()
    arguments = found[2], torch.nn.CrossEntropyLoss(), list(found[2].parameters()), [(found[3], found[4])]
    return found, HessianLinearOperator(*arguments), GGNLinearOperator(*arguments)


def direction(module: torch.nn.Module, params: Any) -> tuple[Tensor, Any]:
    """Return one direction, as a vector in the module's order and as a tree of ours."""
    leaves = {name: inputs(*p.shape, seed=3 + place) for place, (name, p) in enumerate(module.named_parameters())}
    flat = torch.cat([leaf.flatten() for leaf in leaves.values()])
    return flat, pure.unflatten({NAMES[name]: leaf for name, leaf in leaves.items()})


def flat_product(product: Any) -> Tensor:
    """Return a tree of ours as a vector in the module's order."""
    leaves = pure.flatten(product)
    return torch.cat([leaves[name].flatten() for name in NAMES.values()])


@compared("curvlinops-for-pytorch", "HessianLinearOperator @ v", "flow.hvp", module="curvlinops")
def hessian_products_of_curvlinops() -> float:
    (block, params, module, x, y), hessian, _ = operators()
    flat, tree = direction(module, params)
    ours = flow.hvp(lambda p, x, y: F.cross_entropy(block(p, x), y), params, x, y)(tree)
    return distance(hessian @ flat, flat_product(ours))


@compared("curvlinops-for-pytorch", "GGNLinearOperator @ v", "flow.ggn_product", module="curvlinops")
def gauss_newton_products_of_curvlinops() -> float:
    (block, params, module, x, y), _, matrix = operators()
    flat, tree = direction(module, params)
    product = flow.ggn_product(lambda p, x, y: block(p, x), lambda out, x, y: F.cross_entropy(out, y), params, x, y)
    return distance(matrix @ flat, flat_product(product(tree)))


@compared(
    "curvlinops-for-pytorch", "the matrix, H @ torch.eye(n)", "flow.curvature(…).eigenvalues", module="curvlinops"
)
def eigenvalues_of_curvlinops() -> float:
    (block, params, _, x, y), hessian, _ = operators()
    theirs = torch.linalg.eigvalsh(hessian @ torch.eye(hessian.shape[0], dtype=x.dtype))
    ours = exact_curvature(block, params, x, y).eigenvalues
    largest = theirs[theirs.abs().argsort(descending=True)][: len(ours)]
    return distance(largest.sort().values, ours.sort().values)


@compared("curvlinops-for-pytorch", "hutchinson_trace", "flow.curvature(…).trace", module="curvlinops", tolerance=0.1)
def trace_of_curvlinops() -> float:
    """Theirs is an estimate, ours exact for so small a network: they differ by 4 standard errors of theirs at most."""
    from curvlinops import hutchinson_trace

    (block, params, _, x, y), hessian, _ = operators()
    torch.manual_seed(0)
    estimates = torch.stack([hutchinson_trace(hessian, hessian.shape[0] - 1) for _ in range(20)])
    ours = float(exact_curvature(block, params, x, y).trace)
    assert abs(float(estimates.mean()) - ours) < 4 * float(estimates.std()) / len(estimates) ** 0.5
    return distance([float(estimates.mean())], [ours])


def exact_curvature(block: pure.Block, params: Any, x: Tensor, y: Tensor) -> flow.Curvature:
    """Return the curvature of the mean loss; of so few parameters it is exact."""
    generator = torch.Generator().manual_seed(0)
    return flow.curvature(lambda p, x, y: F.cross_entropy(block(p, x), y), params, x, y, generator=generator)
