"""8-bit files: calibration, what became of the graph, and what was lost."""
