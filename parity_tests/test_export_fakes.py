"""The shortcuts for the shapes of fake tensors say what PyTorch's own rules say."""

import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from export.ops.registry import FAKES
from export.trace.fake_tensors import fake_mode

aten = torch.ops.aten
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SHAPES = {"map": (2, 3, 4, 5), "rows": (4, 3), "empty": (0, 3, 2)}


def described(mode: FakeTensorMode, op: object, shape: tuple[int, ...], x: torch.dtype, w: torch.dtype) -> list[object]:
    with mode:
        tensor, vector = torch.empty(shape, dtype=x), torch.empty(3, dtype=w)
        if op is aten.relu.default:
            results = [(aten.relu.default(tensor),), (aten.relu.default(tensor.transpose(0, 1)),)]
        else:
            four = (vector, vector, vector, vector)
            results = [aten.native_batch_norm.default(tensor, *four, training, 0.1, 1e-5) for training in (True, False)]
    return [(r.shape, r.stride(), r.dtype, r.device) for result in results for r in result]


@pytest.mark.parametrize("op", FAKES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_shortcut_says_what_pytorch_says(op: object, shape: str) -> None:
    for x, w in itertools.product(DTYPES, DTYPES):
        expected = described(FakeTensorMode(), op, SHAPES[shape], x, w)
        assert described(fake_mode(), op, SHAPES[shape], x, w) == expected
