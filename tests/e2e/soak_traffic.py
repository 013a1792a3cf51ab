"""Messages of every kind for Seoul, and what must become of each."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import paho.mqtt.client as mqtt
from conftest import CLOSED, DONE, OPENED, SITE_DIR, Identity
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from koren_events import Event, EventsError, Publisher

WORK_S = 0.05
OPEN_AT_ONCE = 6
UPDATES = 5
KEPT_TOPICS = 3
NEVER = 99

# Of each forty messages.
SHARES = {"incident": 28, "invalid": 6, "at_most_once": 2, "retained": 1, "binary": 1, "flaky": 1, "poison": 1}


@dataclass
class Sent:
    """What was sent, by what must become of it."""

    spooled: list[Event] = field(default_factory=list)
    """Handled, those of a subject in this order."""
    unspooled: list[Event] = field(default_factory=list)
    """Handled, unless the broker that had it died; no publisher keeps it."""
    flaky: list[Event] = field(default_factory=list)
    """Handled by its second attempt."""
    poison: list[Event] = field(default_factory=list)
    """A dead letter of the function."""
    released: list[Event] = field(default_factory=list)
    """Held, then handled."""
    dismissed: list[Event] = field(default_factory=list)
    """Held, and never handled."""
    invalid: list[str] = field(default_factory=list)
    """Ids of what is no event; a dead letter of no function."""


class HeldEvent(Event):
    """An event that starts nothing until a person releases it."""

    def to_dict(self) -> dict[str, Any]:
        """The CloudEvent as JSON's values."""
        return Event.to_dict(self) | {"hold": True}


