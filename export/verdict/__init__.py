"""Verdicts: does a file compute what the function computes?

- Which inputs, sizes and branches is a file judged on: `verification`, `judge`, `judged_file`, `branch_forcing`.
- How large may an element's error be: `monte_carlo` (its rounding scale), `noise_model` (how much an operator rounds),
  `decisions` (what rounding leaves open), `sampled` (what noisy runs say), `comparison` (elements, slices and leaves).
- What does the function itself give: `reference_runs`.
- Which inputs and weights does the verdict say nothing about: the folder `influence`.
- How is a file of another writer, or a module, judged: the folder `foreign`.
- Where does a file first differ: `localisation`, `reproduction`.
- What is reported: `verdict_result`.
"""
