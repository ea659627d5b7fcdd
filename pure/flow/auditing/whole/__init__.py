"""Audits of what is no chain: run whole, its tagged streams and submodules stand for the depths."""
