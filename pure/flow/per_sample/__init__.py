"""Gradients of every sample by itself, and their norms without forming them."""
