"""Gives a Python that the function starts the module path that the function itself has.

The worker puts this file's folder on PYTHONPATH; Python imports it as it starts.
"""

import os
import site
import sys

_HERE = os.path.dirname(__file__)

sys.path[:] = [folder for folder in sys.path if folder != _HERE]
site.addsitedir(os.environ.get("KOREN_FUNCTION_FOLDER", "/function") + "/site-packages")
