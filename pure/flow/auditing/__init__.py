"""The audit: forward and backward block by block, what is measured on the way, and the result."""

from pure.flow.auditing.audit_network import audit
from pure.flow.auditing.audit_result import Advice, Audit, BlockDeletion, BlockFlow, PairNorm, PathShares

__all__ = ["Advice", "Audit", "BlockDeletion", "BlockFlow", "PairNorm", "PathShares", "audit"]
