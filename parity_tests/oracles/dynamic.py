"""Dynamic depth and width against modules with plain Python loops over samples, tokens, steps and exits."""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity_tests.oracles.oracle import Flat, Oracle


def by_sample(module: nn.Module, x: Tensor, extras: Any, noise: Any) -> Tensor:
    """f(xᵢ) where that sample's control exceeds ½."""
    return torch.cat([module(x[i : i + 1]) if c > 0.5 else x[i : i + 1] for i, c in enumerate(extras["control"])])


def two_layers(features: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, features))


MLP = {"fc1": "0", "fc2": "2"}


def under(prefix: str, module: str, names: dict[str, str]) -> dict[str, str]:
    return {f"{prefix}.{name}": f"{module}.{other}".strip(".") for name, other in names.items()}


class ConvBranch(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))


class Gated(nn.Module):
    """A branch with ConvNet-AIG's gate, or a layer with SkipNet's; the Gumbel values are put in from outside."""

    def __init__(self, channels: int, out: int, norm: bool = False, skipnet: bool = False) -> None:
        super().__init__()
        self.branch = ConvBranch(channels, out, 1 if channels == out else 2)
        self.fc1 = nn.Linear(channels, 8)
        self.bn = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.fc2 = nn.Linear(8, 2)
        self.down = nn.Identity() if channels == out else nn.Sequential(nn.Conv2d(4, 6, 1, 2), nn.BatchNorm2d(6))
        self.skipnet = skipnet
        self.gumbel: Any = None

    def gates(self, x: Tensor) -> Tensor:
        logits = self.fc2(F.relu(self.bn(self.fc1(x.flatten(2).sum(2) / x[0, 0].numel()))))
        if self.training and self.gumbel is not None:
            logits = logits + self.gumbel
        hard = torch.zeros_like(logits)
        hard[torch.arange(len(x)), logits.argmax(1)] = 1.0
        if self.training:
            soft = logits.exp() / logits.exp().sum(1, keepdim=True)
            hard = soft + (hard - soft).detach()
        return hard[:, 1]

    def forward(self, x: Tensor) -> Tensor:
        gates, f, s = self.gates(x), self.branch(x), self.down(x)
        if self.skipnet:
            f = F.relu(x + f)
            return torch.stack([g * a + (1 - g) * b for g, a, b in zip(gates, f, x, strict=True)])
        return F.relu(torch.stack([b + g * a for g, a, b in zip(gates, f, s, strict=True)]))


def gumbel(module: nn.Module, x: Tensor, extras: Any, noise: Any) -> Tensor:
    module.gumbel = noise["gate"]["decide"]["gumbel"] if noise else None
    return module(x)


GATE = {"gate.fc1": "fc1", "gate.norm": "bn", "gate.fc2": "fc2"}


