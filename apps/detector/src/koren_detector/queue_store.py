"""One camera's map of queues on disk, so that a detector that starts need not learn it anew."""

from __future__ import annotations

from pathlib import Path

from .kept import Kept
from .queue_map import QueueMap
from .settings import CameraSettings

_SAVE_EVERY_S = 300.0


class QueueStore:
    """Keeps where vehicles usually stand in a camera's own view, for one `ground`; a few kilobytes in `folder`."""

    def __init__(self, settings: CameraSettings, folder: Path) -> None:
        self._kept = Kept(settings, folder)
        self._saved_s: float | None = None

    def load(self) -> QueueMap:
        """The map that was kept, or one that knows nothing."""
        return self._kept.load(QueueMap.from_dict) or QueueMap()

    def keep(self, queues: QueueMap, time_s: float) -> None:
        """Write the map to disk every five minutes."""
        if self._saved_s is None:
            self._saved_s = time_s
        elif not 0 <= time_s - self._saved_s < _SAVE_EVERY_S:
            self._saved_s = time_s
            self._kept.write(queues.to_dict())
