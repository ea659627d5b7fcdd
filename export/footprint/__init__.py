"""The bytes that a file keeps alive while it runs, node by node, and orders of its nodes that need fewer."""
