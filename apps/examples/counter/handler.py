# SPDX-License-Identifier: Apache-2.0
"""Counts messages by their topic, in the region's Redis."""

from koren_runtime import state


def handler(event, context):
    """Count the message, and give how many there are of its topic."""
    topic = event["extensions"]["mqtttopic"]
    return {"topic": topic, "count": add(f"count/{topic}")}


def add(key):
    """Add one to a number that other pods write too."""
    while True:
        entry = state.get(key)
        count = int(entry.value) + 1 if entry else 1
        try:
            state.put(key, str(count).encode(), version=entry.version if entry else state.ABSENT)
            return count
        except state.Conflict:
            continue  # another pod was faster: read it again
