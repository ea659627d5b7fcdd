"""Per-sample gradients, and their norms without forming them."""
