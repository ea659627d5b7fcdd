"""Small networks: those of the tutorials, and classifiers of one shape with four kinds of skip."""
