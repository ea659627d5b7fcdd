"""Jacobians of functions and between depths: singular values, norms, correlation of gradients."""
