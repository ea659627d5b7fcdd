"""Residual branches with a factor, an initial scale or a norm in a chosen place."""
