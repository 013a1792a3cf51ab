"""Files that a crash or a power cut leaves whole: as before, or as written."""

from __future__ import annotations

import json
import os
from pathlib import Path


def write_json(path: Path, values: object) -> None:
    """Replaces a file by `values` as JSON, on disk before its name is. Raises OSError."""
    fresh = path.with_suffix(".new")
    with fresh.open("w") as file:
        json.dump(values, file, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
