"""The calls of other libraries that docs/coming-from.md names, each run beside ours."""
