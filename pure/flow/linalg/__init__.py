"""Linear algebra for operators known by their products: Lanczos, Golub–Kahan, quadrature, traces."""
