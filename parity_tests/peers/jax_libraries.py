"""equinox, flax, haiku, optax and jax beside ours, in float64."""

# Each library is imported where it is compared: no machine of the tests has all of them.

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

import export
import pure
from parity_tests.peers.comparison import compared, distance, inputs

DEPTH = 3


def linear(seed: int = 0) -> dict[str, torch.Tensor]:
    """Return the parameters of a linear layer, 4 to 4."""
    params, _ = pure.Linear(4, 4).init(torch.Generator().manual_seed(seed), dtype=torch.float64)
    return params


def to_jax(value: torch.Tensor) -> Any:
    """Return a jax array of float64."""
    import jax

    jax.config.update("jax_enable_x64", True)
    return jax.numpy.asarray(value.numpy())


def equinox_linear(params: dict[str, torch.Tensor]) -> Any:
    """Return an equinox layer with our weights."""
    import equinox as eqx
    import jax

    weight, bias = to_jax(params["weight"]), to_jax(params["bias"])
    model = eqx.nn.Linear(4, 4, key=jax.random.PRNGKey(0))
    return eqx.tree_at(lambda m: (m.weight, m.bias), model, (weight, bias))


@compared("equinox", "eqx.nn.Linear", "pure.Linear")
def layers_of_equinox() -> float:
    import jax

    params, x = linear(), inputs(5, 4)
    return distance(jax.vmap(equinox_linear(params))(to_jax(x)), pure.Linear(4, 4)(params, x))


@compared("equinox", "eqx.filter_grad", "pure.grad")
def gradients_of_equinox() -> float:
    import equinox as eqx
    import jax

    params, x = linear(), inputs(5, 4)
    theirs = eqx.filter_grad(lambda model, x: (jax.vmap(model)(x) ** 2).mean())(equinox_linear(params), to_jax(x))
    ours = pure.grad(lambda p, x: pure.Linear(4, 4)(p, x).square().mean())(params, x)
    return max(distance(theirs.weight, ours["weight"]), distance(theirs.bias, ours["bias"]))


@compared("equinox", "eqx.partition, eqx.combine", "pure.partition, pure.combine")
def partitions_of_equinox() -> float:
    """The gradient with respect to the bias alone."""
    import equinox as eqx
    import jax

    params, x = linear(), inputs(5, 4)
    model = equinox_linear(params)
    spec = eqx.tree_at(lambda m: m.bias, jax.tree.map(lambda _: False, model), True)
    free, fixed = eqx.partition(model, spec)
    theirs = jax.grad(lambda part: (jax.vmap(eqx.combine(part, fixed))(to_jax(x)) ** 2).mean())(free)
    trainable, frozen = pure.partition(params, "bias")
    ours = pure.grad(lambda p: pure.Linear(4, 4)(pure.combine(p, frozen), x).square().mean())(trainable)
    assert theirs.weight is None
    assert list(ours) == ["bias"]
    return distance(theirs.bias, ours["bias"])


@compared("equinox", "eqx.filter_vmap over models", "pure.stack, then vmap")
def ensembles_of_equinox() -> float:
    import equinox as eqx
    import jax

    members, x = [linear(seed) for seed in range(3)], inputs(5, 4)
    weights = pure.stack(members)
    model = eqx.tree_at(
        lambda m: (m.weight, m.bias), equinox_linear(members[0]), (to_jax(weights["weight"]), to_jax(weights["bias"]))
    )
    theirs = eqx.filter_vmap(lambda m, x: jax.vmap(m)(x), in_axes=(eqx.if_array(0), None))(model, to_jax(x))
    return distance(theirs, torch.vmap(pure.Linear(4, 4), (0, None))(weights, x))


@compared("equinox", "eqx.nn.BatchNorm with its State", "BatchNorm.apply returns the new state")
def states_of_equinox() -> float:
    """Outputs and the running mean; equinox keeps the biased variance, PyTorch and we the unbiased one."""
    import equinox as eqx
    import jax

    x, norm = inputs(6, 4, 3, 3), pure.layers.BatchNorm(4)
    params, state = norm.init(torch.Generator().manual_seed(0), dtype=torch.float64)
    images = to_jax(x)  # float64 is on before the layer is made
    model, their_state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
        4, axis_name="batch", momentum=0.9, mode="batch", dtype=jax.numpy.float64
    )
    theirs, fresh = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(images, their_state)
    ours, new_state = norm.apply(params, x, state, {}, True)
    mean, _ = fresh.get(model.batch_state_index)
    return max(distance(theirs, ours), distance(mean, new_state["running_mean"]))


@compared("equinox", "eqx.tree_serialise_leaves", "pure.save")
def files_of_equinox() -> float:
    """A tree comes back as it was, from either file."""
    import equinox as eqx

    params = linear()
    with tempfile.TemporaryDirectory() as folder:
        model = equinox_linear(params)
        eqx.tree_serialise_leaves(f"{folder}/model.eqx", model)
        theirs = eqx.tree_deserialise_leaves(f"{folder}/model.eqx", equinox_linear(linear(1)))
        pure.save(params, Path(folder, "model.safetensors"))
        ours = pure.load(Path(folder, "model.safetensors"))
    return distance(theirs.weight, ours["weight"])


