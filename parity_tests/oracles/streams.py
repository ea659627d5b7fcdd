"""Stream and depth-mixing rows against published modules, or against their formulas in plain tensor code."""

from __future__ import annotations

from typing import Any

import torch
from hyper_connections import HyperConnections
from torch import Tensor, nn
from transformers import Gemma3nTextConfig
from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4HyperConnection
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextLaurelBlock
from transformers.models.inkling2.configuration_inkling2 import Inkling2TextConfig
from transformers.models.inkling2.modeling_inkling2 import Inkling2BlockAttentionResidual

from parity_tests.lifted import Lifted
from parity_tests.oracles.oracle import Flat, Oracle


class MLP(nn.Module):
    def __init__(self, features: int = 6, hidden: int = 8) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(features, hidden), nn.Linear(hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x).tanh())


class Conv(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))


class Parts(nn.Module):
    """A function of its submodules and parameters, which are given by name."""

    def __init__(self, function: Any, **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_parameter(name, nn.Parameter(part))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def dense_former(m: Any, x: Tensor) -> Tensor:
    x0 = x
    x1 = x0 + m.b0(x0)
    y1 = m.a0[0] * x0 + m.a0[1] * x1
    x2 = y1 + m.b1(y1)
    y2 = m.a1[0] * x0 + m.a1[1] * x1 + m.a1[2] * x2
    x3 = y2 + m.b2(y2)
    return m.a2[0] * x0 + m.a2[1] * x1 + m.a2[2] * x2 + m.a2[3] * x3


def dense_former_period(m: Any, x0: Tensor) -> Tensor:
    x1 = x0 + m.b0(x0)
    x2 = x1 + m.b1(x1)
    y2 = m.a1[0] * x0 + m.a1[1] * x2
    x3 = y2 + m.b2(y2)
    x4 = x3 + m.b3(x3)
    return m.a3[0] * x0 + m.a3[1] * x2 + m.a3[2] * x4


def earlier_outputs(m: Any, x0: Tensor) -> Tensor:
    x1 = m.b0(x0) + m.a0[0] * x0
    x2 = m.b1(x1) + m.a1[0] * x0 + m.a1[1] * x1
    return m.b2(x2) + m.a2[0] * x0 + m.a2[1] * x1 + m.a2[2] * x2


def numbered(skip: str = "") -> Any:
    """Return the translation of "3.branch.fc1.weight" into "b3.fc1.weight" and of "alphas.3" into "a3"."""

    def rename(flat: Flat) -> Flat:
        renamed = {}
        for name, leaf in flat.items():
            head, _, rest = name.partition(".")
            renamed["b" + head + "." + rest.removeprefix(skip) if head.isdigit() else "a" + rest] = leaf
        return renamed

    return rename


def low_rank(m: Any, x: Tensor) -> Tensor:
    return m.f(x) + x + x @ m.down.T @ m.up.T


def weighted_low_rank(m: Any, x: Tensor) -> Tensor:
    return m.alpha * m.f(x) + m.beta * (x + x @ m.down.T @ m.up.T)


LAUREL_NAMES = {
    "branch": "f",
    "branch.f": "f",
    "branch.alpha.weight": "alpha",
    "shortcut.weight": "beta",
    "shortcut.beta.weight": "beta",
    "shortcut.branch.down.weight": "down",
    "shortcut.branch.up.weight": "up",
    "shortcut.x.branch.down.weight": "down",
    "shortcut.x.branch.up.weight": "up",
}


def static_step(streams: list[Tensor], f: nn.Module, alpha: Tensor, beta: Tensor) -> list[Tensor]:
    """One hyper-connection over a list of streams, by loops over the paper's sums."""
    n = len(streams)
    read = sum(alpha[i, 0] * streams[i] for i in range(n))
    out = f(read)
    return [sum(alpha[i, 1 + j] * streams[i] for i in range(n)) + beta[j] * out for j in range(n)]


def static_images(m: Any, x: Tensor) -> Tensor:
    streams = static_step([x, x], m.f0, m.alpha0, m.beta0)
    return sum(static_step(streams, m.f1, m.alpha1, m.beta1))


def dynamic_step(m: Any, k: int, streams: list[Tensor]) -> list[Tensor]:
    """One dynamic hyper-connection: each weight is a tensor by (batch, token)."""
    n = len(streams)
    own = {name: getattr(m, f"{name}{k}") for name in ("alpha", "beta", "aw", "asc", "bw", "bsc")}
    normed = [getattr(m, f"norm{k}")(s) for s in streams]
    a = [
        [
            own["alpha"][i, t] + own["asc"] * torch.tanh((normed[i] * own["aw"][t]).sum(-1, keepdim=True))
            for t in range(n + 1)
        ]
        for i in range(n)
    ]
    b = [own["beta"][i] + own["bsc"] * torch.tanh((normed[i] * own["bw"]).sum(-1, keepdim=True)) for i in range(n)]
    out = getattr(m, f"f{k}")(sum(a[i][0] * streams[i] for i in range(n)))
    return [sum(a[i][1 + j] * streams[i] for i in range(n)) + b[j] * out for j in range(n)]


def dynamic_network(m: Any, x: Tensor) -> Tensor:
    return sum(dynamic_step(m, 1, dynamic_step(m, 0, [x, x, x])))


def hyper_names(k: int) -> dict[str, str]:
    short = {
        "branch": "f",
        "norm": "norm",
        "alpha": "alpha",
        "beta": "beta",
        "alpha_weight": "aw",
        "alpha_scale": "asc",
    }
    return {f"layer{k}.{a}": f"{b}{k}" for a, b in (short | {"beta_weight": "bw", "beta_scale": "bsc"}).items()}


def hyper_module() -> nn.Module:
    return HyperConnections(4, dim=8, branch=MLP(8, 8), layer_index=2)


def hyper_call(module: nn.Module, x: Any, extras: Any, noise: Any) -> Tensor:
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])  # the package has (batch · streams, …)


