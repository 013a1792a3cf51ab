"""torch, OpenCV and numpy are the host's: a virtual environment without them finds Debian's."""

import importlib.util
import sys
from pathlib import Path

from hypothesis import settings

DEBIAN = "/usr/lib/python3/dist-packages"

if importlib.util.find_spec("numpy") is None:
    sys.path.append(DEBIAN)

sys.path.append(str(Path(__file__).resolve().parents[1] / "training"))

# A machine that runs other things stalls for longer than an example may take.
settings.register_profile("koren", deadline=None)
settings.load_profile("koren")
