"""Every row of the catalogue keeps the whole contract of a block."""

import contextlib
import copy
import json
import pickle
import shutil
from typing import Any

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacrev, jvp, vjp, vmap

import pure
from parity_tests import golden_cases
from parity_tests.cuda_placement_cases import Subject, subject
from pure import interop, tree
from pure.catalogue import CASES, Case
from pure.errors import ArgumentError, NoiseError, PureError, TreeError

each_case = pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)


def float_leaves(params: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree.leaves(params) if leaf.is_floating_point()]


def perturbed(row: Case, dtype: torch.dtype = torch.float64) -> tuple[Any, Any, Any, Any, Any]:
    """Return the example with random gains and statistics, so that no swap of leaves can hide."""
    block, params, state, x, extras = row.example(dtype=dtype)
    noise = torch.Generator().manual_seed(1)

    def shift(leaf: torch.Tensor) -> torch.Tensor:
        if not leaf.is_floating_point():
            return leaf + 3
        return leaf + 0.2 * torch.rand(leaf.shape, generator=noise, dtype=leaf.dtype)

    return block, tree.tree_map(shift, params), tree.tree_map(shift, state), x, extras


def one(sample: torch.Tensor, extras: Any, mapped: Any) -> tuple[torch.Tensor, Any]:
    """Return a sample and its own extras with the batch axis that the block expects."""
    return sample[None], {**extras, **{name: value[None] for name, value in mapped.items()}}


def split(row: Case, extras: Any) -> tuple[Any, Any]:
    """Return the extras of the whole batch, and those that have one entry a sample."""
    mapped = {name: extras[name] for name, _ in row.extras}
    return {name: value for name, value in extras.items() if name not in mapped}, mapped


def differentiable(row: Case) -> tuple[Any, torch.Tensor]:
    """Return f and a point z: the block as a function of its input or, where that holds tokens, of its last leaf."""
    block, params, state, x, extras = perturbed(row)
    if row.tokens is None:
        return (lambda z: block(params, z, state, extras)), x
    leaves, spec = tree.tree_flatten(params)
    return (lambda z: block(tree.tree_unflatten([*leaves[:-1], z], spec), x, state, extras)), leaves[-1]


def largest_difference(a: Any, b: Any) -> float:
    """Return the largest difference of two trees, relative to each leaf's largest value where that exceeds 1."""
    left, right = tree.flatten(a), tree.flatten(b)
    assert list(left) == list(right)
    scales = {name: max(1.0, float(leaf.abs().max())) for name, leaf in right.items()}
    return max((float((left[name] - right[name]).abs().max()) / scales[name] for name in left), default=0.0)


@each_case
def test_init_is_reproducible_and_follows_dtype(row: Case) -> None:
    block = row.make()
    global_state = torch.random.get_rng_state()
    first = block.init(torch.Generator().manual_seed(3))
    again = block.init(torch.Generator().manual_seed(3))
    assert torch.equal(torch.random.get_rng_state(), global_state), "init drew from the global generator"
    for a, b in zip(tree.leaves(first), tree.leaves(again), strict=True):
        assert torch.equal(a, b)
    half, state = block.init(torch.Generator().manual_seed(3), torch.bfloat16)
    assert all(leaf.dtype == torch.bfloat16 for leaf in float_leaves(half))
    assert all(leaf.dtype == torch.float32 for leaf in float_leaves(state)), "statistics are never below float32"
    meta, _ = block.init(torch.Generator(), torch.float32, "meta")
    assert {n: v.shape for n, v in tree.flatten(meta).items()} == {
        n: v.shape for n, v in tree.flatten(first[0]).items()
    }


@each_case
def test_block_is_hashable_printable_comparable_picklable(row: Case) -> None:
    block = row.make()
    assert row.make() == block
    assert hash(row.make()) == hash(block)
    assert type(block).__name__ in repr(block)
    loaded = pickle.loads(pickle.dumps(block))
    assert loaded == block
    _, params, state, x, extras = row.example()
    assert torch.equal(loaded(params, x, state, extras), block(params, x, state, extras))


@each_case
def test_nothing_is_mutated(row: Case) -> None:
    block, params, state, x, extras = perturbed(row, torch.float32)
    noise = block.noise(tuple(x.shape), torch.Generator().manual_seed(0))
    before = copy.deepcopy((params, state, x, noise))
    block(params, x, state, extras)
    block.apply(params, x, state, extras, True, noise)
    for a, b in zip(tree.leaves(before), tree.leaves((params, state, x, noise)), strict=True):
        assert torch.equal(a, b)


@each_case
def test_out_shape_evaluation_and_apply_agree(row: Case) -> None:
    block, params, state, x, extras = perturbed(row)
    y = block(params, x, state, extras)
    assert tuple(y.shape) == block.out_shape(tuple(x.shape))
    assert y.dtype == torch.float64
    through_apply, same_state = block.apply(params, x, state, extras)
    assert torch.equal(y, through_apply)
    assert tree.flatten(same_state).keys() == tree.flatten(state).keys()
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(same_state), tree.leaves(state), strict=True))
    captured, _ = pure.capture(block)(params, x, state, extras)
    assert torch.equal(captured, y), "a captured call computes the same"


