"""Convolutional networks, one file a family."""