@compared("flax", "module.init, module.apply", "block.init, block(params, x)")
def layers_of_flax() -> float:
    from flax import linen

    params, x = linear(), inputs(5, 4)
    variables = {"params": {"kernel": to_jax(params["weight"].T), "bias": to_jax(params["bias"])}}
    theirs = linen.Dense(4, param_dtype=variables["params"]["bias"].dtype).apply(variables, to_jax(x))
    return distance(theirs, pure.Linear(4, 4)(params, x))


@compared("flax", 'apply(…, mutable=["batch_stats"])', "block.apply(params, x, state, {}, True)")
def states_of_flax() -> float:
    """Outputs, the running mean, and the running variance, which flax keeps biased: n / (n − 1) of it is PyTorch's."""
    import jax
    from flax import linen

    x, norm = inputs(6, 4, 3, 3), pure.layers.BatchNorm(4)
    params, state = norm.init(torch.Generator().manual_seed(0), dtype=torch.float64)
    images = to_jax(x.permute(0, 2, 3, 1))
    module = linen.BatchNorm(use_running_average=False, momentum=0.9, dtype=jax.numpy.float64)
    variables = jax.tree.map(lambda leaf: leaf.astype(images.dtype), module.init(jax.random.PRNGKey(0), images))
    y, updated = module.apply(variables, images, mutable=["batch_stats"])
    ours, new_state = norm.apply(params, x, state, {}, True)
    count = x.numel() / 4
    variance = new_state["running_var"] - 0.1 * x.var((0, 2, 3)) / count  # unbiased to biased, of the batch's part
    return max(
        distance(y, ours.permute(0, 2, 3, 1)),
        distance(updated["batch_stats"]["mean"], new_state["running_mean"]),
        distance(updated["batch_stats"]["var"], variance),
    )


@compared("flax", 'apply(…, rngs={"dropout": key})', "block.apply(…, noise=block.noise(x.shape, generator))")
def noise_of_flax() -> float:
    """The same key or noise gives the same output, whose elements are 0 or x / (1 − rate)."""
    import jax
    from flax import linen

    x, dropout = torch.ones(64, 64, dtype=torch.float64), pure.layers.Dropout(0.25)
    module, key = linen.Dropout(0.25, deterministic=False), jax.random.PRNGKey(0)
    theirs = [module.apply({}, to_jax(x), rngs={"dropout": key}) for _ in range(2)]
    noise = dropout.noise(x.shape, torch.Generator().manual_seed(0))
    ours = [dropout.apply({}, x, {}, {}, True, noise)[0] for _ in range(2)]
    assert (theirs[0] == theirs[1]).all()
    assert torch.equal(*ours)
    assert sorted(set(ours[0].flatten().tolist())) == sorted(set(theirs[0].flatten().tolist()))
    return distance(theirs[0].max(), ours[0].max())


@compared("flax", "nn.scan", "pure.Repeat")
def scans_of_flax() -> float:
    import jax
    from flax import linen

    repeated, x = pure.Repeat(pure.Linear(4, 4), DEPTH), inputs(5, 4)
    params, _ = repeated.init(torch.Generator().manual_seed(0), dtype=torch.float64)
    to_jax(x)

    class Step(linen.Module):
        @linen.compact
        def __call__(self, x: Any, _: Any) -> tuple[Any, None]:
            return linen.Dense(4, name="dense", param_dtype=jax.numpy.float64)(x), None

    stacked = linen.scan(Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=DEPTH)()
    weight, bias = (pure.flatten(params)[name] for name in ("weight", "bias"))
    variables = {"params": {"dense": {"kernel": to_jax(weight.mT.contiguous()), "bias": to_jax(bias)}}}
    return distance(stacked.apply(variables, to_jax(x), None)[0], repeated(params, x))