@each_case
def test_vmap_over_samples_equals_the_batch(row: Case) -> None:
    block, params, state, x, extras = perturbed(row)
    whole = block(params, x, state, extras)
    fixed, own = split(row, extras)

    def alone(sample: torch.Tensor, own: Any) -> torch.Tensor:
        sample, given = one(sample, fixed, own)
        return block(params, sample, state, given)[0]

    assert largest_difference(vmap(alone)(x, own), whole) < 1e-12


@each_case
def test_grad_agrees_with_autograd_and_per_sample_grads_sum(row: Case) -> None:
    block, params, state, x, extras = perturbed(row)

    fixed, own = split(row, extras)

    def loss(params: Any, x: torch.Tensor, extras: Any = extras) -> torch.Tensor:
        return block(params, x, state, extras).square().sum()

    def sample_loss(params: Any, sample: torch.Tensor, own: Any) -> torch.Tensor:
        return loss(params, *one(sample, fixed, own))

    argnums = (0, 1) if row.tokens is None else (0,)
    by = grad(loss, argnums=argnums)(params, x)
    module = interop.to_module(block, params, state).eval()
    leaf = x.clone().requires_grad_(row.tokens is None)
    module(leaf, extras).square().sum().backward()
    if row.tokens is None:
        assert largest_difference(by[1], leaf.grad) < 1e-12
    named = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
    flat = {name: value for name, value in tree.flatten(by[0]).items() if name in named}
    assert sorted(flat) == sorted(named)
    ordered = tree.unflatten({name: named[name] for name in flat})
    assert largest_difference(tree.unflatten(flat), ordered) < 1e-11
    if tree.leaves(params):
        samples = vmap(grad(sample_loss), (None, 0, 0))(params, x, own)
        summed = tree.tree_map(lambda leaf: leaf.sum(0), samples)
        assert largest_difference(summed, by[0]) < 1e-10
        mine = pure.grad(loss, argnums=argnums)(params, x)
        assert largest_difference(mine, by) < 1e-11


@each_case
def test_forward_mode_reverse_mode_and_second_order_agree(row: Case) -> None:
    f, x = differentiable(row)
    generator = torch.Generator().manual_seed(5)
    tangent = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    y, pushed = jvp(f, (x,), (tangent,))
    cotangent = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    pulled = vjp(f, x)[1](cotangent)[0]
    assert float((pushed * cotangent).sum()) == pytest.approx(float((pulled * tangent).sum()), rel=1e-10, abs=1e-12)
    if row.tokens is None and not row.extras:
        small, direction = x[:1], tangent[:1]
        jacobian = jacrev(lambda v: f(v).sum(0))(small)
        assert jacobian.shape == (*y.shape[1:], *small.shape)
        along = (jacobian * direction).sum(tuple(range(y.ndim - 1, jacobian.ndim)))
        assert largest_difference(along, jvp(f, (small,), (direction,))[1][0]) < 1e-11

    def loss(x: torch.Tensor) -> torch.Tensor:
        return f(x).square().sum()

    forward_over_reverse = jvp(grad(loss), (x,), (tangent,))[1]
    reverse_over_reverse = grad(lambda v: (grad(loss)(v) * tangent).sum())(x)
    assert largest_difference(forward_over_reverse, reverse_over_reverse) < 1e-9
    step = 1e-5
    numeric = (grad(loss)(x + step * tangent) - grad(loss)(x - step * tangent)) / (2 * step)
    if row.smooth:
        scale = float(forward_over_reverse.abs().max()) + 1.0
        assert float((numeric - forward_over_reverse).abs().max()) < 1e-6 * scale


def test_hessian_of_a_small_block() -> None:
    block, params, state, x, _ = perturbed(pure.catalogue.case("residual_mlp_block"))
    flat, spec = tree.tree_flatten(params)
    matrix = hessian(lambda bias: block(tree.tree_unflatten([*flat[:-1], bias], spec), x, state).square().sum())(
        flat[-1]
    )
    assert matrix.shape == (6, 6)
    assert float((matrix - matrix.T).abs().max()) == 0.0
    assert float(torch.linalg.eigvalsh(matrix).min()) > 0, "the loss is quadratic in the last bias"


@each_case
def test_ensemble_by_stacked_parameters(row: Case) -> None:
    block, params, state, x, extras = perturbed(row)
    if not tree.leaves(params):
        return
    others = [tree.tree_map(lambda leaf, k=k: leaf * (1 + 0.1 * k), params) for k in range(3)]
    together = vmap(lambda p: block(p, x, state, extras))(pure.stack(others))
    alone = torch.stack([block(p, x, state, extras) for p in others])
    assert largest_difference(together, alone) < 1e-11