class Line:
    """A client at a broker that comes back by itself, and sends what it is told."""

    def __init__(self, host: str, identity: Identity) -> None:
        self._mqtt = mqtt.Client(CallbackAPIVersion.VERSION2, f"e2e-soak-{uuid.uuid4()}", protocol=mqtt.MQTTv5)
        self._mqtt.tls_set(str(SITE_DIR / "pki" / "ca.crt"), str(identity.cert), str(identity.key))
        self._mqtt.reconnect_delay_set(1, 2)
        self._mqtt.connect(host, 8883)
        self._mqtt.loop_start()

    def send(
        self,
        topic: str,
        message: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """Send once connected (at QoS 0: only if it is now); with `attributes` in CloudEvents' binary mode."""
        properties = None
        if attributes:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ContentType = "application/json"
            properties.UserProperty = list(attributes.items())
        self._mqtt.publish(topic, message, qos=qos, retain=retain, properties=properties)

    def close(self) -> None:
        """Disconnect."""
        self._mqtt.disconnect()
        self._mqtt.loop_stop()


class Traffic:
    """A context that sends so many messages a second until it is left."""

    def __init__(self, publishers: Sequence[Publisher], line: Line, per_s: float, keep_s: int) -> None:
        self.sent = Sent()
        self._publishers = publishers
        self._line = line
        self._pause_s = 1 / per_s
        self._keep_s = keep_s
        self._run = f"{time.time():.0f}"
        self._random = random.Random(self._run)
        self._numbers = iter(range(10**9))
        self._open: list[tuple[Event, int]] = []
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._send_all)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        while self._open:
            self._incident(close=True)
        for number in range(KEPT_TOPICS):
            # What takes a retained message away is a message itself, and no event.
            self._line.send(self._kept(number), b"", retain=True)
            self.sent.invalid.append("")
        if self._failure:
            raise self._failure

    def event(self, kind: type[Event] = Event, subject: str = "", **data: Any) -> Event:
        """A new event for the probe."""
        with self._lock:
            number = next(self._numbers)
        return kind(
            id=f"soak-{self._run}-{number}",
            source=f"e2e-soak-{number % 4}",
            type=DONE,
            subject=subject or f"soak-{self._run}-{number}",
            time=datetime.now(UTC),
            region="seoul",
            sequence=1,
            data={"do": "note", "work_s": WORK_S, "keep_s": self._keep_s} | data,
        )

    def _send_all(self) -> None:
        ways: dict[str, Callable[[], None]] = {name: getattr(self, f"_{name}") for name in SHARES}
        plan: list[str] = []
        try:
            while not self._ended.wait(self._pause_s):
                if not plan:
                    plan = [name for name, share in SHARES.items() for _ in range(share)]
                    self._random.shuffle(plan)
                ways[plan.pop()]()
        except (EventsError, OSError, ValueError) as error:
            self._failure = error

    def _incident(self, close: bool = False) -> None:
        begins = not self._open or (len(self._open) < OPEN_AT_ONCE and self._random.random() < 0.3)
        if begins and not close:
            event, left = replace(self.event(), type=OPENED), self._random.randint(1, UPDATES)
        else:
            before, left = self._open.pop(self._random.randrange(len(self._open)))
            event = replace(self.event(subject=before.subject), sequence=before.sequence + 1, source=before.source)
            if close or not left:
                event = replace(event, type=CLOSED)
            left -= 1
        if event.type != CLOSED:
            self._open.append((event, left))
        # All of an incident by one camera's publisher: another's would not keep their order.
        self._publishers[int(event.source[-1]) % len(self._publishers)].publish(event)
        self.sent.spooled.append(event)

    def _flaky(self) -> None:
        self._publish(self.event(do="fail", times=1), self.sent.flaky)

    def _poison(self) -> None:
        self._publish(self.event(do="fail", times=NEVER), self.sent.poison)

    def _publish(self, event: Event, noted: list[Event]) -> None:
        self._publishers[0].publish(event)
        noted.append(event)

    def _at_most_once(self) -> None:
        event = self.event()
        self._line.send("events/seoul/soak/drill", event.to_json(), qos=0)
        self.sent.unspooled.append(event)

    def _retained(self) -> None:
        event = self.event()
        self._line.send(self._kept(len(self.sent.unspooled)), event.to_json(), retain=True)
        self.sent.unspooled.append(event)

    def _binary(self) -> None:
        event = self.event()
        values = event.to_dict()
        data = json.dumps(values.pop("data")).encode()
        del values["datacontenttype"]
        attributes = {name: str(value) for name, value in values.items()}
        self._line.send("events/seoul/soak/drill", data, attributes=attributes)
        self.sent.unspooled.append(event)

    def _invalid(self) -> None:
        event = self.event()
        number = len(self.sent.invalid)
        # What is large comes seldom: dead letters have a budget.
        kinds = INVALID if number % (4 * len(INVALID)) == 0 else INVALID[1:]
        # On a topic of its own: the same rubbish on the same topic is the same dead letter.
        self._line.send(f"events/seoul/soak-{number}/drill", kinds[number % len(kinds)](event))
        self.sent.invalid.append(event.id)

    @staticmethod
    def _kept(number: int) -> str:
        return f"events/seoul/soak-kept-{number % KEPT_TOPICS}/drill"


def _with(**attributes: Any) -> Callable[[Event], bytes]:
    """An event with these attributes instead of its own; None takes one away."""

    def made(event: Event) -> bytes:
        values = event.to_dict() | attributes
        return json.dumps({name: value for name, value in values.items() if value is not None}).encode()

    return made


INVALID: tuple[Callable[[Event], bytes], ...] = (
    _with(data={"filler": "x" * 520 * 1024}),
    lambda event: b"",
    lambda event: f"no JSON, {event.id}".encode(),
    lambda event: b"\xff\xfe" + event.id.encode(),
    lambda event: b"\xef\xbb\xbf" + event.to_json(),
    lambda event: event.to_json().decode().encode("utf-16"),
    lambda event: json.dumps([event.id]).encode(),
    lambda event: b"[" * 100_000 + event.id.encode(),
    lambda event: event.to_json()[:-20],
    _with(data=float("nan")),
    _with(id=None),
    _with(id="two\nlines"),
    _with(id="half \ud800 of a pair"),
    _with(source=7),
    _with(subject="s" * 2000),
    _with(specversion="0.3"),
    _with(region="busan"),
    _with(sequence="9" * 5000),
    _with(sequence=-1),
    _with(time="9999-12-31T23:59:59-23:59"),
    _with(time="yesterday"),
    _with(hold="perhaps"),
    _with(data=None, data_base64="no base64"),
)
