#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Pin the mirror's current versions of the Debian packages, and show the changes; ``make lock`` calls it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ansible_collections.koren.faas.plugins.module_utils.bundle import BundleError
from ansible_collections.koren.faas.plugins.module_utils.bundle_lock import gone, in_words, renew

REPO = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(";")[0])
    parser.add_argument("--if-gone", action="store_true", help="only if the mirror lacks a pinned package")
    asked = parser.parse_args()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "koren-faas"
    try:
        if asked.if_gone:
            if not (missing := gone(REPO, cache)):
                print("All pinned Debian packages are available.")
                return
            print(f"No longer available: {', '.join(f'{each.name} {each.version}' for each in missing)}")
        changes = renew(REPO, cache)
    except BundleError as error:
        sys.exit(str(error))
    print(in_words(changes) if changes else "The lock is up to date.")


if __name__ == "__main__":
    main()