@each_case
def test_compiles_fullgraph_without_recompiling_for_new_parameters(row: Case) -> None:
    block, params, state, x, extras = perturbed(row, torch.float32)
    from torch._dynamo.testing import CompileCounter  # deferred: it imports the whole compiler, 1 s

    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(block, fullgraph=True, backend=counter)
    assert torch.equal(compiled(params, x, state, extras), block(params, x, state, extras))
    moved = tree.tree_map(lambda leaf: leaf * 1.5, params)
    assert torch.equal(compiled(moved, x, state, extras), block(moved, x, state, extras))
    assert counter.frame_count <= 1, "new parameters of the same shapes compiled again"


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lower_precision_stays_near_float64(row: Case, dtype: torch.dtype) -> None:
    block, params, state, x, extras = perturbed(row)
    exact = block(params, x, state, extras)
    low_state = tree.cast(state, torch.promote_types(dtype, torch.float32))
    given = x if row.tokens else x.to(dtype)
    low = block(pure.cast(params, dtype), given, low_state, pure.cast(extras, dtype) if row.extras else extras)
    assert low.dtype == dtype
    error = (low.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert float(error) < 32 * torch.finfo(dtype).eps


@each_case
def test_training_gives_a_new_state_and_needs_its_noise(row: Case) -> None:
    block, params, state, x, extras = perturbed(row)
    noise = block.noise(tuple(x.shape), torch.Generator().manual_seed(0), dtype=torch.float64)
    if block.stochastic:
        with pytest.raises(NoiseError, match=r"block\.noise"):
            block.apply(params, x, state, extras, True, None)
        assert tree.leaves(noise)
        assert all(leaf.shape[0] == x.shape[0] for leaf in tree.leaves(noise)), "noise has the batch on axis 0"
    y, new_state = block.apply(params, x, state, extras, True, noise)
    assert list(tree.flatten(new_state)) == list(tree.flatten(state))
    again, _ = block.apply(params, x, state, extras, True, noise)
    assert torch.equal(y, again), "the same noise gives the same training step"
    for name, leaf in tree.flatten(new_state).items():
        assert leaf.dtype == tree.flatten(state)[name].dtype
        assert not torch.equal(leaf, tree.flatten(state)[name]), f"{name} was not updated"


@each_case
def test_to_module_has_the_names_and_the_training_step(row: Case) -> None:
    block, params, state, x, extras = perturbed(row)
    module = interop.to_module(block, params, state)
    assert sorted(module.state_dict()) == sorted([*tree.names(params), *tree.names(state)])
    noise = block.noise(tuple(x.shape), torch.Generator().manual_seed(0), dtype=torch.float64)
    # PyTorch joins the axes of a batched product otherwise where a factor requires grad, as the module's parameters do.
    trained = tree.tree_map(lambda leaf: leaf.clone().requires_grad_(leaf.is_floating_point()), params)
    y, new_state = block.apply(trained, x, state, extras, True, noise)
    assert torch.equal(module.train()(x, extras, noise), y)
    for name, leaf in tree.flatten(new_state).items():
        assert torch.equal(module.state_dict()[name], leaf)
    swapped = functional_call(
        module.eval(), {name: leaf * 2 for name, leaf in tree.flatten(params).items()}, (x, extras)
    )
    doubled = tree.tree_map(lambda leaf: leaf * 2, params)
    assert torch.equal(swapped, block(doubled, x, new_state, extras))


@each_case
def test_bad_input_is_a_typed_error(row: Case) -> None:
    block, params, state, x, extras = row.example()
    for wrong in (None, "x", {"a": 1}):
        with pytest.raises(ArgumentError, match="expected a tensor"):
            block(params, wrong, state, extras)
    with pytest.raises(TreeError, match="zzz"):
        block({**params, "zzz": torch.ones(1)}, x, state, extras)
    if params:
        first = next(iter(params))
        with pytest.raises(TreeError, match=first):
            block({name: value for name, value in params.items() if name != first}, x, state, extras)
    if params and row.tokens is None:
        with pytest.raises(PureError):
            block(params, x.double(), state, extras)
    widened = (x[0], torch.cat([x, x[:, :1]], 1), torch.cat([x, x[..., :1]], -1))
    for other in widened:  # some blocks take any of these; none may fail with anything but a typed error
        with contextlib.suppress(PureError):
            block(params, other, state, extras)


def test_names_shapes_and_dtypes_are_the_golden_ones() -> None:
    golden = json.loads(golden_cases.PATH.read_text())
    assert golden_cases.current() == golden, "if the change is meant: python -m parity_tests.golden_cases"


def test_case_names_are_unique() -> None:
    assert len(set(pure.catalogue.names())) == len(CASES)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # vmap's, where dynamo runs fake tensors
@pytest.mark.parametrize("transform", ["per-sample gradient", "Hessian product"])
@pytest.mark.parametrize("name", ["batch_norm", "group_norm", "attention", "basic_block", "dense_block_bc", "gru_gate"])
def test_derivatives_compile_fullgraph(name: str, transform: str) -> None:
    fn, args, _ = subject(Subject(name, transform, "float32", "static"))
    torch._dynamo.reset()
    compiled = torch.compile(fn, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*args), fn(*args))


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("name", ["residual_mlp_block", "highway"])
def test_compiles_with_inductor(name: str) -> None:
    block, params, state, x, extras = perturbed(pure.catalogue.case(name), torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True)
    torch.testing.assert_close(compiled(params, x, state, extras), block(params, x, state, extras))
