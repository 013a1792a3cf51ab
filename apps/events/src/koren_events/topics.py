"""Names of MQTT topics, the same for publishers, gateways and bridges."""

import hashlib
import re
from functools import lru_cache

from koren_events.errors import InvalidEvent

REGION_PATTERN = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
RECEIPTS_FILTER = "receipts/#"

_LEVEL = re.compile(r"[^/+#\s\x00-\x1f\x7f]{1,128}")


def check_region(region: str) -> None:
    """Raises InvalidEvent unless `region` is a DNS label: it names topics, hosts and clusters."""
    if not re.fullmatch(REGION_PATTERN, region):
        raise InvalidEvent(
            f"region {region[:80]!r} is not a DNS label "
            "(1 to 63 lower-case letters, digits and inner hyphens), e.g. 'seoul'"
        )


def topic_level(name: str, value: str) -> str:
    """The last path segment of `value`, which must be usable as one level of a topic.

    Raises InvalidEvent; `name` says in its message which attribute is meant.
    """
    level = value.rsplit("/", 1)[-1]
    if not _LEVEL.fullmatch(level):
        raise InvalidEvent(
            f"{name} {value[:80]!r} can't name a topic: its last path segment must be "
            "1 to 128 characters without spaces, '+' and '#'"
        )
    return level


@lru_cache(maxsize=1024)
def receipt_topic(region: str, source: str, id: str) -> str:
    """Where the region's gateway reports on the event (`source`, `id`)."""
    digest = hashlib.sha256(f"{source}\n{id}".encode()).hexdigest()
    return f"receipts/{region}/{digest[:32]}"


def health_topic(region: str, part: str) -> str:
    """Where `part` of `region` says, retained and with a last will, whether it is up."""
    return f"health/{region}/{part}"
