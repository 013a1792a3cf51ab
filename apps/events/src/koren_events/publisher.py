"""The publisher: takes events to disk at once and to their regions as soon as it can be done."""

import contextlib
import itertools
import logging
import math
import queue
import re
import socket
import sqlite3
import ssl
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from koren_events.contract import validate
from koren_events.errors import ConfigurationError, EventsError, PublishRefused, ReceiptTimeout
from koren_events.event import CONTENT_TYPE, Event, event_topic
from koren_events.health import Health
from koren_events.receipt import Receipt
from koren_events.resend import Outbox
from koren_events.spool import Spool
from koren_events.times import utc_now
from koren_events.topics import RECEIPTS_FILTER, health_topic, receipt_topic

DEFAULT_SPOOL_BYTES = 256 * 2**20

_log = logging.getLogger(__name__)

_WINDOW = 20  # what Mosquitto takes in flight from one client
_KEEPALIVE_S = 15
_SESSION_EXPIRY_S = 3600  # a comfort: what it loses is sent again
_RECONNECT_S = (1, 5)
_SETTLE_AGAIN_S = 1.0
_TRACKED = 1000
_HEALTH_FILTER = "health/+/gateway"
_LEVEL = re.compile(r"[^/+#\s]+")


@dataclass(frozen=True, slots=True)
class _Connected:
    pass


@dataclass(frozen=True, slots=True)
class _Disconnected:
    why: str


@dataclass(frozen=True, slots=True)
class _Acknowledged:
    mid: int
    refusal: str | None


@dataclass(frozen=True, slots=True)
class _Arrived:
    topic: str
    message: bytes
    retained: bool


@dataclass(frozen=True, slots=True)
class _Added:
    key: str
    region: str


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


_Happening = _Connected | _Disconnected | _Acknowledged | _Arrived | _Added | _Stop


@dataclass(slots=True)
class _ToSettle:
    """What the spool is to be told."""

    sent: list[str] = field(default_factory=list)
    received: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.sent or self.received)


@dataclass(slots=True)
class _Track:
    """What came back for one event that was published here."""

    receipts: list[Receipt] = field(default_factory=list)
    refusal: str | None = None


