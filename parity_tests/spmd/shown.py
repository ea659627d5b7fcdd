"""An audit over all ranks that shows its progress: a program for the test of who prints."""

import torch
import torch.distributed as dist

import pure
from pure import flow

__all__ = ["main"]


def main() -> None:
    """Audit a small network with bars."""
    dist.init_process_group("gloo")
    net = pure.nets.residual_mlp(3, 4, depth=5)
    params, _ = net.init(torch.Generator().manual_seed(0))
    flow.audit(net, params, torch.ones(2, 3), group="world", progress=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
