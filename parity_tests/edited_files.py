"""Files changed on purpose, as if the exporter had written them so: their digest fits what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from export.files import digest

__all__ = ["save"]


def save(model: onnx.ModelProto, path: Path, **options: Any) -> None:
    """Save a changed model with a new digest; the options are those of `onnx.save`."""
    onnx.save(model, path, **options)
    digest.renew(path)
