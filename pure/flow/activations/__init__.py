"""Measurements by depth: signal, gates, residual steps, activation gradients, deletion of branches."""
