"""Train a small network with batch norm on several processes, then measure the curvature of its loss.

    python examples/spmd_curvature.py                              # one process
    torchrun --nproc-per-node 2 examples/spmd_curvature.py         # two, on any laptop (gloo)
    torchrun --nproc-per-node 8 examples/spmd_curvature.py         # one for each GPU, where there are GPUs (NCCL)

Every process holds a part of the samples. The gradient of the loss of all samples, the Hessian's eigenvalues and each
sample's gradient norm are those of one process, which the script checks on the whole batch at the end.
"""

import os

import torch
import torch.distributed as dist

import pure
from pure import flow, optim, spmd

SAMPLES, FEATURES, CLASSES = 90, 8, 3


def network(group: str | None) -> pure.Block:
    return pure.Sequential(
        pure.Linear(FEATURES, 16),
        pure.BatchNorm(16, group=group),
        pure.Residual(pure.Sequential(pure.Linear(16, 16), pure.Activation("tanh"))),
        pure.Linear(16, CLASSES),
    )


def data(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all samples: three clouds of points."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(SAMPLES) % CLASSES
    centres = torch.randn(CLASSES, FEATURES, generator=generator, dtype=torch.float64)
    x = centres[labels] + torch.randn(SAMPLES, FEATURES, generator=generator, dtype=torch.float64)
    return x.to(device), labels.to(device)


def start() -> torch.device:
    """Start the process group, and return this process's device."""
    cuda = torch.cuda.is_available()
    if "RANK" in os.environ:  # started by torchrun
        dist.init_process_group("nccl" if cuda else "gloo")
    else:
        dist.init_process_group("nccl" if cuda else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def main() -> None:
    device = start()
    net = network("world")
    params, state = net.init(torch.Generator().manual_seed(0), dtype=torch.float64, device=device)  # on all ranks alike
    everything = data(device)
    x, labels = spmd.shard(everything)  # this rank's samples; a data loader would read these only

    def loss(params, state, x, labels):
        logits, state = net.apply(params, x, state, {}, training=True)
        value = torch.nn.functional.cross_entropy(logits, labels)
        return spmd.pmean(value, weight=len(x)), state  # the mean of all samples, however many this rank holds

    # Parameters and state are shared, samples and labels are held in parts; loss and new state are the same on all.
    mapped = spmd.shard_map(loss, sharded=(2, 3), out=("same", "same"))
    step = pure.value_and_grad(mapped, has_aux=True)
    optimiser = optim.sgd(0.2, momentum=0.9)
    memory = optimiser.init(params)
    for epoch in range(20):
        (value, state), gradient = step(params, state, x, labels)
        params, memory = optimiser.step(gradient, memory, params)
        if spmd.rank() == 0 and epoch % 10 == 9:
            print(f"step {epoch + 1}: loss {float(value):.4f}; processes: {spmd.size()}, samples on this one: {len(x)}")

    def batch_loss(params, x, labels):  # of this rank's samples; flow adds the ranks up
        return torch.nn.functional.cross_entropy(net.apply(params, x, state, {}, training=True)[0], labels)

    generator = torch.Generator().manual_seed(2)
    options = {"k": 3, "full": False, "density_probes": 0}
    found = flow.curvature(batch_loss, params, x, labels, generator=generator, group="world", **options)
    if spmd.rank() == 0:
        print(found.table())

    alone = network(None)

    def whole_loss(params, x, labels):  # the same on one process, which holds all samples
        return torch.nn.functional.cross_entropy(alone.apply(params, x, state, {}, training=True)[0], labels)

    generator = torch.Generator().manual_seed(2)
    expected = flow.curvature(whole_loss, params, *everything, generator=generator, **options)
    worst = float(((found.eigenvalues - expected.eigenvalues) / expected.eigenvalues).abs().max())
    if spmd.rank() == 0:
        print(f"eigenvalues as on one process: {worst < 1e-9} (relative difference {worst:.0e})")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
