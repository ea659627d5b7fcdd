"""Transformers, one file a family, and the parts that they share."""
