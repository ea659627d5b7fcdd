"""Depth and width chosen while running."""
