"""Tangent kernels: the empirical one of a network, and those of infinitely wide networks."""
