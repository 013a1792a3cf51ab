"""What was learned of one camera on disk, so that a detector that starts knows it."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .durable import write_json
from .settings import CameraSettings

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Kept:
    """One camera's file in `folder`. What is in it is for one `ground`: with another one the camera is set up anew."""

    def __init__(self, settings: CameraSettings, folder: Path) -> None:
        self._camera = settings.camera.id
        self._path = folder / f"{self._camera}.json"
        ground = None if settings.ground is None else settings.ground.homography.tolist()
        size = None if settings.ground_size is None else list(settings.ground_size)
        self._ground = {"homography": ground, "size": size}

    def load(self, read: Callable[[Mapping[str, Any]], T]) -> T | None:
        """What `read` makes of the file, None where there is none that can be used. A damaged one is put aside.

        `read` raises ValueError, KeyError or TypeError for values that can't be.
        """
        try:
            values = json.loads(self._path.read_text())
            if values["ground"] != self._ground:
                _log.info("camera %s: its ground is another one, %s begins anew", self._camera, self._path)
                return None
            return read(values)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.error("%s can't be read and is put aside: %s", self._path, error)
            with contextlib.suppress(OSError):
                self._path.rename(self._path.with_suffix(".damaged"))
            return None

    def write(self, values: Mapping[str, Any]) -> None:
        """Replace the file. One that can't be written is logged."""
        try:
            write_json(self._path, {"ground": self._ground, **values})
        except OSError as error:
            _log.error("%s can't be written: %s", self._path, error)