def hyper_leaves(flat: Flat) -> Flat:
    """The package has the dynamic matrix as (in, out)."""
    names = {
        "alpha": "static_alpha",
        "beta": "static_beta",
        "alpha_weight": "dynamic_alpha_fn",
        "alpha_scale": "dynamic_alpha_scale",
        "beta_weight": "dynamic_beta_fn",
        "beta_scale": "dynamic_beta_scale",
    }
    return {names.get(name, name): leaf.T if name == "alpha_weight" else leaf for name, leaf in flat.items()}


def manifold_module() -> nn.Module:
    module = DeepseekV4HyperConnection(DeepseekV4Config(hidden_size=8, hc_mult=4, hc_sinkhorn_iters=20, hc_eps=1e-6))
    module.add_module("branch", MLP(8, 8))
    return module


def manifold_call(module: Any, x: Any, extras: Any, noise: Any) -> Tensor:
    """The lines of DeepseekV4DecoderLayer around one sublayer."""
    with Lifted():
        hidden = x.transpose(1, 2).contiguous()  # the library has the streams behind the tokens
        post, comb, collapsed = module(hidden)
        out = module.branch(collapsed)
        mixed = post.unsqueeze(-1) * out.unsqueeze(-2) + torch.matmul(comb.transpose(-1, -2), hidden)
    return mixed.transpose(1, 2)


def read_call(module: nn.Module, x: Any, extras: Any, noise: Any) -> Tensor:
    with Lifted():
        return module(x[:, :-1].transpose(1, 2), x[:, -1])[0]


def laurel_call(module: nn.Module, x: Any, extras: Any, noise: Any) -> Tensor:
    with Lifted():
        return module(x)


def attend(query: Tensor, values: list[Tensor]) -> Tensor:
    """The paper's equation, source by source."""
    scores = [
        (query * v / (v.square().mean(-1, keepdim=True) + 1e-6).sqrt()).sum(-1, keepdim=True).exp() for v in values
    ]
    return sum(s * v for s, v in zip(scores, values, strict=True)) / sum(scores)


def attention_full(m: Any, v0: Tensor) -> Tensor:
    v1 = m.b0(v0)
    v2 = m.b1(attend(m.q1, [v0, v1]))
    v3 = m.b2(attend(m.q2, [v0, v1, v2]))
    return attend(m.q3, [v0, v1, v2, v3])


