"""What is known about each operator, one file a family."""
