"""What the gateway reports of an event, and that it reaches the broker."""

import asyncio
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgpack
import structlog

from koren_events import Receipt, ReceiptState, receipt_topic
from koren_events.cloudevent import CloudEvent
from koren_events.times import from_ms
from koren_gateway.errors import ConnectionLost, StoreUnavailable
from koren_gateway.intake.mqtt import Connection
from koren_gateway.queue.queue import RECEIPTS, Entry, Phases, TakenIn
from koren_gateway.queue.store import Store

PHASES = ("received", "activated", "pod_started", "handler_entered", "handler_done")

_AT_ONCE = 200
_WAIT_MS = 2000
_AGAIN_S = 0.5
_log = structlog.get_logger()


def intake_receipts(
    region: str, entry: Entry, event: CloudEvent, its: TakenIn, durable_ms: int
) -> Iterator[tuple[str, bytes]]:
    """Topics and messages that answer an event which is on disk now."""
    phases: Phases = {"received": entry.received_ms}
    error: str | None = None
    if its.outcome == "seen":
        # A repeat of what is held or over is answered so that its publisher lets go of it.
        phases["received"] = its.last_ms
    else:
        phases["durable"] = durable_ms
    match its.outcome:
        case "seen" if its.waits:
            states = [ReceiptState(its.waits)]
        case "held":
            states = [ReceiptState.HELD]
        case "dismissed":
            states = [ReceiptState.HELD, ReceiptState.DISMISSED]
        case "dead-lettered":
            states = [ReceiptState.DEAD_LETTERED]
            error = "held events are full; release or dismiss some"
        case _ if entry.reason:
            states = [ReceiptState.DEAD_LETTERED]
            error = entry.reason
        case _ if entry.functions or entry.hold:
            states = [ReceiptState.RECEIVED]
        case _:
            states = [ReceiptState.RECEIVED, ReceiptState.NO_FUNCTION]
    for state in states:
        receipt = _receipt(region, event, state, durable_ms, phases, error=error)
        yield receipt_topic(region, event.source, event.id), receipt.to_json()


def outbox_receipt(region: str, fields: Mapping[bytes, bytes]) -> tuple[str, bytes]:
    """Topic and message of an entry of the stream `koren:receipts`."""
    event = CloudEvent.from_meta(fields[b"meta"])
    result = fields.get(b"result")
    error = fields.get(b"error")
    receipt = _receipt(
        region,
        event,
        ReceiptState(fields[b"state"].decode()),
        int(fields[b"time"]),
        {name: int(fields[name.encode()]) for name in PHASES if fields.get(name.encode())},
        function=fields[b"function"].decode() or None,
        attempt=int(fields[b"attempt"]) or None,
        result=json.loads(result) if result else None,
        error=error.decode(errors="replace") if error else None,
    )
    return receipt_topic(region, event.source, event.id), receipt.to_json()


def _receipt(
    region: str,
    event: CloudEvent,
    state: ReceiptState,
    at_ms: int,
    phases: Phases,
    **more: Any,
) -> Receipt:
    known = phases if event.time_ms is None else {"event_time": event.time_ms, **phases}
    return Receipt(
        id=event.id,
        source=event.source,
        region=region,
        subject=event.subject,
        state=state,
        time=from_ms(at_ms),
        phases={name: from_ms(at_ms) for name, at_ms in known.items()},
        **more,
    )


class Parcel:
    """Topics and messages of receipts that wait. Those of a batch are much alike: compressed they take about a
    tenth."""

    def __init__(self, receipts: Sequence[tuple[str, bytes]]) -> None:
        self._packed = zlib.compress(msgpack.packb(receipts), 1)

    def receipts(self) -> list[tuple[str, bytes]]:
        """What was put in."""
        return [(topic, message) for topic, message in msgpack.unpackb(zlib.decompress(self._packed))]


class Outbox:
    """Receipts of what functions did: written to Redis with the deed, by whichever replica, and
    published by the one that is connected to the broker; gone once the broker has them."""

    def __init__(self, store: Store, region: str) -> None:
        self._store = store
        self._region = region

    async def publish_to(self, connection: Connection) -> None:
        """Publishes what there is and what comes, until ConnectionLost is raised."""
        last = b"0"
        while True:
            try:
                answer = await self._store.command(
                    "XREAD", "COUNT", _AT_ONCE, "BLOCK", _WAIT_MS, "STREAMS", RECEIPTS, last
                )
                if not answer:
                    continue
                last = await self._publish(connection, _entries(answer))
            except StoreUnavailable as error:
                _log.warning("receipts wait for redis", problem=str(error))
                await asyncio.sleep(_AGAIN_S)
            except ConnectionLost:
                raise
            except Exception:
                # Receipts must not stop the intake, whatever Redis holds.
                _log.exception("receipts not read")
                await asyncio.sleep(_AGAIN_S)

    async def _publish(self, connection: Connection, entries: list[tuple[bytes, Mapping[bytes, bytes]]]) -> bytes:
        confirmations = []
        for id, fields in entries:
            try:
                topic, message = outbox_receipt(self._region, fields)
            except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
                _log.error("receipt dropped", stream_id=id.decode(), problem=repr(error))
                continue
            confirmations.append(connection.publish(topic, message))
        await asyncio.gather(*confirmations)
        ids = [id for id, _ in entries]
        await self._store.command("XDEL", RECEIPTS, *ids)
        return ids[-1]


def _entries(answer: Any) -> list[tuple[bytes, Mapping[bytes, bytes]]]:
    # redis-py parses XREAD's answer into {stream: [(id, fields)]} or a list of pairs.
    streams = answer.values() if isinstance(answer, dict) else (pairs for _, pairs in answer)
    return [(id, fields) for entries in streams for id, fields in entries if fields is not None]
