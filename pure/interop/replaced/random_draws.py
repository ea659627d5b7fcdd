"""Replace every random draw in a module's forward by numbers of a `CounterNoise`."""

from __future__ import annotations

import dis
import math
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from pure.errors import NoiseError, UnsupportedError
from pure.interop.one_path import SeesThrough
from pure.interop.replaced.counter_noise import CounterNoise
from pure.interop.replaced.initial_draws import InitialDraws

__all__ = ["ALWAYS_DRAW", "ReplacedDraws", "may_draw"]

_SELU_LIMIT = -1.7580993408473766  # what alpha dropout sets to: SELU's value at minus infinity
_REFUSED = frozenset(
    {"multinomial", "poisson", "binomial", "_standard_gamma", "_sample_dirichlet", "cauchy_", "log_normal_"}
    | {"geometric_", "random_", "native_dropout", "fractional_max_pool2d_with_indices", "trunc_normal_"}
)
_EMPTY = frozenset({"empty", "empty_like", "new_empty"})
_RECURRENT = {"lstm": torch.lstm, "gru": torch.gru, "rnn_tanh": torch.rnn_tanh, "rnn_relu": torch.rnn_relu}


def _argument(args: Sequence[Any], kwargs: dict[str, Any], position: int, name: str, default: Any = None) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _size(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[int, ...]:
    """Return the sizes of a factory function, given one by one or as one argument."""
    if "size" in kwargs:
        return tuple(kwargs["size"])
    if len(args) == 1 and isinstance(args[0], list | tuple):
        return tuple(args[0])
    return tuple(args)


def _into(target: Tensor, value: Tensor) -> Tensor:
    """Write values into a tensor and return it."""
    try:
        return target.copy_(value.to(target.dtype))
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
        raise UnsupportedError(
            f"forward draws in place into a tensor of shape {tuple(target.shape)} that is the same for all of vmap's "
            "samples, whose noise differs: draw by torch.rand or torch.randn, or into torch.empty"
        ) from error


class ReplacedDraws(SeesThrough):
    """Answers PyTorch's random functions from the noise of the call.

    Args:
        noise: the numbers; None where the caller gave no noise, and every draw raises.
        name: the block, for messages.

    Attributes:
        drew: whether a value was drawn.
        has_initial: whether forward made parameters, whose initial values are drawn only if something reads them.
    """

    def __init__(self, noise: CounterNoise | None, name: str) -> None:
        super().__init__()
        self.noise = noise
        self.name = name
        self.drew = False
        self.has_initial = False
        self._initial = InitialDraws()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, or answer in its place if it draws."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _REFUSED:
            raise UnsupportedError(
                f"{self.name}: forward draws by {name}, which has no counterpart that noise can replay: draw with "
                "torch.rand or torch.randn, from which it can be computed"
            )
        if name in _EMPTY and self.noise is not None and torch._C._functorch.is_batchedtensor(self.noise.seed):
            made = func(*args, **kwargs)  # one for each of vmap's samples, since a draw may go into it
            return made + 0 * self.noise.seed[0].to(device=made.device, dtype=made.dtype)
        answer = _ANSWERS.get(name)
        if answer is ReplacedDraws.in_place and self._initial.put_off(
            args[0], lambda: answer(self, func, args, kwargs)
        ):
            self.has_initial = True
            return args[0]
        self._initial.settle(name, func, args, kwargs)
        return func(*args, **kwargs) if answer is None else answer(self, func, args, kwargs)

    def _source(self) -> CounterNoise:
        self.drew = True
        if self.noise is None:
            raise NoiseError(f"{self.name}: training needs a seed: pass noise=block.noise(x.shape, generator)")
        return self.noise

    def _uniform(self, shape: Sequence[int], like: Tensor) -> Tensor:
        return self._source().uniform(tuple(shape), like.dtype).to(like.device)

    def _kept(self, shape: Sequence[int], like: Tensor, rate: float) -> Tensor:
        """Return 1 where an element is kept, 0 where it is dropped."""
        return self._source().at_least(tuple(shape), rate).to(device=like.device, dtype=like.dtype)

    def dropout(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer `dropout`, `feature_dropout`, `alpha_dropout`, `feature_alpha_dropout`, in place or not."""
        x = _argument(args, kwargs, 0, "input")
        rate = float(_argument(args, kwargs, 1, "p", 0.5))
        training = _argument(args, kwargs, 2, "train", kwargs.get("training", True))
        name = func.__name__
        if not training or rate == 0 or not 0 < rate <= 1:
            return func(*args, **kwargs)
        shape = (*x.shape[:2], *(1 for _ in x.shape[2:])) if "feature" in name else x.shape
        kept = self._kept(shape, x, rate)
        if "alpha" not in name:
            factor = kept.mul_(1 / (1 - rate)) if rate < 1 else kept
            return x.mul_(factor) if name.endswith("_") else x * factor
        if rate == 1:
            return x * 0
        a = 1 / math.sqrt((_SELU_LIMIT**2 * rate + 1) * (1 - rate))
        y = a * (x * kept + _SELU_LIMIT * (1 - kept)) - a * _SELU_LIMIT * rate
        return x.copy_(y) if name.endswith("_") else y

    def bernoulli(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Answer `bernoulli` and `bernoulli_`."""
        x, p = args[0], _argument(args, kwargs, 1, "p")
        if func.__name__ == "bernoulli_":
            return _into(x, self._uniform(x.shape, x) < (0.5 if p is None else p))
        return (self._uniform(x.shape, x) < (x if p is None else p)).to(x.dtype)

    def in_place(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Answer `uniform_`, `normal_` and `exponential_`."""
        x = args[0]
        if func.__name__ == "exponential_":
            return _into(x, -self._uniform(x.shape, x).log() / _argument(args, kwargs, 1, "lambd", 1.0))
        if func.__name__ == "uniform_":
            low, high = _argument(args, kwargs, 1, "from", 0.0), _argument(args, kwargs, 2, "to", 1.0)
            return _into(x, low + (high - low) * self._uniform(x.shape, x))
        mean, std = _argument(args, kwargs, 1, "mean", 0.0), _argument(args, kwargs, 2, "std", 1.0)
        return _into(x, mean + std * self._source().normal(tuple(x.shape), x.dtype).to(x.device))

    def factory(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Answer `rand`, `randn`, `rand_like`, `randn_like`, `randint`, `randint_like`, `normal` and `randperm`."""
        name = func.__name__
        made = {key: kwargs[key] for key in ("dtype", "device") if kwargs.get(key) is not None}
        if name == "randperm":
            count = _argument(args, kwargs, 0, "n")
            return self._source().uniform((count,), torch.float64).argsort().to(**made)
        if name.startswith("randint"):
            first = 1 if name.endswith("like") else 0
            numbers = [value for value in args[first:] if not isinstance(value, list | tuple)]
            low = kwargs.get("low", numbers[0] if len(numbers) > 1 else 0)
            high = kwargs.get("high", numbers[-1] if numbers else None)
            shape = args[0].shape if first else kwargs.get("size", args[-1])
            made = {"dtype": args[0].dtype, **made} if first else made
            return (low + (self._source().uniform(tuple(shape), torch.float64) * (high - low)).long()).to(**made)
        if name == "normal" and (isinstance(args[0], Tensor) or isinstance(_argument(args, kwargs, 1, "std"), Tensor)):
            mean, std = args[0], _argument(args, kwargs, 1, "std", 1.0)
            like = mean + 0 * std
            return mean + std * self._source().normal(tuple(like.shape), like.dtype).to(like.device)
        if name.endswith("like"):
            template = {"dtype": args[0].dtype, "device": args[0].device, **made}
            shape = args[0].shape
        else:
            template = {"dtype": torch.get_default_dtype(), **made}
            shape = kwargs.get("size", args[2] if len(args) > 2 else None) if name == "normal" else _size(args, kwargs)
        source = self._source()
        value = (source.uniform if name in ("rand", "rand_like") else source.normal)(tuple(shape), template["dtype"])
        if name == "normal":
            value = args[0] + _argument(args, kwargs, 1, "std", 1.0) * value
        return value.to(**template)

    def rrelu(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Answer `rrelu` and `rrelu_`: a random slope for each negative element."""
        x, training = args[0], _argument(args, kwargs, 3, "training", False)
        if not training:
            return func(*args, **kwargs)
        low, high = _argument(args, kwargs, 1, "lower", 1 / 8), _argument(args, kwargs, 2, "upper", 1 / 3)
        slope = (low + (high - low) * self._uniform(x.shape, x)).to(x.dtype)
        y = torch.where(x <= 0, x * slope, x)
        return x.copy_(y) if func.__name__ == "rrelu_" else y

    def attention(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Answer `scaled_dot_product_attention` with dropout by its definition."""
        rate = float(_argument(args, kwargs, 4, "dropout_p", 0.0))
        if rate == 0:
            return func(*args, **kwargs)
        query, key, value = args[:3] if len(args) > 2 else (kwargs[name] for name in ("query", "key", "value"))
        mask, causal = _argument(args, kwargs, 3, "attn_mask"), _argument(args, kwargs, 5, "is_causal", False)
        scale = kwargs.get("scale") or query.shape[-1] ** -0.5
        if kwargs.get("enable_gqa", False):
            key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], -3) for part in (key, value))
        scores = query @ key.transpose(-2, -1) * scale
        if causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        weights = scores.softmax(-1)
        kept = self._kept(weights.shape, weights, rate)
        return (weights * kept / (1 - rate) if rate < 1 else weights * kept) @ value

    def recurrent(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer LSTM, GRU and RNN with dropout between layers, by one call a layer."""
        packed = not isinstance(args[3], bool)
        layers, rate, training = args[5:8] if packed else args[4:7]
        if not training or rate == 0 or layers == 1:
            return func(*args, **kwargs)
        if packed:
            raise UnsupportedError(f"{self.name}: dropout between the layers of a packed sequence: give a padded one")
        x, hidden, weights, biased, *_, both, batch_first = args
        states = hidden if isinstance(hidden, list | tuple) else (hidden,)
        each, directions, ends = len(weights) // layers, 2 if both else 1, []
        for layer in range(layers):
            part = slice(layer * directions, (layer + 1) * directions)
            first = tuple(state[part] for state in states)
            own = list(weights[layer * each : (layer + 1) * each])
            start = first if isinstance(hidden, list | tuple) else first[0]
            x, *last = func(x, start, own, biased, 1, 0.0, training, both, batch_first)
            ends.append(last)
            if layer < layers - 1:
                rows = x if batch_first else x.transpose(0, 1)  # the batch leads, so that each sample has its own
                kept = self._kept(rows.shape, rows, rate) / (1 - rate) if rate < 1 else torch.zeros_like(rows)
                x = x * (kept if batch_first else kept.transpose(0, 1))
        return (x, *(torch.cat(parts) for parts in zip(*ends, strict=True)))


_ANSWERS: dict[str, Callable[..., Any]] = {
    **{
        f"{kind}dropout{end}": ReplacedDraws.dropout
        for kind in ("", "feature_", "alpha_", "feature_alpha_")
        for end in ("", "_")
    },
    **dict.fromkeys(("bernoulli", "bernoulli_"), ReplacedDraws.bernoulli),
    **dict.fromkeys(("uniform_", "normal_", "exponential_"), ReplacedDraws.in_place),
    **dict.fromkeys(("rand", "randn", "rand_like", "randn_like", "randint", "randint_like"), ReplacedDraws.factory),
    **dict.fromkeys(("normal", "randperm"), ReplacedDraws.factory),
    **dict.fromkeys(("rrelu", "rrelu_"), ReplacedDraws.rrelu),
    **dict.fromkeys(_RECURRENT, ReplacedDraws.recurrent),
    "scaled_dot_product_attention": ReplacedDraws.attention,
}


def _rates(part: nn.Module) -> list[float]:
    """Return the numbers among a part's attributes that its name, or its class's, says are rates of dropping."""
    kind = type(part).__name__.lower()
    dropping = "drop" in kind or "stochastic" in kind or kind == "rrelu"
    return [
        value
        for name, value in vars(part).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
        if "drop" in name or (dropping and name in ("p", "prob", "rate", "upper"))
    ]


def may_draw(module: nn.Module) -> bool:
    """Return whether a module in training may draw, by what can be seen without a call.

    That is a rate of dropping above 0, or a random function of PyTorch in the code of a class outside PyTorch.
    """
    for part in module.modules():
        if part.training and any(rate > 0 for rate in _rates(part)):
            return True
        if part.training and any(_code_draws(kind) for kind in type(part).__mro__):
            return True
    return False


def _code_draws(kind: type) -> bool:
    """Return whether a class's methods call a random function, those that initialise aside."""
    if kind.__module__.partition(".")[0] in ("torch", "builtins"):
        return False
    methods = (value for name, value in vars(kind).items() if "init" not in name and "reset" not in name)
    codes = (getattr(value, "__code__", None) for value in methods)
    return any(code is not None and _draws(code) for code in codes)


def _draws(code: CodeType) -> bool:
    """Return whether code names a random function; `dropout` only as a module's, since `self.dropout` is a part."""
    of_global = False
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF"):
            of_global = True
        elif step.opname not in ("LOAD_ATTR", "LOAD_METHOD", "CACHE"):
            of_global = False
            continue
        if step.argval in ALWAYS_DRAW or (of_global and step.argval in _FUNCTIONS):
            return True
    return False


_FUNCTIONS = frozenset({name for name in _ANSWERS if "dropout" in name} | {"rrelu", "normal"})
ALWAYS_DRAW = frozenset({*_ANSWERS, "gumbel_softmax"}) - _FUNCTIONS - {"scaled_dot_product_attention", *_RECURRENT}
