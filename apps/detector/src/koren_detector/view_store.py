"""One camera's known views on disk, so that a detector that starts knows which of them the camera shows."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path

from .durable import write_json
from .settings import CameraSettings
from .view import ViewWatch

_log = logging.getLogger(__name__)

_SAVE_EVERY_S = 300.0


class ViewStore:
    """Keeps the views of a camera in `folder`, at most about a megabyte.

    They are for one `ground`: with another one the camera is set up anew, and the view that it shows first is its own.
    """

    def __init__(self, settings: CameraSettings, folder: Path) -> None:
        self._camera = settings.camera.id
        self._path = folder / f"{self._camera}.json"
        ground = None if settings.ground is None else settings.ground.homography.tolist()
        size = None if settings.ground_size is None else list(settings.ground_size)
        self._ground = {"homography": ground, "size": size}
        self._saved: tuple[float, frozenset[int]] | None = None

    def load(self, time_s: float) -> ViewWatch:
        """A watch that knows what was kept, or nothing if that can't be used."""
        try:
            values = json.loads(self._path.read_text())
            if values["ground"] != self._ground:
                _log.info("camera %s: its ground is another one, its first view is its own", self._camera)
                return ViewWatch()
            watch = ViewWatch.from_dict(values, time_s)
        except FileNotFoundError:
            return ViewWatch()
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.error("views %s can't be read and are put aside: %s", self._path, error)
            with contextlib.suppress(OSError):
                self._path.rename(self._path.with_suffix(".damaged"))
            return ViewWatch()
        self._saved = (time_s, watch.settled)
        return watch

    def keep(self, watch: ViewWatch, time_s: float) -> None:
        """Write the views to disk where one is new, and every five minutes, for light changes."""
        settled = watch.settled
        if not settled or 0 not in settled:
            return
        if self._saved is not None:
            saved_s, known = self._saved
            if known == settled and 0 <= time_s - saved_s < _SAVE_EVERY_S:
                return
        self._saved = (time_s, settled)
        try:
            write_json(self._path, {"ground": self._ground, **watch.to_dict(time_s)})
        except OSError as error:
            _log.error("views %s can't be written: %s", self._path, error)
