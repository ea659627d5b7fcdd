"""Verdicts in test suites and as pages. `pure_export_pytest` is the plugin."""
