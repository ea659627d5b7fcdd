"""An extension of griffe: doctests become the section `Examples:`, the only one that griffe knows.

Google's style allows `Example:` too, and a short docstring may end in a doctest without a heading.
"""

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename or add the section in an object's docstring."""
        if obj.docstring:
            obj.docstring.value = with_section(obj.docstring.value)


def with_section(text: str) -> str:
    """Return a docstring whose doctests stand in a section."""
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    start = re.search(r"^>>> ", text, flags=re.MULTILINE)
    if not start:
        return text
    tests = "\n".join(f"    {line}" for line in text[start.start() :].splitlines())
    return f"{text[: start.start()].rstrip()}\n\nExamples:\n{tests}"
