"""Multi-head attention over tokens: softmax-weighted means of the tokens' values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure.block import Block, Extras, Params, Shape
from pure.composite import Composite, Run
from pure.errors import ArgumentError, RankError, ShapeError
from pure.initializers import Initializer, KaimingUniform
from pure.layers.alignment import widen
from pure.layers.dropout import Dropout
from pure.layers.linear import Linear
from pure.layers.rotary import Rotary
from pure.leaf import describe
from pure.tags import tag

__all__ = ["Attention"]


@dataclass(frozen=True, repr=False)
class Attention(Composite):
    """y = Wₒ [softmax(q kᵀ · scale) v over heads], with q, k and v affine in the tokens.

    (batch, tokens, features) to the same. Children: `qkv` if fused (q, then k, then v along the outputs), else `q`,
    `k` and `v`; `out`; and `gate`, `q_norm`, `k_norm`, `dropout` where asked for. The softmax runs in float32 at least.

    extras: `mask` (batch, tokens), optional: a token may be attended to where it is above 0. A token that may attend
    to none takes the mean of all.

    Tags: "gate" (σ, if gated).

    Args:
        features: size of a token.
        heads: how many heads there are.
        kv_heads: heads of k and v, a divisor of `heads`, each shared by heads / kv_heads queries; None for `heads`.
        head_features: size of a head; None for features / heads.
        causal: whether a token sees itself and earlier ones only.
        window: how many of these it sees at most, itself among them; None for all. Only with `causal`.
        bias: whether q, k and v have a bias.
        out_bias: whether the output has a bias; None for `bias`.
        fused: whether one matrix gives q, k and v.
        rotary: rotary positions for q and k.
        dropout: rate of dropping attention probabilities in training.
        scale: of the scores; None for 1/√head_features.
        softcap: c, if given, bounds the scores by c · tanh(score / c).
        q_norm: norm of each head's query, such as `RMSNorm(head_features)`, before rotary positions.
        k_norm: norm of each head's key.
        norm_heads: False applies q_norm and k_norm to all heads of a token together instead.
        gated: whether the heads' outputs are multiplied by σ(W_g x + b_g) before Wₒ.
        mask: the key of the mask in extras.
        weight_init: rule for the weights.
        bias_init: rule for the biases; None is uniform within 1/√fan_in.
        out_init: rule for the output's weight; None for `weight_init`.

    Raises:
        ArgumentError: heads that do not divide `features`, `kv_heads` that does not divide `heads`, a size or softcap
            that is not positive, or a norm that is no block.
        RankError: the input is not (batch, tokens, features).
        ShapeError: another number of features, or a mask of another shape.

    Source: Vaswani et al. 2017 (1706.03762), section 3.2; shared keys and values: Ainslie et al. 2023 (2305.13245),
    section 2.2; gate: Qiu et al. 2025 (2505.06708), section 2.2; softcap: Gemma 2 (2408.00118), section 2.

    Example:
        >>> block = Attention(8, 4, kv_heads=2, causal=True, rotary=Rotary())
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 3, 8)).shape
        torch.Size([2, 3, 8])
    """

    features: int
    heads: int
    kv_heads: int | None = None
    head_features: int | None = None
    causal: bool = False
    bias: bool = True
    out_bias: bool | None = None
    fused: bool = False
    rotary: Rotary | None = None
    dropout: float = 0.0
    scale: float | None = None
    softcap: float | None = None
    q_norm: Block | None = None
    k_norm: Block | None = None
    norm_heads: bool = True
    gated: bool = False
    window: int | None = None
    mask: str = "mask"
    weight_init: Initializer = KaimingUniform()
    bias_init: Initializer | None = None
    out_init: Initializer | None = None

    def __post_init__(self) -> None:
        if self.heads < 1 or (self.head_features is None and self.features % self.heads):
            raise ArgumentError(
                f"Attention: {self.heads} heads do not divide {self.features} features: change one, or give "
                "head_features"
            )
        if self.shared < 1 or self.heads % self.shared:
            raise ArgumentError(f"Attention: kv_heads={self.kv_heads} does not divide heads={self.heads}")
        if self.size < 1 or (self.softcap is not None and self.softcap <= 0):
            raise ArgumentError(
                f"Attention: head_features={self.head_features}, softcap={self.softcap}: expected positive numbers"
            )
        if self.window is not None and (self.window < 1 or not self.causal):
            raise ArgumentError(f"Attention window={self.window}, causal={self.causal}: expected causal=True, and 1 up")
        for name, norm in (("q_norm", self.q_norm), ("k_norm", self.k_norm)):
            if norm is not None and not isinstance(norm, Block):
                raise ArgumentError(f"Attention {name}={norm!r}: expected a Block, such as RMSNorm({self.size})")
        super().__post_init__()

    @property
    def size(self) -> int:
        """The features of a head."""
        return self.features // self.heads if self.head_features is None else self.head_features

    @property
    def shared(self) -> int:
        """The heads of keys and values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    def parts(self) -> dict[str, Block]:
        """Return the affine maps, then the norms and the dropout."""
        q, kv = self.heads * self.size, self.shared * self.size
        sizes = {"qkv": q + 2 * kv} if self.fused else {"q": q, "k": kv, "v": kv}
        if self.gated:
            sizes["gate"] = q
        rules = self.weight_init, self.bias_init
        found: dict[str, Block] = {n: Linear(self.features, size, self.bias, *rules) for n, size in sizes.items()}
        biased = self.bias if self.out_bias is None else self.out_bias
        found["out"] = Linear(q, self.features, biased, self.out_init or self.weight_init, self.bias_init)
        for name, norm in (("q_norm", self.q_norm), ("k_norm", self.k_norm)):
            if norm is not None:
                found[name] = norm
        if self.dropout:
            found["dropout"] = Dropout(self.dropout)
        return found

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the attended tokens."""
        q, k, v = self.project(run, x)
        return self.finish(run, x, self.attend(run, q, k, v, self.allowed(x, extras)))

    def project(self, run: Run, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values: (batch, heads or kv_heads, tokens, head features)."""
        if x.ndim != 3:
            raise RankError(
                f"Attention: input {describe(x)}, expected (batch, tokens, {self.features}); "
                "one sample: x.unsqueeze(0); an image: x.flatten(2).transpose(1, 2)"
            )
        if self.fused:
            wide = self.shared * self.size
            q, k, v = run("qkv", x).split([self.heads * self.size, wide, wide], -1)
        else:
            q, k, v = run("q", x), run("k", x), run("v", x)
        q, k = self._placed(run, "q_norm", self.q_norm, q), self._placed(run, "k_norm", self.k_norm, k)
        return q, k, self._split(v)

    def _split(self, x: Tensor) -> Tensor:
        """Return (batch, heads, tokens, head features)."""
        return x.unflatten(-1, (-1, self.size)).transpose(1, 2)

    def _placed(self, run: Run, name: str, norm: Block | None, x: Tensor) -> Tensor:
        """Return queries or keys after their norm and their rotary positions, split into heads."""
        if norm is not None and not self.norm_heads:
            x = run(name, x)
        x = self._split(x)
        if norm is not None and self.norm_heads:
            x = run(name, x)
        return x if self.rotary is None else self.rotary(x)

    def allowed(self, x: Tensor, extras: Extras) -> Tensor | None:
        """Return a mask that broadcasts to (batch, heads, tokens, tokens), or None."""
        mask, tokens = extras.get(self.mask), x.shape[1]
        if mask is not None:
            if mask.shape != x.shape[:2]:
                raise ShapeError(
                    f"Attention: {self.mask} {tuple(mask.shape)} for tokens {tuple(x.shape[:2])}: expected one value "
                    "a token, above 0 where it may be attended to"
                )
            mask = mask[:, None, None, :] > 0
        if not self.causal:
            return mask
        position = torch.arange(tokens, device=x.device)
        past = position[:, None] >= position
        if self.window is not None:
            past = past & (position[:, None] - position < self.window)
        return past if mask is None else past & mask

    def attend(
        self, run: Run, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Return the heads' outputs, (batch, heads, tokens, head features).

        Args:
            run: runs the children, here the dropout.
            q: queries, (batch, heads, tokens, head features).
            k: keys, (batch, kv_heads, tokens, head features).
            v: values, likewise.
            allowed: boolean, broadcastable to (batch, heads, tokens, tokens).
            bias: added to the scores, likewise broadcastable.
        """
        scale = 1 / math.sqrt(self.size) if self.scale is None else self.scale
        scores = widen(self._shared(q * scale, k.transpose(-2, -1)))
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        if bias is not None:
            scores = scores + bias
        if allowed is not None:
            scores = torch.where(allowed, scores, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, -1).to(v.dtype)
        if self.dropout:
            weights = run("dropout", weights)
        return self._shared(weights, v)

    def _shared(self, left: Tensor, right: Tensor) -> Tensor:
        """Return each head's product with its keys or values; shared ones are not repeated."""
        if self.shared == self.heads:
            return left @ right
        group, tokens = self.heads // self.shared, left.shape[-2]
        together = left.unflatten(1, (self.shared, group)).flatten(2, 3)
        return (together @ right).unflatten(2, (group, tokens)).flatten(1, 2)

    def finish(self, run: Run, x: Tensor, heads: Tensor) -> Any:
        """Return the output for the tokens `x` from the heads' outputs."""
        joined = heads.transpose(1, 2).flatten(2)
        if self.gated:
            joined = joined * tag(torch.sigmoid(run("gate", x)), "gate", kind="gate")
        return run("out", joined)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        if len(x_shape) != 3 or x_shape[-1] != self.features:
            raise ShapeError(f"{self}: input {tuple(x_shape)}, expected (batch, tokens, {self.features})")
        return tuple(x_shape)
