"""Closed forms at random initialisation, one file a law."""