def attention_blocks(m: Any, b0: Tensor) -> Tensor:
    first = m.b0(b0)
    b1 = first + m.b1(attend(m.q1, [b0, first]))
    b2 = m.b2(attend(m.q2, [b0, b1]))
    return attend(m.q3, [b0, b1, b2])


def queries(function: Any) -> Oracle:
    return Oracle(
        lambda: Parts(
            function, **{f"b{i}": MLP(8, 8) for i in range(3)}, **{f"q{i}": torch.zeros(8) for i in range(1, 4)}
        ),
        {**{str(i): f"b{i}" for i in range(3)}, **{f"read{i}.query": f"q{i}" for i in range(1, 4)}},
    )


def depth(function: Any, lengths: dict[int, int], blocks: int, make: Any, skip: str = "branch.") -> Oracle:
    return Oracle(
        lambda: Parts(
            function,
            **{f"b{i}": make() for i in range(blocks)},
            **{f"a{i}": torch.zeros(length) for i, length in lengths.items()},
        ),
        numbered(skip),
    )


ORACLES = {
    "dense_former": depth(dense_former, {0: 2, 1: 3, 2: 4}, 3, MLP),
    "dense_former_period": depth(dense_former_period, {1: 2, 3: 3}, 4, lambda: Conv(4)),
    "earlier_outputs": depth(earlier_outputs, {0: 1, 1: 2, 2: 3}, 3, MLP, ""),
    "laurel_weights": Oracle(
        lambda: Parts(lambda m, x: m.alpha * m.f(x) + m.beta * x, f=MLP(), alpha=torch.zeros(()), beta=torch.zeros(())),
        LAUREL_NAMES,
    ),
    "laurel_low_rank": Oracle(
        lambda: Parts(low_rank, f=MLP(), down=torch.zeros(2, 6), up=torch.zeros(6, 2)), LAUREL_NAMES
    ),
    "laurel_weights_low_rank": Oracle(
        lambda: Parts(
            weighted_low_rank,
            f=MLP(),
            down=torch.zeros(2, 6),
            up=torch.zeros(6, 2),
            alpha=torch.zeros(()),
            beta=torch.zeros(()),
        ),
        LAUREL_NAMES,
    ),
    "laurel_gemma3n": Oracle(
        lambda: Gemma3nTextLaurelBlock(Gemma3nTextConfig(hidden_size=8, laurel_rank=2, rms_norm_eps=1e-6)),
        {"branch": ""},
        call=laurel_call,
    ),
    "hyper_static": Oracle(
        lambda: Parts(
            lambda m, x: torch.stack(static_step(list(x.unbind(1)), m.branch, m.alpha, m.beta), 1),
            branch=MLP(),
            alpha=torch.zeros(4, 5),
            beta=torch.zeros(4),
        )
    ),
    "hyper_static_images": Oracle(
        lambda: Parts(
            static_images,
            f0=Conv(4),
            f1=Conv(4),
            **{f"alpha{k}": torch.zeros(2, 3) for k in range(2)},
            **{f"beta{k}": torch.zeros(2) for k in range(2)},
        ),
        hyper_names(0) | hyper_names(1),
    ),
    "hyper_dynamic": Oracle(hyper_module, hyper_leaves, call=hyper_call, unused=("norm.gamma",)),
    "hyper_network": Oracle(
        lambda: Parts(
            dynamic_network,
            **{f"f{k}": MLP(8, 8) for k in range(2)},
            **{f"norm{k}": nn.LayerNorm(8) for k in range(2)},
            **{f"alpha{k}": torch.zeros(3, 4) for k in range(2)},
            **{f"beta{k}": torch.zeros(3) for k in range(2)},
            **{f"aw{k}": torch.zeros(4, 8) for k in range(2)},
            **{f"bw{k}": torch.zeros(8) for k in range(2)},
            **{f"{name}{k}": torch.zeros(()) for k in range(2) for name in ("asc", "bsc")},
        ),
        hyper_names(0) | hyper_names(1),
    ),
    "manifold_hyper": Oracle(manifold_module, {"weight": "fn", "bias": "base"}, call=manifold_call),
    "attention_residual_read": Oracle(
        lambda: Inkling2BlockAttentionResidual(Inkling2TextConfig(hidden_size=8)), call=read_call
    ),
    "attention_residual": queries(attention_full),
    "attention_residual_blocks": queries(attention_blocks),
}
