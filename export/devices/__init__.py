"""Which device can run which node, and what is computed on a CPU beside it: known without a GPU."""
