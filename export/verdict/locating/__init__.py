"""Where a file differs from the function: values of both sides matched, the first wrong node, its reproduction."""
