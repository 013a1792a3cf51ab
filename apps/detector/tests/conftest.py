"""torch, OpenCV and numpy are the host's: a virtual environment without them finds Debian's."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

DEBIAN = "/usr/lib/python3/dist-packages"

if importlib.util.find_spec("numpy") is None:
    sys.path.append(DEBIAN)

sys.path.append(str(Path(__file__).resolve().parents[1] / "training"))

# A machine that runs other things stalls for longer than an example may take.
settings.register_profile("koren", deadline=None)
settings.load_profile("koren")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """OpenCV uses one thread."""
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(threads)
