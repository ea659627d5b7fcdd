"""Several residual streams, and sums over earlier layers."""
