"""The block with and without its skip: what one `+ x` does to the gradient that reaches the input.

python examples/skips.py
"""

import torch
from torch.func import grad

import pure
from pure import nets


def main() -> None:
    """Stack 30 blocks with and without the skip and print the norm of the gradient by the input."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 32, generator=generator)
    for name in ("simple_block", "simple_block_with_skip"):
        block = nets.create(name, in_features=32, hidden_features=32, out_features=32)
        net = pure.Repeat(block, 30)
        params, state = net.init(torch.Generator().manual_seed(0))

        def loss(
            x: torch.Tensor, net: pure.Block = net, params: object = params, state: object = state
        ) -> torch.Tensor:
            return net(params, x, state).square().mean()

        norm = grad(loss)(x).norm()
        print(f"30 × {name:<24} ‖∂loss/∂x‖ = {norm:.3e}")


if __name__ == "__main__":
    main()
