"""torch, OpenCV and numpy are the host's: a virtual environment without them finds Debian's."""

import importlib.util
import sys

DEBIAN = "/usr/lib/python3/dist-packages"

if importlib.util.find_spec("numpy") is None:
    sys.path.append(DEBIAN)
