"""torch, OpenCV and numpy are the host's: a virtual environment without them finds Debian's."""

import importlib.util
import sys
from pathlib import Path

DEBIAN = "/usr/lib/python3/dist-packages"

if importlib.util.find_spec("numpy") is None:
    sys.path.append(DEBIAN)

sys.path.append(str(Path(__file__).resolve().parents[1] / "training"))
