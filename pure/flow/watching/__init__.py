"""Gradient flow during training: what is measured beside a step, and the page of a run."""
