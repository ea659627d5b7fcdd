"""What several families of operators share: kernels of transforms, windows of convolutions, maps along axes."""
