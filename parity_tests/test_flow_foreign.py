"""Measurements of modules from elsewhere equal those of our own presets of the same weights, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from parity_tests.libraries import timm_vit, transformers, vision_densenet, vision_resnet
from parity_tests.network_parity import randomised
from pure import Activation, Linear, Sequential, flow, interop, nets, tree
from pure.block import Block

TOLERANCE = 1e-10


class Case(NamedTuple):
    """A library's network as a block, and our preset of the same weights."""

    block: Block
    params: Any
    state: Any
    own: Block
    own_params: Any
    own_state: Any
    x: Tensor


def picture(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def tokens() -> Tensor:
    return torch.randint(0, 11, (2, 6), generator=torch.Generator().manual_seed(0))


def vit() -> tuple[nn.Module, Block, Tensor]:
    sizes = {"depth": 3, "num_classes": 5}
    module = timm_vit.VisionTransformer(img_size=32, embed_dim=32, num_heads=2, init_values=0.1, **sizes)
    own = nets.vision_transformer(image_size=32, features=32, heads=2, init_values=0.1, **sizes)
    return module, own, picture()


def resnet() -> tuple[nn.Module, Block, Tensor]:
    """ResNet-50's blocks and widths, two blocks a stage."""
    module = vision_resnet.ResNet(vision_resnet.Bottleneck, [2, 2, 2, 2], num_classes=5)
    return module, nets.resnet_v1((2, 2, 2, 2), num_classes=5), picture()


def densenet() -> tuple[nn.Module, Block, Tensor]:
    module = vision_densenet.DenseNet(4, (2, 3), 8, num_classes=5)
    own = nets.densenet(blocks=(2, 3), growth=4, stem_channels=8, num_classes=5)
    return module, own, picture()


def gpt2() -> tuple[nn.Module, Block, Tensor]:
    sizes = {"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_layer": 3, "n_head": 2}
    config = transformers.GPT2Config(**sizes, use_cache=False, bos_token_id=0, eos_token_id=0)
    own = nets.gpt2(vocab_size=11, positions=8, features=8, depth=3, heads=2)
    return transformers.GPT2LMHeadModel(config), own, tokens()


CASES: dict[str, Callable[[], tuple[nn.Module, Block, Tensor]]] = {
    "timm vit": vit,
    "torchvision resnet": resnet,
    "torchvision densenet": densenet,
    "transformers gpt2": gpt2,
}
BLOCKS = {
    "timm vit": [f"blocks.{i}.{half}" for i in range(3) for half in ("attn", "mlp")],
    "torchvision resnet": [f"layer{i}.{j}" for i in range(1, 5) for j in range(2)],
    "torchvision densenet": [
        f"features.denseblock{i}.denselayer{j}" for i, j in ((1, 1), (1, 2), (2, 1), (2, 2), (2, 3))
    ],
    "transformers gpt2": [f"transformer.h.{i}.{half}" for i in range(3) for half in ("attn", "mlp")],
}

MERGED = ("features.relu5", "pool")
"""Rows of our DenseNet that torchvision's has no module for: they are part of the classifier's."""


@cache
def made(name: str) -> Case:
    torch.manual_seed(0)
    module, own, x = CASES[name]()
    module = randomised(module).eval()
    own_params, own_state = interop.from_state_dict(own, module.state_dict())
    return Case(*interop.from_module(module), own, own_params, own_state, x)


def logits(y: Any) -> Tensor:
    return y if isinstance(y, Tensor) else y["logits"]


def loss(y: Any) -> Tensor:
    return logits(y).square().mean()


def numbers(value: Any) -> Iterator[float]:
    """Yield every number of a result, in order."""
    if isinstance(value, Tensor):
        yield from value.double().flatten().tolist()
    elif isinstance(value, dict):
        for item in value.values():
            yield from numbers(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, int | float):
        yield float(value)


def difference(found: Any, expected: Any) -> float:
    """Return the largest difference, relative where numbers are above 1."""
    pairs = list(zip(numbers(found), numbers(expected), strict=True))
    assert pairs
    gaps = [0.0 if a == b or (math.isnan(a) and math.isnan(b)) else abs(a - b) / max(1.0, abs(b)) for a, b in pairs]
    return max(gaps) if all(not math.isnan(gap) for gap in gaps) else math.inf


def rows(found: flow.Audit) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key not in ("name", "kind", "depth")}
        for row in found.to_dict()["blocks"].values()
    ]


def audited(case: Case, own: bool, **options: Any) -> flow.Audit:
    given = (case.own, case.own_params, case.x, case.own_state) if own else (*case[:2], case.x, case.state)
    return flow.audit(*given, deletions=50, **options)


