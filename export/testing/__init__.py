"""Verdicts in test suites: what a run under other versions is compared with. `pure_export_pytest` is the plugin."""
