"""Tags of modules from elsewhere: submodules' outputs by path, and residual sums found in the record of a call."""