@pytest.mark.parametrize("along", ["a direction", "a loss"])
@pytest.mark.parametrize("name", CASES)
def test_the_audit_equals_our_presets(name: str, along: str) -> None:
    case = made(name)
    options = {"loss": loss} if along == "a loss" else {}
    found, expected = audited(case, False, **options), audited(case, True, **options)
    assert [block for block, row in found.items() if row.kind == "stream"] == BLOCKS[name]
    assert found.family == tuple(BLOCKS[name]) or name == "torchvision densenet"
    if name == "torchvision densenet":  # ours has rows for the activation and the pooling behind the last norm
        kept = [at for at, row in enumerate(expected.values()) if row.name not in MERGED]
        assert len(kept) == len(found)
        mine = [rows(expected)[at] for at in kept]
        ended = [(d.loss_change, d.relative_change) for d in expected.deletions if d.name not in MERGED]
    else:
        mine = rows(expected)
        ended = [(d.loss_change, d.relative_change) for d in expected.deletions]
        assert difference(found.to_dict()["pairs"] or 0.0, expected.to_dict()["pairs"] or 0.0) < TOLERANCE
        for fit in ("stream_growth", "gradient_growth"):
            assert difference(found.to_dict()[fit], expected.to_dict()[fit]) < TOLERANCE
    assert difference(rows(found), mine) < TOLERANCE
    whole = [d for d in found.deletions if d.name != "avgpool"]  # which pools one pixel here, and so can be passed by
    assert difference([(d.loss_change, d.relative_change) for d in whole] or 0.0, ended or 0.0) < TOLERANCE
    assert (found.paths is None) == (expected.paths is None) == (name == "transformers gpt2")
    if found.paths is not None and expected.paths is not None:
        assert difference(list(vars(found.paths).values()), list(vars(expected.paths).values())) < TOLERANCE
    ends = [[of.log10_input_gradient, of.loss] for of in (found, expected)]
    assert difference(*ends) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_gradient_norms_and_deletions_equal_our_presets(name: str) -> None:
    case = made(name)
    found = flow.gradient_norms(lambda p, x: loss(case.block(p, x, case.state)), case.params, case.x)
    expected = flow.gradient_norms(lambda p, x: loss(case.own(p, x, case.own_state)), case.own_params, case.x)
    assert list(found.activations) == [f"{block}.{kind}" for block in BLOCKS[name] for kind in ("branch", "stream")]
    values = [[a.l2, a.rms, a.sample_l2, a.p10, a.median, a.p90] for a in found.activations.values()]
    own = [[a.l2, a.rms, a.sample_l2, a.p10, a.median, a.p90] for a in expected.activations.values()]
    assert difference(values, own) < TOLERANCE
    assert abs(found.blocks[""].l2 / expected.blocks[""].l2 - 1) < TOLERANCE
    options: dict[str, Any] = {"loss": loss, "suffixes": True, "pairs": 4}
    draw = torch.Generator().manual_seed(0)
    gone = flow.deletion(case.block, case.params, case.x, case.state, generator=draw, **options)
    draw = torch.Generator().manual_seed(0)
    ours = flow.deletion(case.own, case.own_params, case.x, case.own_state, generator=draw, **options)
    assert list(gone) == [f"{block}.branch" for block in BLOCKS[name]]
    assert gone.suffix_loss_change is not None
    assert gone.pairs is not None
    assert ours.pairs is not None
    both = [
        [of.loss_change, of.first_order, of.output_change, of.suffix_loss_change, of.pairs.interaction]
        for of in (gone, ours)
        if of.pairs is not None
    ]
    assert difference(*both) < TOLERANCE


@pytest.mark.parametrize("name", [name for name in CASES if "gpt2" not in name])
def test_path_spectra_equal_our_presets(name: str) -> None:
    case = made(name)
    v = torch.randn(case.x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = flow.path_spectrum(case.block, case.params, case.x, v, case.state, orders=4)
    expected = flow.path_spectrum(case.own, case.own_params, case.x, v, case.own_state, orders=4)
    assert found.paths == expected.paths
    assert difference(found.components, expected.components) < TOLERANCE
    assert float(expected.components[1].norm()) > 0


def test_a_mutated_weight_is_seen() -> None:
    case = made("timm vit")
    params = tree.tree_map(lambda leaf: leaf, case.params)
    params["blocks"]["1"]["mlp"]["fc2"]["weight"] = 1.001 * params["blocks"]["1"]["mlp"]["fc2"]["weight"]
    found, expected = audited(case._replace(params=params), False), audited(case, True)
    assert difference(rows(found), rows(expected)) > 1e-5
    before = list(expected).index("blocks.1.mlp")
    streams = [[row["stream"] for row in rows(audit)[:before]] for audit in (found, expected)]
    assert difference(*streams) < TOLERANCE  # the blocks in front of it are those of before


def test_blocks_that_stop_and_modules_without_skips() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    torch.manual_seed(0)
    block, params, state = interop.from_module(net)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    found = flow.audit(block, params, x, state)
    own = Sequential(Linear(4, 4), Activation("relu"), Linear(4, 4), Linear(4, 2))
    expected = flow.audit(own, params, x)
    assert list(found.blocks) == ["0", "1", "2", "3"]
    assert difference(rows(found), rows(expected)) < 1e-5
    assert found.paths is None
    params["2"]["weight"] = torch.full((4, 4), 3e38)
    stopped = flow.audit(block, params, 1e3 * x, state)
    assert stopped.stop is not None
    assert (stopped.stop.name, stopped.stop.found) == ("2", "overflow")
    assert list(stopped.blocks) == ["0", "1"]
    assert all(math.isfinite(row.log10_gradient) for row in stopped.values())
