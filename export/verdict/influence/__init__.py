"""What a verdict says nothing about: inputs, weights and branches that no output depends on.

- Which are they: `unused`.
- What does the recorded function give in float64, for autograd to see: `exact_runs`.
"""
