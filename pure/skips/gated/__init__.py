"""Gates in place of the sum, or on the branch."""
