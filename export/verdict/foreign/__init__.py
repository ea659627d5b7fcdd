"""Files, functions and inputs from elsewhere: nothing of this library has to be in them.

- What is the call: `flat_call` (everything fixed but its tensors), `samples` (further inputs).
- Which input and output of the file is which tensor of the call: `matching`.
- The file beside the function: `foreign_file`.
- Rounding scales of what cannot be recorded: `eager_noise`.
"""
