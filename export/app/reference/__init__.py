"""The reference page: every row of the catalogue on one self-contained page, made by `pure-export reference`."""
