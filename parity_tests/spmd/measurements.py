"""Measurements of gradient flow over the samples of several ranks, held against one process with all samples."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from parity_tests.spmd.families import FAMILIES, Problem
from pure import flow, spmd, tree

__all__ = ["MEASUREMENTS", "compare"]


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _loss(problem: Problem) -> Callable[..., Tensor]:
    return lambda params, x, target: problem.errors(params, x, target).mean()


def _sum(problem: Problem) -> Callable[..., Tensor]:
    return lambda params, x, target: problem.errors(params, x, target).sum()


def _sample_loss(problem: Problem) -> Callable[..., Tensor]:
    return lambda params, x, target: problem.errors(params, x[None], target[None])[0]


def _probe(params: Any) -> Any:
    return tree.tree_map(lambda leaf: torch.cos(leaf * 5), params)


def _contrast(problem: Problem, over: Mapping[str, Any]) -> Callable[..., Tensor]:
    """Return a loss that couples all samples: one process has them, several gather them."""

    def loss(params: Any, x: Tensor, target: Tensor) -> Tensor:
        outputs = problem.outputs(params, x)
        outputs = spmd.gather(outputs) if over else outputs
        return torch.log_softmax(outputs @ outputs.T, 1).diagonal().mean()

    return loss


def _ggn(p: Problem, over: Mapping[str, Any]) -> Any:
    product = flow.ggn_product(
        lambda q, x, t: p.outputs(q, x),
        lambda y, x, t: (y - t).square().sum(1).mean(),
        p.params,
        p.x,
        p.target,
        **over,
    )
    return product(_probe(p.params)), product.loss


def _hvp(p: Problem, over: Mapping[str, Any], loss: Callable[..., Tensor], **options: Any) -> Any:
    product = flow.hvp(loss, p.params, p.x, p.target, **(dict(over, **options) if over else over))
    return product(_probe(p.params)), product.loss, product.dense(chunk_size=4)


def _curvature(p: Problem, over: Mapping[str, Any], full: bool) -> Any:
    options = {"generator": _generator(), "full": full, "k": 2, "density_probes": 2, "density_steps": 4}
    found = flow.curvature(_loss(p), p.params, p.x, p.target, trace_probes=2, **options, **over)
    traces = {"": found.trace.value, **{name: e.value for name, e in found.leaves.items()}}
    return found.eigenvalues, traces, found.loss


def _direction(x: Tensor) -> Tensor:
    return torch.sin(3 * x)


MEASUREMENTS: dict[str, Callable[[Problem, Mapping[str, Any]], Any]] = {
    "gradient_norms": lambda p, over: flow.gradient_norms(_loss(p), p.params, p.x, p.target, **over),
    "gradient_norms, sum": lambda p, over: flow.gradient_norms(
        _sum(p), p.params, p.x, p.target, **(dict(over, reduction="sum") if over else over)
    ),
    "gradient_norms, same": lambda p, over: flow.gradient_norms(
        _contrast(p, over), p.params, p.x, p.target, **(dict(over, reduction="same") if over else over)
    ),
    "per_sample_norms": lambda p, over: flow.per_sample_norms(_sample_loss(p), p.params, p.x, p.target, **over),
    "hvp": lambda p, over: _hvp(p, over, _loss(p)),
    "hvp, sum": lambda p, over: _hvp(p, over, _sum(p), reduction="sum"),
    "hvp, same": lambda p, over: _hvp(p, over, _contrast(p, over), reduction="same"),
    "ggn_product": _ggn,
    "curvature, dense": lambda p, over: _curvature(p, over, True),
    "curvature, Lanczos": lambda p, over: _curvature(p, over, False),
    "ntk": lambda p, over: flow.ntk(p.block, p.params, p.x, **over),
    "ntk, full": lambda p, over: flow.ntk(p.block, p.params, p.x, outputs="full", **over),
    "signal": lambda p, over: flow.signal(p.block, p.params, p.x, p.state, training=True, **over),
    "correlation": lambda p, over: flow.correlation(
        lambda x: p.block(p.params, x, p.state), p.x, directions=torch.eye(2, dtype=p.x.dtype), lags=2, **over
    ),
    "path_spectrum": lambda p, over: flow.path_spectrum(p.block, p.params, p.x, _direction(p.x), p.state, **over),
    "path_spectrum_of_loss": lambda p, over: flow.path_spectrum_of_loss(
        lambda q, x, t: (p.block(q, x, p.state) - t).square().sum(1).mean(), p.params, p.x, p.target, **over
    ),
}
"""Name → the measurement of this rank's samples; `over` is what a group adds."""

NO_MEANING = {
    "batch norm": {"per_sample_norms", "ntk", "ntk, full", "signal", "path_spectrum", "path_spectrum_of_loss"},
    "in parts": set(MEASUREMENTS),
}
"""Family → what is refused on one process as well, or has no tags; parts of parameters go through `shard_map`."""


def compare(family: str, name: str) -> float | None:
    """Return the largest difference of any number of the result, relative to the largest of its kind.

    Of one kind are the same numbers of all leaves: a gradient that is zero but for rounding has no scale of its own.
    """
    if name in NO_MEANING.get(family, ()):
        return None
    measure = MEASUREMENTS[name]
    expected = dict(_numbers(measure(Problem.of(FAMILIES[family], None), {}), ()))
    found = dict(_numbers(measure(Problem.of(FAMILIES[family], "world"), {"group": "world"}), ()))
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    scales: dict[tuple[str, ...], float] = {}
    for path, value in expected.items():
        largest = float(value.nan_to_num().abs().max()) if value.numel() else 0.0
        scales[_kind(path)] = max(largest, scales.get(_kind(path), 0.0))
    assert any(scales.values())
    worst = 0.0
    for path, value in expected.items():
        assert found[path].shape == value.shape, (path, found[path].shape, value.shape)
        assert torch.equal(found[path].isnan(), value.isnan()), path
        difference = float((found[path] - value).nan_to_num().abs().max()) if value.numel() else 0.0
        worst = max(worst, difference / scales[_kind(path)] if difference else 0.0)
    return worst


def _kind(path: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("" if part.startswith("/") else part for part in path)


def _numbers(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Return every tensor and number of a result by its place; keys of mappings begin with a slash."""
    if isinstance(value, Tensor):
        yield path, value.detach().double()
    elif isinstance(value, bool | str) or value is None:
        return
    elif isinstance(value, int | float):
        yield path, torch.tensor(float(value), dtype=torch.float64)
    elif dataclasses.is_dataclass(value):
        for entry in dataclasses.fields(value):
            if entry.name not in LEFT_OUT:
                yield from _numbers(getattr(value, entry.name), (*path, entry.name))
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _numbers(part, (*path, f"/{key}"))
    elif isinstance(value, tuple | list):
        for at, part in enumerate(value):
            yield from _numbers(part, (*path, str(at)))


LEFT_OUT = {"chunk_size", "remainder"}
"""What depends on how much runs together, and what is a rounding error of nothing."""