class Publisher:
    """Publishes events that are not lost, whichever process, broker or link dies on the way.

    A context manager: inside it, a thread sends what the spool holds and takes receipts in. An
    event leaves the spool once its region's gateway has it on disk. Whoever opens the same spool
    later goes on where this one ended.

    `spool` is a file of this publisher alone, `spool_limit_bytes` what its events may add up to.
    `client_id` must be unique at the broker and stay the same over restarts. The client's
    certificate is its user name, and must be allowed to write `events/#` and to read `receipts/#`
    and `health/#`. `on_receipt` is called, in the publisher's thread, with every receipt that the
    broker delivers, those of other publishers' events included. `health_part` makes the publisher
    keep `health/central/<part>` true, by a last will.

    Raises ConfigurationError when a file or a name can't be used, SpoolInUse when the spool is
    open elsewhere. A broker that can't be reached is no error: events wait.
    """

    def __init__(
        self,
        *,
        spool: Path,
        host: str,
        port: int = 8883,
        ca: Path,
        cert: Path,
        key: Path,
        client_id: str,
        spool_limit_bytes: int = DEFAULT_SPOOL_BYTES,
        on_receipt: Callable[[Receipt], None] | None = None,
        health_part: str | None = None,
    ) -> None:
        for name, value in (("client_id", client_id), ("health_part", health_part)):
            if value is not None and not _LEVEL.fullmatch(value):
                raise ConfigurationError(
                    f"{name} {value!r} must not be empty or have spaces, '/', '+', '#'"
                )
        self._address = f"{host}:{port}"
        self._on_receipt = on_receipt
        self._health_part = health_part
        self._happenings: queue.SimpleQueue[_Happening] = queue.SimpleQueue()
        # paho calls back while it holds locks of its own: its callbacks put a happening into the
        # queue and touch nothing else; all else is the worker's. `_changed` guards what callers
        # wait for, and is never held around a call into paho.
        self._changed = threading.Condition()
        self._tracks: OrderedDict[str, _Track] = OrderedDict()
        self._left = 0
        self._failure: Exception | None = None
        self._to_settle = _ToSettle()
        self._down_because: str | None = "the first connection is being made"
        self._outbox = Outbox()
        self._mids: dict[int, str] = {}
        self._health: dict[str, Health] = {}
        self._client = self._make_client(host, port, client_id, ca, cert, key)
        self._spool = Spool(spool, limit_bytes=spool_limit_bytes)
        self._worker = threading.Thread(target=self._work, name="koren-events", daemon=True)

    def __enter__(self) -> Self:
        entries = self._spool.entries()
        self._left = len(entries)
        for entry in entries:
            self._outbox.add(
                entry.receipt_topic, entry.region, sends=entry.sends, sent_at=entry.sent_at
            )
        self._client.loop_start()
        self._worker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._happenings.put(_Stop())
        self._worker.join()
        self._client.disconnect()
        self._client.loop_stop()
        self._spool.close()

    def publish(self, event: Event) -> None:
        """Puts the event into the spool and returns; it is on disk then, and will be sent.

        The same event again changes nothing. Raises InvalidEvent for what no gateway would accept,
        and SpoolFull; the event is not taken then.
        """
        message = validate(event)
        key = _key(event)
        with self._changed:
            self._check_working()
            if self._spool.put(
                receipt_topic=key, region=event.region, topic=event_topic(event), message=message
            ):
                # An event that was delivered before gets a new answer.
                self._tracks[key] = _Track()
                self._left += 1
            else:
                self._tracks.setdefault(key, _Track())
            self._tracks.move_to_end(key)
            if len(self._tracks) > _TRACKED:
                self._tracks.popitem(last=False)
        self._happenings.put(_Added(key, event.region))

    def wait(self, event: Event, timeout_s: float) -> Receipt:
        """Waits until the region has the event on disk; its first receipt.

        Raises ReceiptTimeout, whose message says where the event is, PublishRefused when the
        broker does not let this client publish it, and KeyError when it was not published here.
        Either way the event stays in the spool and is sent again.
        """
        return self._await_receipt(event, 0, time.monotonic() + timeout_s)

    def receipts(self, event: Event, timeout_s: float) -> Iterator[Receipt]:
        """The event's receipts as they come, up to and with the first final one.

        An event that several functions take has a final one of each: `on_receipt` gets them all.
        Raises as `wait` does, ReceiptTimeout when the final one is not there after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        for place in itertools.count():
            receipt = self._await_receipt(event, place, deadline)
            yield receipt
            if receipt.state.final:
                return

    def flush(self, timeout_s: float) -> bool:
        """Waits until the spool is empty: every event is on disk in its region. False if not."""
        with self._changed:
            self._changed.wait_for(lambda: self._left == 0 or self._failure, timeout_s)
            self._check_working()
            return self._left == 0

    @property
    def spooled(self) -> int:
        """How many events no region has acknowledged yet."""
        with self._changed:
            return self._left

    def _check_working(self) -> None:
        if self._failure is not None:
            raise EventsError(
                f"the publisher has stopped: {self._failure!r}; the spool keeps its events, "
                "open it anew"
            ) from self._failure

    def _await_receipt(self, event: Event, place: int, deadline: float) -> Receipt:
        if threading.current_thread() is self._worker:
            raise RuntimeError("on_receipt must not wait: receipts come in its own thread")
        key = _key(event)
        with self._changed:
            track = self._tracks.get(key)
            if track is None:
                raise KeyError(f"event {event.id} is not among the last {_TRACKED} published here")
            self._changed.wait_for(
                lambda: len(track.receipts) > place or track.refusal or self._failure,
                max(0.0, deadline - time.monotonic()),
            )
            if len(track.receipts) > place:
                return track.receipts[place]
            self._check_working()
            if track.refusal is not None:
                raise PublishRefused(
                    f"{self._address} refused event {event.id} on {event_topic(event)}: "
                    f"{track.refusal}; check the broker's ACL for this client's certificate"
                )
            down_because = self._down_because
            health = self._health.get(event.region)
        raise ReceiptTimeout(_explain(event, place, self._address, down_because, health))

    # What follows runs in the worker's thread.

    def _work(self) -> None:
        try:
            stopping = False
            while not stopping:
                happenings = self._next_happenings()
                stopping = any(isinstance(happening, _Stop) for happening in happenings)
                self._handle(happenings)
                if not stopping and self._down_because is None:
                    self._send()
            if self._down_because is None:
                self._say_goodbye()
        except Exception as error:
            _log.exception("the publisher stops; the spool keeps its events")
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _next_happenings(self) -> list[_Happening]:
        wait_s = None
        if self._to_settle:
            wait_s = _SETTLE_AGAIN_S
        elif self._down_because is None and self._outbox.next_due_at < math.inf:
            wait_s = max(0.0, self._outbox.next_due_at - time.time())
        happenings: list[_Happening] = []
        with contextlib.suppress(queue.Empty):
            happenings.append(self._happenings.get(timeout=wait_s))
            while True:
                happenings.append(self._happenings.get_nowait())
        return happenings

    def _handle(self, happenings: list[_Happening]) -> None:
        arrived: list[tuple[str, Receipt]] = []
        for happening in happenings:
            match happening:
                case _Connected():
                    self._connected()
                case _Disconnected(why):
                    self._disconnected(why)
                case _Added(key, region):
                    self._outbox.add(key, region)
                case _Acknowledged(mid, refusal):
                    key = self._mids.pop(mid, "")
                    if key:
                        self._outbox.acknowledged(key, time.time())
                        self._note_refusal(key, refusal)
                        self._to_settle.sent.append(key)
                case _Arrived(topic, message, retained) if topic.startswith("health/"):
                    self._note_health(topic, message, retained=retained)
                case _Arrived(topic, message):
                    receipt = _read_receipt(topic, message)
                    if receipt is not None:
                        arrived.append((topic, receipt))
                        if self._outbox.received(topic):
                            self._to_settle.received.append(topic)
        settled = self._settle() if self._to_settle else 0
        if arrived or settled:
            self._hand_out(arrived, settled)

    def _settle(self) -> int:
        try:
            self._spool.settle(sent=self._to_settle.sent, received=self._to_settle.received)
        except sqlite3.OperationalError as error:
            # A full disk, most likely; it costs a repeated event should the process end before.
            _log.error("the spool can't be written, trying again: %s", error)
            return 0
        settled = len(self._to_settle.received)
        self._to_settle = _ToSettle()
        return settled

    def _hand_out(self, arrived: list[tuple[str, Receipt]], settled: int) -> None:
        with self._changed:
            self._left -= settled
            for topic, receipt in arrived:
                track = self._tracks.get(topic)
                # The same step twice: a broker's repeat, or the answer to an event's repeat.
                if track is not None and not any(
                    _step(known) == _step(receipt) for known in track.receipts
                ):
                    track.receipts.append(receipt)
                    track.refusal = None
            self._changed.notify_all()
        if self._on_receipt is not None:
            for _, receipt in arrived:
                try:
                    self._on_receipt(receipt)
                except Exception:
                    _log.exception("on_receipt failed for event %s", receipt.id)

    def _connected(self) -> None:
        _log.info("connected to %s", self._address)
        self._outbox.connected(time.time())
        self._down_because = None
        # Sent before any event, so the broker knows it before it can have a receipt.
        self._client.subscribe(
            [(RECEIPTS_FILTER, _AT_LEAST_ONCE), (_HEALTH_FILTER, _AT_LEAST_ONCE)]
        )
        if self._health_part is not None:
            health = Health(region="central", part=self._health_part, state="up", since=utc_now())
            self._publish_health(health)

    def _disconnected(self, why: str) -> None:
        if self._down_because != why:
            _log.warning("not connected to %s: %s", self._address, why)
        self._down_because = why

    def _note_refusal(self, key: str, refusal: str | None) -> None:
        with self._changed:
            track = self._tracks.get(key)
            if track is not None:
                track.refusal = refusal
                self._changed.notify_all()
        if refusal is not None:
            _log.error(
                "%s refused an event for which receipts come on %s: %s", self._address, key, refusal
            )

    def _note_health(self, topic: str, message: bytes, *, retained: bool) -> None:
        region = topic.split("/")[1]
        try:
            health = Health.from_json(message)
        except ValueError as error:
            _log.warning("%s: %s", topic, error)
            return
        known = self._health.get(region)
        self._health[region] = health
        # What a new subscription brings first tells the state, not that it has changed.
        returned = not retained if known is None else health != known
        if health.state == "up" and returned:
            _log.info("the gateway of %s is back", region)
            self._outbox.region_returned(region, time.time())

    def _send(self) -> None:
        for key in self._outbox.take(time.time(), room=_WINDOW - self._outbox.in_flight):
            topic, message = self._spool.message(key)
            properties = _properties(PacketTypes.PUBLISH, ContentType=CONTENT_TYPE)
            info = self._client.publish(topic, message, qos=1, properties=properties)
            # paho keeps what the connection's end interrupts, and sends it on the next one.
            self._mids[info.mid] = key

    def _publish_health(self, health: Health) -> mqtt.MQTTMessageInfo:
        topic = health_topic(health.region, health.part)
        return self._client.publish(topic, health.to_json(), qos=1, retain=True)

    def _say_goodbye(self) -> None:
        # The broker keeps the last will to itself when a client takes its leave.
        if self._health_part is not None:
            health = Health(region="central", part=self._health_part, state="down", since=utc_now())
            with contextlib.suppress(RuntimeError):
                self._publish_health(health).wait_for_publish(1.0)

    # What follows runs in paho's thread.

    def _make_client(
        self, host: str, port: int, client_id: str, ca: Path, cert: Path, key: Path
    ) -> mqtt.Client:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        client.tls_set_context(_tls(ca, cert, key))
        client.max_inflight_messages_set(_WINDOW)
        client.reconnect_delay_set(*_RECONNECT_S)
        client.on_socket_open = _send_at_once
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        if self._health_part is not None:
            will = Health(region="central", part=self._health_part, state="down")
            client.will_set(
                health_topic(will.region, will.part), will.to_json(), qos=1, retain=True
            )
        properties = _properties(PacketTypes.CONNECT, SessionExpiryInterval=_SESSION_EXPIRY_S)
        client.connect_async(
            host, port, keepalive=_KEEPALIVE_S, clean_start=False, properties=properties
        )
        return client

    def _on_connect(
        self, client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        if reason.is_failure:
            self._happenings.put(_Disconnected(f"the broker answered '{reason}'"))
        else:
            self._happenings.put(_Connected())

    def _on_connect_fail(self, client: mqtt.Client, userdata: Any) -> None:
        # paho calls this where it caught the error, and does not pass it on.
        error = sys.exc_info()[1]
        self._happenings.put(_Disconnected(str(error) or "no answer"))

    def _on_disconnect(
        self, client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        self._happenings.put(_Disconnected(f"the connection ended ({reason})"))

    def _on_publish(
        self, client: mqtt.Client, userdata: Any, mid: int, reason: Any, properties: Any
    ) -> None:
        self._happenings.put(_Acknowledged(mid, str(reason) if reason.is_failure else None))

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        self._happenings.put(
            _Arrived(message.topic, bytes(message.payload), retained=message.retain)
        )


_AT_LEAST_ONCE = SubscribeOptions(qos=1)


def _properties(packet_type: int, **values: Any) -> Properties:
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def _key(event: Event) -> str:
    return receipt_topic(event.region, event.source, event.id)


def _step(receipt: Receipt) -> tuple[str, str | None, int | None]:
    return (receipt.state, receipt.function, receipt.attempt)


def _read_receipt(topic: str, message: bytes) -> Receipt | None:
    try:
        receipt = Receipt.from_json(message)
    except ValueError as error:
        _log.warning("%s: %s", topic, error)
        return None
    # A broker lets a region's gateway write below its own region only: the topic is the proof.
    if topic != receipt_topic(receipt.region, receipt.source, receipt.id):
        _log.warning("%s: the receipt is of another event or region", topic)
        return None
    return receipt


def _explain(
    event: Event, place: int, address: str, down_because: str | None, health: Health | None
) -> str:
    missing = "no receipt" if place == 0 else f"{place} receipts and no further one"
    text = f"{missing} for event {event.id} from region {event.region}: "
    if down_because is not None:
        text += f"not connected to {address}: {down_because}"
    elif health is None:
        text += f"{address} knows no gateway of this region; is its name right, its bridge up?"
    elif health.state == "down":
        text += "its gateway is down"
    else:
        text += "its gateway is up; it has not answered yet"
    return text + ". The event is in the spool and is being sent"


def _tls(ca: Path, cert: Path, key: Path) -> ssl.SSLContext:
    for name, path in (("ca", ca), ("cert", cert), ("key", key)):
        if not path.is_file():
            raise ConfigurationError(f"{name}: {path} is not a file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"ca: {ca} holds no certificate: {error}") from None
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"cert {cert} and key {key} can't be read or don't belong together: {error}"
        ) from None
    return context


def _send_at_once(client: mqtt.Client, userdata: Any, opened: Any) -> None:
    # An event right after a receipt's acknowledgement would wait 40 ms for that one's delivery.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
