"""The application: the command `pure-export`, the report and the reference page."""
