"""Conversion of blocks to `torch.nn.Module` and of any `torch.nn.Module` to a block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pure import tree
from pure.block import EMPTY, Applied, Block, Extras, Params, Shape, State, check_params
from pure.errors import ArgumentError, TreeError, UnsupportedError
from pure.initializers import Device, check_generator, placed
from pure.interop.call_errors import CAUGHT, explain_call, is_typed
from pure.interop.pure_call import PureCall
from pure.interop.result_kinds import register_kinds
from pure.interop.tagging.tagged_call import tagged_call
from pure.tags import WATCHERS
from pure.tree import Tree

__all__ = ["BlockModule", "ModuleBlock", "from_module", "to_module"]


class _Node(nn.Module):
    """One level of a tree: leaves are parameters or buffers, dicts are submodules."""

    def adopt(self, name: str, leaf: Tensor, *, trainable: bool) -> None:
        """Register a leaf under a dotted name, with the levels above it."""
        head, _, rest = name.partition(".")
        if rest:
            if head not in self._modules:
                self._register(head, _Node())
            child = self._modules[head]
            assert isinstance(child, _Node)
            child.adopt(rest, leaf, trainable=trainable)
        else:
            self._register(head, nn.Parameter(leaf) if trainable else leaf)

    def _register(self, name: str, value: nn.Module | nn.Parameter | Tensor) -> None:
        if name not in self._modules and hasattr(self, name):
            raise TreeError(f"{name!r} is taken by torch.nn.Module: give the leaf or child another name")
        if isinstance(value, nn.Module):
            self.add_module(name, value)
        elif isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
        else:
            self.register_buffer(name, value)


class BlockModule(_Node):
    """A block as a module that holds its parameters and state.

    Calls are `module(x)`, `module(x, extras)` or `module(x, extras, noise)`.

    In training mode a call draws noise from `generator`, where the block needs some and the caller passes none, and
    writes the new state into the buffers.
    """

    def __init__(self, block: Block, params: Params, state: State, generator: torch.Generator | None = None) -> None:
        super().__init__()
        check_params(block, params, state)
        self.block = block
        self.generator = generator
        for name, leaf in tree.flatten(params).items():
            self.adopt(name, leaf.detach().clone(), trainable=True)
        for name, leaf in tree.flatten(state).items():
            self.adopt(name, leaf.detach().clone(), trainable=False)

    def trees(self) -> tuple[Params, State]:
        """Return the parameters and the state as trees; the leaves are the module's own tensors."""
        flat = dict(self.named_parameters(remove_duplicate=False))
        return tree.unflatten(flat), tree.unflatten(dict(self.named_buffers()))

    def forward(self, x: Any, extras: Extras = EMPTY, noise: Any = None) -> Any:
        """Return the block's output; in training the buffers then hold the new state."""
        params, state = self.trees()
        if not self.training:
            return self.block(params, x, state, extras)
        if noise is None and self.generator is not None and self.block.stochastic:
            floats = (leaf.dtype for leaf in (x, *self.parameters()) if leaf.is_floating_point())
            dtype = next(floats, torch.float32)  # an input of token indices says nothing about the noise
            noise = self.block.noise(tuple(x.shape), self.generator, dtype=dtype, device=x.device)
        y, new_state = self.block.apply(params, x, state, extras, True, noise)
        new = tree.flatten(new_state)
        with torch.no_grad():
            for name, buffer in self.named_buffers():
                if name in new:
                    buffer.copy_(new[name])
        return y

    def extra_repr(self) -> str:
        """Return the block as text."""
        return repr(self.block)


def to_module(
    block: Block, params: Params, state: State = EMPTY, *, generator: torch.Generator | None = None
) -> BlockModule:
    """Return a real `torch.nn.Module` that computes the block and holds copies of its trees.

    Its `state_dict` has the dotted names of `pure.flatten(params)` and `pure.flatten(state)`.

    Args:
        block: any block.
        params: its parameters; copied.
        state: its state; copied.
        generator: source of the noise of stochastic blocks in training; without one, pass noise at each call.

    Raises:
        TreeError: trees that do not fit the block, all differences listed, or a name that `nn.Module` itself uses.

    Example:
        >>> from pure.layers import Linear
        >>> block = Linear(3, 2)
        >>> module = to_module(block, *block.init(torch.Generator().manual_seed(0)))
        >>> list(module.state_dict())
        ['weight', 'bias']
    """
    return BlockModule(block, params, state, generator)


