"""Verdicts: does a file compute what the eager function computes?

- Which inputs, sizes and branches is a file judged on: `verification`, `judge`, `branch_forcing`.
- What do eager, float64 and the file give on the same inputs: `paired_runs`, `reference_runs`.
- How large is an error in units of rounding: `error_ratio`, `pooled_errors`, `elementary_errors`.
- Which side of a decision within rounding did the file take: `kinks`, `followed_run`, `deciding_operators`.
- Where does it first differ: `localisation`.
- What is reported: `verdict_result`.
"""
