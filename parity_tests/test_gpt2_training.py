"""GPT-2 trained with everything that people train it with: block and module agree to float64's rounding."""

from __future__ import annotations

import torch

from parity_tests.gpt2_training import Training
from pure import tree


def test_twenty_steps_of_a_block_are_those_of_the_module() -> None:
    training = Training(features=8, dtype=None, precision=torch.float64)
    args = training.args()
    found, expected = (tree.flatten(run(*args)) for run in (training.by_block, training.by_module))
    assert sorted(found) == sorted(expected)
    for name, leaf in found.items():
        torch.testing.assert_close(
            leaf, expected[name], rtol=1e-11, atol=1e-11, msg=lambda text, n=name: f"{n}: {text}"
        )
    assert found["losses"][-1] < found["losses"][0] - 0.3
