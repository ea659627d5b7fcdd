"""Small networks: the tutorials', and classifiers that differ in their kind of skip alone."""
