"""torch.func over torch.distributed: functions of one rank's part as functions of whole values, in every transform."""

from pure.spmd.agreement import guard
from pure.spmd.mapping import shard_map
from pure.spmd.process_group import Group
from pure.spmd.reductions import gather, pmean, psum, rank, shard, size

__all__ = ["Group", "gather", "guard", "pmean", "psum", "rank", "shard", "shard_map", "size"]
