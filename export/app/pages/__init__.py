"""What the report and the reference page share: markup, styles, and numbers as text."""
