"""What is claimed of `pure` and `export`, one file a claim."""
