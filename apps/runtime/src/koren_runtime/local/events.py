"""Events for a function on this machine."""

import uuid
from datetime import UTC, datetime
from typing import Any

CALL_TYPE = "kr.koren.faas.invocation"
"""Type of the event that a call of a function is, as the gateway makes it."""


def new_event(data: Any = None, **attributes: Any) -> dict[str, Any]:
    """A CloudEvent with `data`; `attributes` replace its own, such as `type`, `subject` and `id`.

    An attribute that is None is left out.
    """
    event = {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": "local",
        "type": CALL_TYPE,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "region": "local",
        "datacontenttype": "application/json",
        "data": data,
    } | attributes
    return {name: value for name, value in event.items() if value is not None or name == "data"}
