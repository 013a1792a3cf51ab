"""One camera's known views on disk, so that a detector that starts knows which of them the camera shows."""

from __future__ import annotations

from pathlib import Path

from .kept import Kept
from .settings import CameraSettings
from .view import ViewWatch

_SAVE_EVERY_S = 300.0


class ViewStore:
    """Keeps the views of a camera in `folder`, at most about a megabyte.

    They are for one `ground`: with another one the camera is set up anew, and the view that it shows first is its own.
    """

    def __init__(self, settings: CameraSettings, folder: Path) -> None:
        self._kept = Kept(settings, folder)
        self._saved: tuple[float, frozenset[int]] | None = None

    def load(self, time_s: float) -> ViewWatch:
        """A watch that knows what was kept, or nothing if that can't be used."""
        watch = self._kept.load(lambda values: ViewWatch.from_dict(values, time_s))
        if watch is None:
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
        self._kept.write(watch.to_dict(time_s))
