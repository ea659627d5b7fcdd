"""Typed errors: each message says what was given, what was expected and how to fix it."""

from __future__ import annotations

from pure_export_shared import ArgumentError, PureError, PureExportError, nearest

__all__ = [
    "ArgumentError",
    "CaptureError",
    "CarryError",
    "DeviceError",
    "DtypeError",
    "ForwardError",
    "GroupError",
    "NoiseError",
    "PeerFailedError",
    "PureError",
    "PureExportError",
    "RankError",
    "RanksDifferError",
    "SaveError",
    "ShapeError",
    "TreeError",
    "UnsupportedError",
    "nearest",
]


class TreeError(PureError, ValueError):
    """A parameter or state tree with missing, extra or mis-shaped leaves, all listed at once.

    Fails: `Linear(3, 4)({"wieght": w}, x)`. Fix: use the names that `block.init` gives.
    """


class ShapeError(PureError, ValueError):
    """Sizes that do not fit together.

    Fails: `Linear(3, 4)(params, torch.zeros(2, 5))`. Fix: the last axis of the input must hold `in_features` values.
    """


class RankError(ShapeError):
    """An input with the wrong number of axes; the batch axis is always there.

    Fails: `Conv2d(3, 8, 3)(params, image)` on a (3, H, W) image. Fix: `image.unsqueeze(0)`.
    """


class DtypeError(PureError, TypeError):
    """Parameters and inputs of different dtypes, or a dtype that the operation does not take.

    Fails: `block(params, x.double())` on float32 params. Fix: `pure.cast(params, x.dtype)` or cast the input.
    """


class DeviceError(PureError, ValueError):
    """Parameters and inputs on different devices.

    Fails: `block(params, x.cuda())` on CPU params. Fix: move both to one device.
    """


class ForwardError(PureError, RuntimeError):
    """A module's or block's forward that fails for a reason of its own, which the message quotes.

    Fails: a module of one's own that raises `ValueError("no cache")`. Fix: the line that the message names.
    """


class NoiseError(PureError, ValueError):
    """A stochastic block run in training without its pre-drawn noise.

    Fails: `Dropout(0.5).apply({}, x, {}, {}, training=True)`. Fix: pass `noise=block.noise(x.shape, generator)`.
    """


class CaptureError(PureError, ValueError):
    """A tag or a capture that cannot be honoured, such as an unknown kind.

    Fails: `tag(x, "h", kind="activation")`. Fix: use one of "stream", "branch", "gate", "loss".
    """


class CarryError(PureError, ValueError):
    """A scan whose step returns another structure, shape or dtype of carry than it was given.

    Fails: `scan(lambda c, x: (c + x, None), torch.zeros(()), torch.ones(3, 2))`. Fix: start with `torch.zeros(2)`.
    """


class UnsupportedError(PureError, NotImplementedError):
    """A request without a correct answer, e.g. per-sample gradients through training BatchNorm.

    Fails: `flow.per_sample_norms` of a loss that couples the samples. Fix: use a norm that does not couple them.
    """


class SaveError(PureError, OSError):
    """A file that could not be written or read; nothing is left half written.

    Fails: `save(params, "/no/such/folder/p.safetensors")`. Fix: create the folder, or give a writable path.
    """


class GroupError(PureError, RuntimeError):
    """A collective without a process group, of a group that this process is not in, or outside of `spmd.shard_map`.

    Fails: `spmd.shard_map(loss, sharded=1)(params, x)` before `torch.distributed.init_process_group`.
    Fix: initialise it, and start the processes by `torchrun --nproc-per-node 2 script.py`.
    """


class RanksDifferError(PureError, ValueError):
    """Ranks that are not at the same call, or whose shapes, dtypes or values differ where they must agree.

    Fails: `spmd.psum(x)` of shape (3,) on one rank and (4,) on another. Fix: give every rank the same program;
    `spmd.gather` takes parts of different length.
    """


class PeerFailedError(PureError, RuntimeError):
    """Another rank failed, ended, or did not come to a collective within the process group's timeout.

    Fails: a loss that raises on rank 1; the other ranks raise this, with rank 1's message. Fix: the
    error that it names.
    """
