"""Published measurements of gradient flow, taken again: the paper's claim beside what was found, with intervals."""
