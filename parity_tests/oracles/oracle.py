"""An independent implementation of a catalogue row, and the comparison with it in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pure import tree
from pure.block import Block

Flat = dict[str, Tensor]


@dataclass(frozen=True)
class Oracle:
    """An `nn.Module` that computes what a row computes.

    Attributes:
        make: returns the module, from an installed library or written from the formula with plain tensors.
        names: {our dotted name or prefix: the module's}; what is not named keeps its name. A function maps the whole
            flat tree instead; it must be linear in the values, because gradients go through it too.
        call: `call(module, x, extras, noise)`; `module(x)` if not given. In training `noise` is what the block got, so
            that the module's random parts can be replaced by the same masks.
        unused: the module's own names (or prefixes) that the row has no counterpart of, such as constant masks.
        tolerance: of the relative difference.
    """

    make: Callable[[], nn.Module]
    names: Mapping[str, str] | Callable[[Flat], Flat] = field(default_factory=dict)
    call: Callable[[nn.Module, Any, Mapping[str, Any], Any], Any] | None = None
    unused: tuple[str, ...] = ()
    tolerance: float = 1e-10

    def translate(self, flat: Flat) -> Flat:
        """Return our leaves under the module's names."""
        if callable(self.names):
            return self.names(flat)
        renamed = {}
        for name, leaf in flat.items():
            prefix = max((p for p in self.names if name == p or name.startswith(p + ".")), key=len, default=None)
            renamed[name if prefix is None else (self.names[prefix] + name[len(prefix) :]).lstrip(".")] = leaf
        return renamed

    def run(self, module: nn.Module, x: Any, extras: Mapping[str, Any], noise: Any) -> Any:
        """Return the module's output."""
        return module(x) if self.call is None else self.call(module, x, extras, noise)


def relative(ours: Flat, theirs: Flat) -> dict[str, float]:
    """Return each leaf's ‖a − b‖ / ‖b‖; a leaf whose norm is rounding beside the largest one is held against that."""
    assert sorted(ours) == sorted(theirs), sorted(set(ours) ^ set(theirs))
    norms = {name: float(leaf.double().norm()) for name, leaf in theirs.items()}
    floor = 1e-6 * max(norms.values(), default=0.0)
    found = {}
    for name, leaf in theirs.items():
        assert ours[name].shape == leaf.shape, (name, ours[name].shape, leaf.shape)
        distance = float((ours[name].double() - leaf.double()).norm())
        found[name] = distance / max(norms[name], floor) if distance else 0.0
    return found


def shifted(trees: Any, seed: int, amount: float = 0.2) -> Any:
    """Return trees whose float leaves have random values added, so that no default gain or statistic hides a swap."""
    generator = torch.Generator().manual_seed(seed)

    def shift(leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            return leaf + 3
        return leaf + amount * torch.rand(leaf.shape, generator=generator, dtype=leaf.dtype)

    return tree.tree_map(shift, trees)


def install(module: nn.Module, leaves: Flat, unused: tuple[str, ...] = ()) -> None:
    """Put leaves into a module's parameters and buffers; every one of either side must have its counterpart."""
    given = module.load_state_dict({name: leaf.detach().clone() for name, leaf in leaves.items()}, strict=False)
    missing = [name for name in given.missing_keys if not name.startswith(unused)] if unused else given.missing_keys
    assert not missing, f"the oracle has leaves that the row does not give: {missing}"
    assert not given.unexpected_keys, f"the row has leaves that the oracle does not know: {given.unexpected_keys}"


def gradient(leaf: Tensor) -> Tensor:
    """Return the gradient, zeros where none came back."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def differences(
    oracle: Oracle,
    module: nn.Module,
    block: Block,
    params: Any,
    state: Any,
    x: Any,
    extras: Mapping[str, Any],
    *,
    training: bool,
    seed: int = 0,
) -> dict[str, float]:
    """Return the relative differences of output, gradients (parameters and input) and new state, by name.

    The module's parameters and buffers are replaced by the row's; all of it is float64.
    """
    install(module, oracle.translate({**tree.flatten(params), **tree.flatten(state)}), oracle.unused)
    module.train(training)
    noise = block.noise(tuple(x.shape), torch.Generator().manual_seed(seed), dtype=torch.float64) if training else None
    ours_x = x.clone().requires_grad_(x.is_floating_point())
    theirs_x = x.clone().requires_grad_(x.is_floating_point())
    leaves, spec = tree.tree_flatten(params)
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    params = tree.tree_unflatten(leaves, spec)
    y, new_state = block.apply(params, ours_x, state, extras, training, noise)
    assert sorted(tree.flatten(new_state)) == sorted(tree.flatten(state)), "the new state has other leaves than the old"
    expected = oracle.run(module, theirs_x, extras, noise)
    assert y.dtype == expected.dtype == torch.float64
    found = {"output": relative({"y": y.detach()}, {"y": expected.detach()})["y"]}
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=y.dtype)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    ours = {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in tree.flatten(params).items()
    }
    theirs = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in module.named_parameters()}
    theirs = {name: grad for name, grad in theirs.items() if not (oracle.unused and name.startswith(oracle.unused))}
    found |= {f"grad {name}": value for name, value in relative(oracle.translate(ours), theirs).items()}
    if x.is_floating_point():
        found["grad input"] = relative({"x": ours_x.grad}, {"x": theirs_x.grad})["x"]
    if training:
        buffers = dict(module.named_buffers())
        ours = {name: leaf.detach() for name, leaf in oracle.translate(tree.flatten(new_state)).items()}
        found |= {f"state {n}": v for n, v in relative(ours, {name: buffers[name] for name in ours}).items()}
    return found


def assert_equal(oracle: Oracle, found: Mapping[str, float]) -> None:
    """Fail with every difference above the tolerance."""
    wrong = {name: value for name, value in found.items() if not value <= oracle.tolerance}
    assert not wrong, wrong
