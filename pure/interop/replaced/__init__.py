"""What functions of PyTorch are replaced by while a module is called as a pure function."""