@compared("flax", "capture_intermediates=True", "pure.capture")
def intermediates_of_flax() -> float:
    """The first of two layers' output."""
    from flax import linen

    params, x = linear(), inputs(5, 4)

    class Two(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            return linen.Dense(4, name="last")(linen.Dense(4, name="first")(x))

    leaves = {"kernel": to_jax(params["weight"].T), "bias": to_jax(params["bias"])}
    _, seen = Two().apply({"params": {"first": leaves, "last": leaves}}, to_jax(x), capture_intermediates=True)
    theirs = seen["intermediates"]["first"]["__call__"][0]
    _, ours = pure.capture(lambda p, x: pure.Linear(4, 4)(p, pure.tag(pure.Linear(4, 4)(p, x), "first")))(params, x)
    return distance(theirs, ours["first"])


@compared("flax", "nn.remat", "pure.checkpoint")
def checkpoints_of_flax() -> float:
    import jax
    from flax import linen

    params, x = linear(), inputs(5, 4)
    to_jax(x)
    module = linen.remat(linen.Dense)(4, param_dtype=jax.numpy.float64)
    leaves = {"kernel": to_jax(params["weight"].T), "bias": to_jax(params["bias"])}
    theirs = jax.grad(lambda p: (module.apply({"params": p}, to_jax(x)) ** 2).mean())(leaves)
    block = pure.checkpoint(pure.Linear(4, 4))
    ours = pure.grad(lambda p: block(p, x).square().mean())(params)
    return distance(theirs["kernel"].T, ours["weight"])


@compared("dm-haiku", "hk.transform", "pure.Function", module="haiku")
def transforms_of_haiku() -> float:
    import haiku as hk
    import jax

    params, x = linear(), inputs(5, 4)
    function = hk.without_apply_rng(hk.transform(lambda x: jax.numpy.tanh(hk.Linear(4, name="linear")(x))))
    theirs = function.apply({"linear": {"w": to_jax(params["weight"].T), "b": to_jax(params["bias"])}}, to_jax(x))
    block = pure.Function(lambda p, x: torch.tanh(torch.nn.functional.linear(x, p["weight"], p["bias"])))
    return distance(theirs, block(params, x))


@compared("dm-haiku", "hk.layer_stack", "pure.Repeat", module="haiku")
def stacks_of_haiku() -> float:
    import haiku as hk
    import jax

    repeated, x = pure.Repeat(pure.Linear(4, 4), DEPTH), inputs(5, 4)
    params, _ = repeated.init(torch.Generator().manual_seed(0), dtype=torch.float64)
    weight, bias = (pure.flatten(params)[name] for name in ("weight", "bias"))
    function = hk.without_apply_rng(hk.transform(lambda x: hk.layer_stack(DEPTH)(lambda y: hk.Linear(4)(y))(x)))
    stacked = {
        name: {"w": to_jax(weight.mT.contiguous()), "b": to_jax(bias)}
        for name in function.init(jax.random.PRNGKey(0), to_jax(x))
    }
    return distance(function.apply(stacked, to_jax(x)), repeated(params, x))


@compared("optax", "optax.chain(clip_by_global_norm, adamw)", "pure.optim.chain of the same names")
def steps_of_optax() -> float:
    """Five updates."""
    import optax

    transform = pure.optim.chain(pure.optim.clip_by_global_norm(1.0), pure.optim.adamw(1e-3, weight_decay=1e-4))
    their_transform = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    start = ours = linear()
    theirs = {name: to_jax(leaf) for name, leaf in ours.items()}
    state, their_state = transform.init(ours), their_transform.init(theirs)
    for seed in range(5):
        grads = linear(seed + 1)
        updates, state = transform.update(grads, state, ours)
        ours = pure.optim.apply_updates(ours, updates)
        their_grads = {name: to_jax(leaf) for name, leaf in grads.items()}
        their_updates, their_state = their_transform.update(their_grads, their_state, theirs)
        theirs = optax.apply_updates(theirs, their_updates)
    return max(distance(theirs[name] - to_jax(start[name]), ours[name] - start[name]) for name in ours)


@compared("jax", "jax.checkpoint", "pure.remat")
def remat_of_jax() -> float:
    import jax

    x = inputs(5)
    theirs = jax.grad(jax.checkpoint(lambda x: (jax.numpy.tanh(x) ** 3).sum()))(to_jax(x))
    return distance(theirs, torch.func.grad(pure.remat(lambda x: (torch.tanh(x) ** 3).sum()))(x))


@compared("jax", "jax.jit", "export.jit")
def compiled_by_jax() -> float:
    import jax

    params, x = linear(), inputs(5, 4)
    theirs = jax.jit(lambda w, b, x: jax.numpy.tanh(x @ w.T + b))(
        to_jax(params["weight"]), to_jax(params["bias"]), to_jax(x)
    )
    fast = export.jit(lambda p, x: torch.tanh(pure.Linear(4, 4)(p, x)), device="cpu")
    return distance(theirs, fast(params, x))


@compared("jax", "jax.export", "export.to_onnx, export.load")
def exported_by_jax() -> float:
    import jax
    import jax.export  # a submodule that `import jax` leaves out

    x = inputs(5)
    written = jax.export.export(jax.jit(jax.grad(lambda x: (jax.numpy.tanh(x) ** 3).sum())))(to_jax(x)).serialize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "gradient.onnx")
        export.to_onnx(torch.func.grad(lambda x: (torch.tanh(x) ** 3).sum()), (x,), path)
        return distance(jax.export.deserialize(written).call(to_jax(x)), export.load(path, device="cpu")(x))


@compared("jax", "jax.lax.scan", "pure.scan")
def scans_of_jax() -> float:
    import jax

    x = inputs(7, 3)
    theirs = jax.lax.scan(lambda carry, row: ((carry + row) * 0.5, carry), to_jax(torch.zeros(3).double()), to_jax(x))
    ours = pure.scan(lambda carry, row: ((carry + row) * 0.5, carry), torch.zeros(3, dtype=torch.float64), x)
    return max(distance(theirs[0], ours[0]), distance(theirs[1], ours[1]))
