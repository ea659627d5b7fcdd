"""The audit: a forward and a backward sweep block by block, the measurements, and advice."""

from pure.flow.auditing.audit_network import audit
from pure.flow.auditing.audit_result import Advice, Audit, BlockDeletion, BlockFlow, PairNorm, PathShares

__all__ = ["Advice", "Audit", "BlockDeletion", "BlockFlow", "PairNorm", "PathShares", "audit"]
