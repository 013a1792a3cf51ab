"""How long the tests with random inputs search.

In a normal run each searches a little, always along the same way, so that it fails only for a change.
With `KOREN_FUZZ=long` (`make fuzz`) it goes on for minutes, along another way each time, and prints how a
failure is seen again.
"""

import os

from hypothesis import HealthCheck, settings

LONG = os.environ.get("KOREN_FUZZ") == "long"


def search(short: int, long: int, **more: int) -> settings:
    """Hypothesis' settings for so many examples."""
    return settings(
        max_examples=long if LONG else short,
        derandomize=not LONG,
        database=None,
        print_blob=LONG,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )
