"""The audit: forward and backward block by block, what is measured on the way, and the result."""

from pure.flow.auditing.measure import audit
from pure.flow.auditing.result import Audit, BlockDeletion, BlockFlow, PairNorm, PathShares

__all__ = ["Audit", "BlockDeletion", "BlockFlow", "PairNorm", "PathShares", "audit"]
