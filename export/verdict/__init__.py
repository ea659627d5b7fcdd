"""The parts of a verdict: the truth in float64, its yardstick, kinks and branches."""
