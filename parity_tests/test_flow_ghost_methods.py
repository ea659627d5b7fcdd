"""Every way a parameter can be read without its per-sample gradient gives the norms of materialised gradients.

What is not recognised is materialised, so that the norms are right whatever the loss does with a parameter.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import pure
from pure import flow
from pure.flow.per_sample.einsum_contraction import contraction
from pure.interop import from_module

FLOAT64 = torch.float64
CLOSE = 1e-10
Loss = Callable[..., Tensor]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)


def agree(loss: Loss, params: Any, *batch: Any, **options: Any) -> dict[str, str]:
    """Hold the norms and the gradients against vmap(grad), and return the methods."""
    norms = flow.per_sample_norms(loss, params, *batch, **options)
    gradients = pure.flatten(vmap(grad(loss), (None, *(0 for _ in batch)))(params, *batch))
    assert list(norms) == list(gradients)
    found = flow.per_sample_gradients(loss, params, *batch)
    for name, gradient in gradients.items():
        exact = gradient.flatten(1).norm(dim=1)
        torch.testing.assert_close(norms[name], exact, rtol=CLOSE, atol=1e-13, msg=lambda text, n=name: f"{n}: {text}")
        torch.testing.assert_close(found[name], gradient, rtol=CLOSE, atol=1e-12)
    return dict(norms.methods)


W, SQUARE, VECTOR, CUBE = drawn(5, 4, seed=1), drawn(4, 4, seed=2), drawn(4, seed=3), drawn(4, 2, 3, seed=4)
RECOGNISED: dict[str, tuple[Loss, Any]] = {
    "x @ w.T": (lambda p, x: (x @ p["w"].T).pow(3).sum(), W),
    "x @ w": (lambda p, x: (x @ p["w"]).pow(3).sum(), SQUARE),
    "x @ w, not square": (lambda p, x: (x @ p["w"]).pow(3).sum(), W.T.contiguous()),
    "w @ x": (lambda p, x: (p["w"] @ x.mT).pow(3).sum(), W),
    "w.T @ x": (lambda p, x: (p["w"].T @ x.mT).pow(3).sum(), W.T.contiguous()),
    "w @ vector": (lambda p, x: (p["w"] @ x[0]).pow(3).sum(), W),
    "vector @ w": (lambda p, x: (x[0] @ p["w"]).pow(3).sum(), SQUARE),
    "torch.mm": (lambda p, x: torch.mm(x, p["w"].t()).pow(3).sum(), W),
    "torch.mv": (lambda p, x: torch.mv(p["w"], x[0]).pow(3).sum(), W),
    "transposed twice": (lambda p, x: F.linear(x, p["w"].mT.transpose(-1, -2)).pow(3).sum(), W),
    "permuted": (lambda p, x: (x @ p["w"].permute(1, 0)).pow(3).sum(), W),
    "F.linear of a transpose": (lambda p, x: F.linear(x, p["w"].T).pow(3).sum(), SQUARE),
    "a stack of matrices": (lambda p, x: (x[None].expand(2, 3, 4) @ p["w"].T).pow(3).sum(), W),
    "einsum": (lambda p, x: torch.einsum("td,de->te", x, p["w"]).pow(3).sum(), SQUARE),
    "einsum, weight first": (lambda p, x: torch.einsum("oi,ti->ot", p["w"], x).pow(3).sum(), W),
    "einsum with an ellipsis": (lambda p, x: torch.einsum("...d,ed->...e", x, p["w"]).pow(3).sum(), W),
    "einsum to heads": (lambda p, x: torch.einsum("td,dhk->htk", x, p["w"]).pow(3).sum(), CUBE),
    "einsum from heads": (
        lambda p, x: torch.einsum("htk,dhk->td", x.reshape(2, 2, 3), p["w"]).pow(3).sum(), CUBE,
    ),
    "both ways round": (lambda p, x: ((x @ p["w"].T).tanh() @ p["w"]).pow(3).sum(), W),
    "layer_norm": (lambda p, x: F.layer_norm(x, (4,), p["w"]).pow(3).sum(), VECTOR),
    "layer_norm of two axes": (lambda p, x: F.layer_norm(x, (3, 4), p["w"]).pow(3).sum(), drawn(3, 4, seed=5)),
    "rms_norm": (lambda p, x: F.rms_norm(x, (4,), p["w"]).pow(3).sum(), VECTOR),
    "group_norm": (lambda p, x: F.group_norm(x.T[None], 2, p["w"]).pow(3).sum(), VECTOR),
    "group_norm of zero gains": (lambda p, x: (F.group_norm(x.T[None], 2, p["w"]) + x.T).pow(3).sum(), 0 * VECTOR),
    "instance_norm": (lambda p, x: F.instance_norm(x.T[None], weight=p["w"]).pow(3).sum(), VECTOR),
    "norms of one gain": (
        lambda p, x: F.rms_norm(F.layer_norm(x, (4,), p["w"]).exp(), (4,), p["w"]).pow(3).sum(), VECTOR,
    ),
    "batch_norm in evaluation": (
        lambda p, x: F.batch_norm(x, VECTOR, VECTOR.square(), p["w"], None, False).pow(3).sum(), VECTOR,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RECOGNISED)
def test_recognised(case: str) -> None:
    loss, weight = RECOGNISED[case]
    assert agree(loss, {"w": weight}, drawn(4, 3, 4, seed=9)) == {"w": "ghost"}


def test_biases_of_norms() -> None:
    params = {"w": VECTOR, "b": drawn(4, seed=6)}
    x = drawn(3, 2, 4, 5, seed=9)
    for norm in (
        lambda p, x: F.group_norm(x, 2, p["w"], p["b"]),
        lambda p, x: F.instance_norm(x, None, None, p["w"], p["b"]),
        lambda p, x: F.layer_norm(x.mT, (4,), p["w"], p["b"]),
        lambda p, x: F.layer_norm(x.mT, (4,), None, p["b"]) * F.rms_norm(x.mT, (4,), p["w"]),
    ):
        methods = agree(lambda p, x, norm=norm: norm(p, x).pow(3).sum(), params, x)
        assert methods == {"w": "ghost", "b": "ghost"}


TOKENS = torch.tensor([[1, 1, 3, 1], [0, 2, 2, 0], [4, 3, 2, 1]])
TABLE = drawn(5, 6, seed=2)
LOOKUPS: dict[str, Loss] = {
    "embedding": lambda p, t: F.embedding(t, p["w"]).pow(3).sum(),
    "embedding with padding": lambda p, t: F.embedding(t, p["w"], padding_idx=-3).pow(3).sum(),
    "index": lambda p, t: p["w"][t - 5].pow(3).sum(),
    "index_select": lambda p, t: torch.index_select(p["w"], 0, t).cumsum(0).pow(3).sum(),
    "one token": lambda p, t: F.embedding(t[2], p["w"]).pow(3).sum(),
    "the same tokens for all": lambda p, t: (F.embedding(torch.tensor([1, 1, 0]), p["w"]) * t.sum()).pow(2).sum(),
    "two lookups": lambda p, t: (F.embedding(t, p["w"]) * F.embedding(4 - t, p["w"])).cumsum(0).pow(2).sum(),
    "tied with the head": lambda p, t: F.linear(F.embedding(t, p["w"]).tanh().cumsum(0), p["w"]).logsumexp(-1).sum(),
    "tied with x @ w.T": lambda p, t: (p["w"][t].tanh().cumsum(0) @ p["w"].T).logsumexp(-1).sum(),
    "tied with an opposite head": lambda p, t: (
        F.linear(p["w"][t].detach(), p["w"]).sum() - p["w"][t].sum() * p["w"][t].detach().sum()
    ),
}


@pytest.mark.parametrize("case", LOOKUPS)
def test_lookups(case: str) -> None:
    assert agree(LOOKUPS[case], {"w": TABLE}, TOKENS) == {"w": "ghost"}


def test_a_tied_language_model() -> None:
    net = pure.nets.gpt2(vocab_size=11, positions=6, features=8, depth=1, heads=2)
    params, _ = net.init(torch.Generator().manual_seed(0), FLOAT64)
    tokens = torch.randint(0, 11, (3, 6), generator=torch.Generator().manual_seed(1))

    def loss(params: Any, tokens: Tensor) -> Tensor:
        return F.cross_entropy(net(params, tokens[None, :-1]).squeeze(0), tokens[1:])

    methods = agree(loss, params, tokens)
    formed = {name for name, method in methods.items() if method == "materialised"}
    assert all("position" in name for name in formed)


CONVOLUTIONS: dict[str, Loss] = {
    "transposed": lambda p, x: F.conv_transpose2d(x, p["w"], stride=2, padding=1, output_padding=1).pow(3).sum(),
    "transposed, groups and dilation": lambda p, x: F.conv_transpose2d(
        x, p["w"], stride=2, groups=2, dilation=2
    ).pow(3).sum(),
    "two of one transposed weight": lambda p, x: sum(
        F.conv_transpose2d(x, p["w"], stride=s).pow(3).sum() for s in (1, 2)
    ),
    "a sample of two images": lambda p, x: F.conv2d(torch.stack([x, x.flip(1)]), p["w"]).cumsum(0).pow(3).sum(),
}  # fmt: skip


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(case: str) -> None:
    assert agree(CONVOLUTIONS[case], {"w": drawn(4, 4, 3, 2, seed=1)}, drawn(3, 4, 6, 5)) == {"w": "ghost"}


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("channels", [4, 64])
def test_both_methods_of_a_convolution(stride: int, dilation: int, groups: int, channels: int) -> None:
    loss: Loss = lambda p, x: F.conv2d(x, p["w"], None, stride, (2, 1), dilation, groups).tanh().sum()  # noqa: E731
    agree(loss, {"w": drawn(channels, channels // groups, 3, 2, seed=1)}, drawn(2, channels, 6, 7))


@pytest.mark.parametrize("pads", [((1, 1), (0, 0)), ((0, 1), (2, 2))], ids=["even", "odd"])
def test_the_gram_matrix_of_windows_is_that_of_unfolded_windows(pads: Any) -> None:
    from pure.flow.per_sample.convolution import Geometry, unfolded, window_gram
    from pure.flow.per_sample.outer_products import gram

    x = drawn(2, 4, 7, 8)
    for stride, dilation, groups in (((1, 1), (1, 1), 1), ((2, 1), (1, 2), 2), ((2, 3), (2, 1), 4)):
        geometry = Geometry((3, 2), stride, pads, dilation, groups)
        exact = gram(unfolded(x, geometry))
        torch.testing.assert_close(window_gram(x, geometry), exact, rtol=CLOSE, atol=1e-12)


def no_gradient(p: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        mask = F.linear(x, p["w"])
    return (mask * F.linear(x, p["w"])).sum()


ADVERSARIAL: dict[str, Loss] = {
    "scaled": lambda p, x: F.linear(x, 2 * p["w"]).pow(3).sum(),
    "reshaped": lambda p, x: (x @ p["w"].reshape(4, 4).reshape(2, 8)[:, ::2].repeat(2, 1)).pow(3).sum(),
    "viewed": lambda p, x: F.linear(x, p["w"].view(4, 4)).pow(3).sum(),
    "transposed in memory": lambda p, x: F.linear(x, p["w"].T.contiguous()).pow(3).sum(),
    "flipped": lambda p, x: (x @ p["w"].flip(0)).pow(3).sum(),
    "cut": lambda p, x: F.linear(x[:, :2], p["w"][:, :2]).pow(3).sum() + p["w"][2:, 0].sum(),
    "normalised": lambda p, x: F.linear(x, F.normalize(p["w"], dim=1)).pow(3).sum(),
    "as weight, gain and addend": lambda p, x: (
        F.linear(x, p["w"]) + F.layer_norm(x[None].expand(2, 3, 4), (4,), p["w"][0]) + p["w"][1]
    ).pow(3).sum(),
    "row by row": lambda p, x: sum((x @ row).pow(3).sum() for row in p["w"]),
    "slices by products": lambda p, x: (p["w"][0] @ x.mT).sum() + (p["w"] @ x.mT).pow(2).sum(),
    "squared": lambda p, x: (x @ (p["w"] @ p["w"])).pow(3).sum(),
    "as input and weight": lambda p, x: F.linear(p["w"], p["w"]).pow(3).sum() * x.sum(),
    "gram einsum": lambda p, x: torch.einsum("td,de,te->", x, p["w"], x.tanh()),
    "einsum over heads": lambda p, x: torch.einsum("td,td->t", x[:, :4], p["w"][:3]).pow(3).sum(),
    "detached": lambda p, x: (F.linear(x, p["w"].detach()) * F.linear(x, p["w"])).sum(),
    "without gradient": no_gradient,
    "changed in place behind": lambda p, x: F.linear(x, p["w"]).mul_(2).relu_().pow(3).sum(),
    "matmul changed in place behind": lambda p, x: (x @ p["w"]).mul_(2).relu_().pow(3).sum(),
    "row changed in place behind": lambda p, x: p["w"][torch.tensor([1, 1])].mul_(2).pow(3).sum() * x.sum(),
    "in a branch of zero": lambda p, x: (F.linear(x, p["w"]) * 0).sum() + x.sum(),
    "mask": lambda p, x: p["w"][torch.tensor([True, False, True, False])].sum() * x.sum(),
    "two tensors of indices": lambda p, x: p["w"][torch.tensor([0, 1]), torch.tensor([2, 2])].pow(2).sum() * x.sum(),
}  # fmt: skip


@pytest.mark.parametrize("case", ADVERSARIAL)
def test_whatever_is_not_recognised_is_right(case: str) -> None:
    agree(ADVERSARIAL[case], {"w": SQUARE}, drawn(4, 3, 4, seed=9))
    agree(ADVERSARIAL[case], {"w": SQUARE}, drawn(1, 3, 4, seed=9))


def test_a_broadcast_bias() -> None:
    params = {"w": W, "b": drawn(1, seed=2)}
    agree(lambda p, x: F.linear(x, p["w"], p["b"]).pow(3).sum(), params, drawn(4, 3, 4, seed=9))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # PyTorch's own, where vmap loops
def test_modules_with_attention() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, dtype=FLOAT64)
    block, params, _ = from_module(layer)
    methods = agree(lambda p, x: block(p, x[None]).pow(3).sum(), params, drawn(3, 5, 8))
    assert {name for name, method in methods.items() if method == "ghost"} >= {
        "linear1.weight",
        "norm1.weight",
        "norm2.bias",
    }


def test_attention_with_joint_projections() -> None:
    block = pure.Attention(8, 2)
    params, _ = block.init(torch.Generator().manual_seed(0), FLOAT64)
    assert set(agree(lambda p, x: block(p, x[None]).pow(3).sum(), params, drawn(3, 5, 8)).values()) == {"ghost"}


@pytest.mark.parametrize("scale", [1e-200, 1e200])
@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 4)], ids=["vector", "sequence"])
def test_values_beyond_the_range_of_squares(scale: float, shape: tuple[int, ...]) -> None:
    params, x = {"w": W, "b": drawn(5)}, drawn(*shape)
    norms = flow.per_sample_norms(lambda p, x: F.linear(x, p["w"], p["b"]).sum() * scale, params, x)
    unit = flow.per_sample_norms(lambda p, x: F.linear(x, p["w"], p["b"]).sum(), params, x)
    for name in params:
        torch.testing.assert_close(norms[name] / scale, unit[name], rtol=CLOSE, atol=0)


class Largest(TorchDispatchMode):
    """Keeps the number of values of the largest tensor that is formed."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and not tensor._is_view():
                self.values = max(self.values, tensor.untyped_storage().nbytes() // 8)
        return out


MEMORY: dict[str, tuple[Loss, tuple[int, ...], tuple[int, ...]]] = {
    "linear": (lambda p, x: F.linear(x, p["w"]).pow(3).sum(), (48, 48), (64, 48)),
    "matmul of a sequence": (lambda p, x: (x @ p["w"]).pow(3).sum(), (48, 48), (64, 3, 48)),
    "convolution": (lambda p, x: F.conv2d(x, p["w"], padding=1).pow(3).sum(), (32, 32, 3, 3), (32, 32, 3, 3)),
    "embedding": (lambda p, x: F.embedding((x * 9).long() % 48, p["w"]).pow(3).sum(), (48, 48), (64, 3)),
}


@pytest.mark.parametrize("case", MEMORY)
def test_no_per_sample_gradient_is_formed(case: str) -> None:
    loss, weight, samples = MEMORY[case]
    params, x = {"w": drawn(*weight)}, drawn(*samples).abs()
    with Largest() as largest:
        flow.per_sample_norms(loss, params, x)
    activations = max(x.numel(), x.numel() * 48 if case == "embedding" else 0)
    assert largest.values <= max(2 * activations, 2**17), f"{largest.values} values at once"
    assert params["w"].numel() * len(x) > 2**17, "all gradients together would be larger"
    with Largest() as largest:
        flow.per_sample_norms(loss, params, x, ghost=False)
    assert largest.values >= params["w"].numel() * len(x)


@pytest.mark.parametrize(
    "equation",
    ["ab,bc", "aab,bc->ac", "ab,bc->c", "ab,abc->ac", "ab,cd->abcd", "ab,cbd->acd", "ab,bb->a", "ab,bc,cd->ad"],
)
def test_an_einsum_that_is_no_product_with_a_matrix(equation: str) -> None:
    names = equation.split("->")[0].split(",")
    assert contraction(equation, True, len(names[0]), len(names[1])) is None
