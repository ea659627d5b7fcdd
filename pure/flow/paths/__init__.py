"""Derivatives split by the number of branches that a path passes through."""
