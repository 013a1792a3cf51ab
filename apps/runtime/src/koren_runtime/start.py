"""The file that the pod's Python is started with: `python3 -I -S …/koren_runtime/start.pyc`.

-I and -S leave out what would look into the environment, the user's home and site-packages; the
folder of this package is then found by where this file is.
"""

import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rsplit("/", 2)[0])

    from koren_runtime.supervisor import main

    main()
