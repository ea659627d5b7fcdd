"""Reversible and implicit blocks."""
