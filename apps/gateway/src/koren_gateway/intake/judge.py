"""What becomes of a message: work for the functions that want it, or a dead letter."""

import hashlib
from collections.abc import Callable, Sequence

from koren_events import MAX_EVENT_BYTES
from koren_events.cloudevent import CloudEvent, check_unclaimed, parse
from koren_events.errors import InvalidEvent
from koren_gateway.cluster.functions import Function
from koren_gateway.cluster.sources import EVENTS, Source
from koren_gateway.intake.mqtt import Arrival
from koren_gateway.intake.wrap import parsed, wrapped
from koren_gateway.queue.queue import Entry, event_key
from koren_gateway.tracing import Spans, trace_of


def judge(
    arrival: Arrival,
    region: str,
    wanting: Callable[[str], Sequence[Function]],
    spans: Spans | None = None,
    *,
    source: Source | None = None,
    id: str = "",
) -> Entry:
    """The entry for the queue. Raises nothing: whatever the message holds, it is judged.

    `source` is the declared source that the message came by, and `id` the event's where that takes none from
    the payload.
    """
    event: CloudEvent | None = None
    functions: Sequence[Function] = ()
    message = arrival.message
    topic = source.event_topic(region) if source is not None else arrival.topic
    try:
        if len(message) > MAX_EVENT_BYTES:
            raise InvalidEvent(f"{len(message)} bytes, more than {MAX_EVENT_BYTES}")
        event, message = _event_of(arrival, source, region, id)
        check_unclaimed(event)
        reason = _wrong_with(topic, event, region)
        functions = () if reason else wanting(topic)
    except InvalidEvent as error:
        reason = str(error)
    except Exception as error:
        reason = f"could not be judged: {type(error).__name__}: {error}"
    return Entry(
        key=_key(arrival, event),
        event=event,
        message=message,
        received_ms=arrival.received_ms,
        topic=topic,
        source=source.name if source is not None else "",
        functions=functions,
        reason=reason[:1000].encode(errors="replace").decode(),
        trace=trace_of(event, arrival.topic, spans),
    )


def as_rubbish(entry: Entry, problem: str, event: CloudEvent | None) -> Entry:
    """The same message as a dead letter of no function, since it can't be taken in as it is.

    `event` is what is kept of its attributes: none when they may be the reason.
    """
    return Entry(
        key=entry.key,
        event=event,
        message=entry.message,
        received_ms=entry.received_ms,
        source=entry.source,
        reason=f"could not be taken in: {problem}"[:1000],
    )


def _event_of(arrival: Arrival, source: Source | None, region: str, id: str) -> tuple[CloudEvent, bytes]:
    if source is not None:
        return wrapped(arrival, source, region, id)
    if arrival.topic and not arrival.topic.startswith(EVENTS):
        raise InvalidEvent(f"no source declares the topic {arrival.topic[:200]}")
    return parsed(arrival) or parse(arrival.message)


def _key(arrival: Arrival, event: CloudEvent | None) -> str:
    if event is not None:
        return event_key(event.source, event.id)
    # The same rubbish again is the same dead letter.
    topic = arrival.topic.encode(errors="surrogatepass")
    return hashlib.sha256(b"\n".join((topic, arrival.message))).hexdigest()[:32]


def _wrong_with(topic: str, event: CloudEvent, region: str) -> str:
    named = topic.split("/")[1] if topic.startswith("events/") else ""
    if named != region or event.region not in (None, region):
        return (
            f"wrong region: this is {region}, the topic {topic[:200]} and the event's region {event.region or 'absent'}"
        )
    return ""