class Thinker(nn.Module):
    """ACT and PonderNet, one row of features at a time, halting by a Python condition."""

    def __init__(self, features: int, hidden: int, steps: int, ponder: bool = False, epsilon: float = 0.01) -> None:
        super().__init__()
        self.step = two_layers(features, hidden)
        self.halt = nn.Linear(features, 1)
        self.steps, self.ponder, self.epsilon = steps, ponder, epsilon

    def think(self, s: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Halting probabilities, weights and states, up to the step on which this row halts."""
        chances: list[Tensor] = []
        states: list[Tensor] = []
        weights: list[Tensor] = []
        while True:
            s = s + self.step(s)
            states.append(s)
            chances.append(1 / (1 + torch.exp(-self.halt(s)[0])))
            last = len(states) == self.steps
            if self.ponder:
                survival = torch.stack([torch.ones_like(s[0]), *(1 - h for h in chances[:-1])]).prod()
                weights.append(survival if last else survival * chances[-1])
                if last:
                    return chances, weights, states
            elif last or sum(chances) >= 1 - self.epsilon:
                return chances, [*weights, 1 - sum(chances[:-1])], states
            else:
                weights.append(chances[-1])

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for row in x.reshape(-1, x.shape[-1]):
            _, weights, states = self.think(row)
            rows.append(sum(p * s for p, s in zip(weights, states, strict=True)))
        return torch.stack(rows).reshape(x.shape)

    def cost(self, row: Tensor, prior: float = 0.2) -> Tensor:
        """N + R, or the divergence from the geometric prior whose last step takes the tail."""
        _, weights, _ = self.think(row)
        if not self.ponder:
            return len(weights) + weights[-1]
        target = [prior * (1 - prior) ** n for n in range(self.steps - 1)]
        target.append(1 - sum(target))
        return sum(p * torch.log(p / g) for p, g in zip(weights, target, strict=True))


HALTING = {**under("step.branch", "step", MLP)}


class Exits(nn.Module):
    """Stages and heads; in evaluation each sample (or token) leaves at its first confident head."""

    def __init__(self, stages: list[nn.Module], heads: list[nn.Module], threshold: float) -> None:
        super().__init__()
        self.stages, self.heads, self.threshold = nn.ModuleList(stages), nn.ModuleList(heads), threshold

    def head(self, depth: int, x: Tensor) -> Tensor:
        return self.heads[min(depth, len(self.heads) - 1)](x if x.ndim == 3 else x.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        logits = []
        for depth, stage in enumerate(self.stages):
            x = x + stage(x)
            logits.append(self.head(depth, x))
        if self.training:
            return torch.stack(logits, 1)
        rows = []
        for candidates in zip(*(one.reshape(-1, one.shape[-1]) for one in logits), strict=True):
            sure = [bool((c.exp() / c.exp().sum()).max() > self.threshold) for c in candidates]
            rows.append(candidates[sure.index(True) if True in sure else -1])
        return torch.stack(rows).reshape(logits[0].shape)


class Depths(nn.Module):
    """One sequence at a time, its tokens ranked by a Python sort."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = two_layers(8, 6)
        self.router = nn.Linear(8, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        sequences = []
        for tokens in x:
            r = self.router(tokens)[:, 0]
            chosen = sorted(range(len(tokens)), key=r.tolist().__getitem__, reverse=True)[:2]
            f = self.branch(tokens[sorted(chosen)])
            rows = list(tokens)
            for place, i in enumerate(sorted(chosen)):
                rows[i] = tokens[i] + r[i] * f[place]
            sequences.append(torch.stack(rows))
        return torch.stack(sequences)


def mixtral() -> nn.Module:
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(hidden_size=8, intermediate_size=6, num_local_experts=4, num_experts_per_tok=2)
    config._experts_implementation = "eager"
    return MixtralSparseMoeBlock(config)


def routed(module: Any, x: Tensor, extras: Any, noise: Any) -> Tensor:
    """The library's forward, but for its router's softmax, which it takes in float32 whatever the input is."""
    flat = x.reshape(-1, x.shape[-1])
    best, index = torch.softmax(F.linear(flat, module.gate.weight), -1).topk(2, -1)
    return x + module.experts(flat, index, best / best.sum(-1, keepdim=True)).reshape(x.shape)


def packed(flat: Flat) -> Flat:
    """Experts stacked, gate above up, as Mixtral has them."""
    if not flat:
        return {}
    parts = {name.removeprefix("branch."): leaf for name, leaf in flat.items()}
    experts = sorted({m[0] for name in parts if (m := re.match(r"expert\d+", name))})
    both = [torch.cat([parts[f"{e}.gate.weight"], parts[f"{e}.up.weight"]]) for e in experts]
    return {
        "gate.weight": parts["router.weight"],
        "experts.gate_up_proj": torch.stack(both),
        "experts.down_proj": torch.stack([parts[f"{e}.down.weight"] for e in experts]),
    }


class FirstOf(nn.Linear):
    """A linear map of 9 inputs to 7 outputs, of which the first 6 and 3 are there: the other inputs are 0."""

    def __init__(self) -> None:
        super().__init__(9, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.cat([x, torch.zeros_like(x[:, :3])], 1))[:, :3]


class Slim(nn.Module):
    """Full weights; the narrow width in evaluation, both in training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 8, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(8, 4, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(8)])

    def at(self, width: int, norm: nn.Module, x: Tensor) -> Tensor:
        h = F.relu(norm(F.conv2d(x, self.conv1.weight[:width], padding=1)))
        return x + F.conv2d(h, self.conv2.weight[:, :width], self.conv2.bias, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.at(3, self.norms[0], x)
        return torch.stack([narrow, self.at(8, self.norms[1], x)], 1) if self.training else narrow


ORACLES = {
    "dynamic_per_sample": Oracle(lambda: two_layers(6, 8), under("branch", "", MLP), call=by_sample),
    "convnet_aig": Oracle(lambda: Gated(4, 4), GATE, call=gumbel),
    "convnet_aig_project": Oracle(
        lambda: Gated(4, 6, norm=True), {**GATE, "shortcut.conv": "down.0", "shortcut.norm": "down.1"}, call=gumbel
    ),
    "skipnet": Oracle(lambda: Gated(4, 4, skipnet=True), {**GATE, "layer.branch": "branch"}),
    "act": Oracle(lambda: Thinker(6, 8, 4), HALTING),
    "act_per_token": Oracle(lambda: Thinker(8, 6, 3), HALTING),
    "ponder_net": Oracle(lambda: Thinker(6, 8, 4, ponder=True), HALTING),
    "early_exit": Oracle(
        lambda: Exits([ConvBranch(4, 4) for _ in range(3)], [nn.Linear(4, 3) for _ in range(3)], 0.83),
        {f"stage{k}.branch": f"stages.{k}" for k in range(3)} | {f"head{k}.fc": f"heads.{k}" for k in range(3)},
    ),
    "early_exit_shared_head": Oracle(
        lambda: Exits([two_layers(8, 6) for _ in range(2)], [nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 5))], 0.8),
        {"head.norm": "heads.0.0", "head.fc": "heads.0.1"}
        | {name: to for k in range(2) for name, to in under(f"stage{k}.branch", f"stages.{k}", MLP).items()},
    ),
    "mixture_of_depths": Oracle(Depths, under("branch", "branch", MLP)),
    "moe": Oracle(mixtral, packed, call=routed),
    "slim_linear": Oracle(FirstOf),
    "slimmable": Oracle(Slim, {"branch.conv1": "conv1", "branch.conv2": "conv2", "branch.norm1": "norms"}),
}