@dataclass(frozen=True, eq=False)
class ModuleBlock(Block):
    """An nn.Module seen as a block; `from_module` makes it.

    `extras` are handed to the module's forward as keyword arguments; an `x` that is a tuple as several positional
    ones. Buffers are the state: they are copied before the module may write to them, and returned as the new state.
    Random draws of any kind in forward (a dropout, an attention's, an LSTM's, a stochastic depth, a `torch.rand`) are
    computed from the noise, one seed a sample, and never from PyTorch's generators: the same noise gives the same
    value, eagerly, under transforms and in a file; `torch.compile` breaks its graph there. They are not the numbers
    that the module itself would draw from a seeded generator. A module that draws in evaluation takes its noise there.

    Every call starts from the module as it was given: what its forward keeps in attributes, or writes to parameters,
    lasts until the call's end, as do buffers that it makes and that the state does not hold; one that later calls would
    build on, as a counter or a statistic of the first batch, is an error. It computes what it computes under autograd
    (`torch.is_grad_enabled()` is True), on the plain kernels and without activation checkpoints, whatever transform or
    grad mode it is called in. Under transforms and in files, LSTM, GRU and RNN are computed step by step (files hold
    one `Scan`, for any length), attention by its definition; packed sequences are refused there. Each of vmap's samples
    has buffers of its own where forward writes to them. Inputs and results are any pytrees: dataclasses and the key-
    value caches of transformers are registered as such when a module first returns one.

    Tags: each submodule's output (the first tensor of it) under its dotted path, with the kind "output"; of a residual
    sum, as x + f(x), its "branch" and its "stream", under the name of the submodule around it, or around the branch
    where there are several: "blocks.0.attn.branch", "layer1.0.stream". Sums are found in a record of the call: one
    whose one operand was computed from what the other is, or is a shortcut of (pooled, projected by one map, or both),
    by parameters or submodules; so is a concatenation, as DenseNet's. A call whose tags are asked for runs forward
    twice, and no other costs anything. Under `torch.compile` the graph breaks there.
    """

    evaluating: PureCall
    training: PureCall
    initial: tuple[Params, State]

    def __repr__(self) -> str:
        return f"ModuleBlock({type(self.evaluating.module).__name__})"

    def __eq__(self, other: object) -> bool:
        return self is other  # two modules may differ in ways that no field shows

    def __hash__(self) -> int:
        return id(self)

    @property
    def stochastic(self) -> bool:
        """Whether the module may draw in training, by its rates of dropping, its code and its calls so far."""
        return self.training.may_draw

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw `seed` (batch,), int64: each sample's, from which every draw of the call is computed."""
        if not self.stochastic:
            return {}
        return {
            "seed": torch.randint(2**62, (x_shape[0],), generator=check_generator(generator), device=generator.device)
        }

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Return copies of the values that the module had in `from_module`; nothing is sampled."""
        check_generator(generator)

        def place(leaf: Tensor) -> Tensor:
            return placed(leaf.to(dtype=dtype if leaf.is_floating_point() else leaf.dtype, copy=True), device)

        params, state = self.initial
        return tree.tree_map(place, params), tree.tree_map(lambda leaf: placed(leaf.clone(), device), state)

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Call the module on these parameters and a copy of this state."""
        call = self.training if training else self.evaluating
        buffers = tree.flatten(state)
        flat = tree.flatten(params)
        expected = (tree.flatten(part).keys() for part in self.initial)
        if (flat.keys(), buffers.keys()) != tuple(expected):
            check_params(self, params, state)
        args = x if type(x) is tuple else (x,)  # a named tuple is one input
        try:
            seed = noise.get("seed") if isinstance(noise, Mapping) else None
            if WATCHERS:
                y, new = tagged_call(call.module, call, flat, buffers, args, dict(extras), seed)
            else:
                y, new = call(flat, buffers, args, dict(extras), seed)
        except CAUGHT as error:
            if is_typed(error):
                raise
            raise explain_call(self, call.module, params, state, x, error) from error
        register_kinds(y)
        return y, tree.unflatten({name: new.get(name, leaf) for name, leaf in buffers.items()}) if buffers else {}


def _raise_unless_convertible(module: nn.Module) -> None:
    """Raise for parameters and buffers that have no values yet, or whose hooks no copy would run."""
    both = (*module.named_parameters(), *module.named_buffers())
    empty = [name for name, leaf in both if is_lazy(leaf)]
    if empty:
        raise ArgumentError(
            f"from_module of {type(module).__name__}: {empty} have no shape before the first call of a lazy module: "
            "call the module once on an example input first"
        )
    hooked = [
        name
        for name, leaf in module.named_parameters()
        if leaf._backward_hooks or getattr(leaf, "_post_accumulate_grad_hooks", None)
    ]
    if hooked:
        raise UnsupportedError(
            f"from_module of {type(module).__name__}: gradient hooks on the parameters {hooked} would not run: remove "
            "them by handle.remove(), and apply what they do to the gradient that grad returns"
        )


def from_module(module: nn.Module) -> tuple[ModuleBlock, Params, State]:
    """Return `(block, params, state)` for any `torch.nn.Module`, which stays unchanged.

    Args:
        module: any module; its parameters and buffers are copied, tied parameters once.

    Returns:
        The block, its parameters and its state, under the module's own names.

    Raises:
        ArgumentError: an argument that is not an `nn.Module`, or a lazy module before its first call.
        UnsupportedError: a parameter with a gradient hook, or an attribute that holds what an earlier call computed.

    In training the block runs the module's parts in the modes they are in, or all in training mode if the module
    itself is in evaluation mode.

    A dataclass or a key-value cache of transformers that the module returns is registered with PyTorch as a pytree, for
    the whole process, at the first such call: `torch.utils._pytree.register_dataclass` of that class must come before,
    since PyTorch refuses a second registration. PyTorch's transforms refuse results that hold None, numbers or strings:
    take the tensors out inside of what is transformed, as by `vmap(lambda x: block(params, x[None], state)["logits"])`.

    Example:
        >>> block, params, state = from_module(nn.Linear(3, 2))
        >>> block(params, torch.zeros(4, 3), state).shape
        torch.Size([4, 2])
        >>> from pure.tags import capture
        >>> block, params, state = from_module(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
        >>> list(capture(block)(params, torch.zeros(4, 3), state)[1])
        ['0', '1', '2']
    """
    if not isinstance(module, nn.Module):
        raise ArgumentError(f"from_module of {type(module).__name__}: expected a torch.nn.Module")
    _raise_unless_convertible(module)
    params = tree.unflatten({name: leaf.detach().clone() for name, leaf in module.named_parameters()})
    state = tree.unflatten({name: leaf.detach().clone() for name, leaf in module.named_buffers()})
    evaluating, training = PureCall(module, training=False), PureCall(module, training=True)
    return ModuleBlock(evaluating, training, (params or {}, state or {})), params or {}, state or {}
