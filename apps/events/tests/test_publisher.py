"""The publisher against a real broker that is stopped, killed and slow to answer."""

import dataclasses
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import unicodedata
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from lab import Broker, Pki, Region, SenselessBroker, until
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from samples import CAMERA, CAR, accident

from koren_events import (
    ConfigurationError,
    Event,
    InvalidEvent,
    Publisher,
    PublishRefused,
    Receipt,
    ReceiptState,
    ReceiptTimeout,
    SpoolFull,
    SpoolInUse,
    accident_updated,
    receipt_topic,
)


def acknowledged(publisher: Publisher, count: int) -> None:
    """Waits until the broker has acknowledged what was published; nothing public tells."""
    until(lambda: sum(e.sent_at is not None for e in publisher._spool.entries()) == count)


def incidents(count: int) -> list[Event]:
    """The first events of so many incidents, none of which waits for another."""
    begin = datetime(2026, 11, 24, 11, tzinfo=UTC)
    return [accident(started_at=begin + timedelta(seconds=number)) for number in range(count)]


def why_not(publisher: Publisher, event: Event) -> str:
    """What the publisher says of an event that has no receipt yet."""
    with pytest.raises(ReceiptTimeout) as error:
        publisher.wait(event, timeout_s=0.2)
    return str(error.value)


def publish_in_a_process_that_is_killed(settings: dict[str, Any], *when: str) -> Event:
    """The process gets kill -9 once `publish` has returned, or once the event is `acknowledged`."""
    event = accident()
    program = Path(__file__).with_name("killed_publisher.py")
    ended = subprocess.run(
        [sys.executable, program, json.dumps(settings, default=str), *when],
        input=event.to_json(),
        timeout=120,
    )
    assert ended.returncode == -signal.SIGKILL
    return event


def test_an_event_leaves_the_spool_when_its_region_has_it(settings: dict[str, Any], region: Region) -> None:
    event = accident()
    with Publisher(**settings) as publisher:
        publisher.publish(event)
        receipt = publisher.wait(event, timeout_s=60)
        assert (receipt.state, receipt.id) == (ReceiptState.RECEIVED, event.id)
        assert publisher.flush(timeout_s=60)
        assert publisher.spooled == 0
    assert region.seen == [event.id]


def test_events_wait_for_a_broker_that_is_not_there_yet(
    settings: dict[str, Any], stopped_broker: Broker, pki: Pki
) -> None:
    events = [accident() for _ in range(50)]
    with Publisher(**settings) as publisher:
        for event in events:
            publisher.publish(event)
        until(lambda: re.search(r"not connected to 127.0.0.1.*refused", why_not(publisher, events[0])))
        stopped_broker.start()
        region = Region(stopped_broker, pki)
        region.start()
        try:
            assert publisher.flush(timeout_s=60)
        finally:
            region.stop()
    assert set(region.seen) == {event.id for event in events}


@pytest.mark.parametrize("session_was_saved", [False, True])
def test_nothing_is_lost_when_the_broker_is_killed_after_its_acknowledgement(
    settings: dict[str, Any], broker: Broker, pki: Pki, session_was_saved: bool
) -> None:
    if session_was_saved:
        # The killed broker will know the session, and not the events it acknowledged since.
        with Publisher(**settings) as publisher:
            event = accident()
            publisher.publish(event)
            acknowledged(publisher, 1)
        broker.stop()
        broker.start()
    events = incidents(30)
    with Publisher(**settings) as publisher:
        for event in events:
            publisher.publish(event)
        acknowledged(publisher, publisher.spooled)
        broker.kill()
        broker.start()
        region = Region(broker, pki)
        region.start()
        try:
            assert publisher.flush(timeout_s=60)
        finally:
            region.stop()
    assert {event.id for event in events} <= set(region.seen)


def test_nothing_is_lost_when_the_broker_is_killed_over_and_over(
    settings: dict[str, Any], broker: Broker, pki: Pki
) -> None:
    events = [accident() for _ in range(120)]
    region = Region(broker, pki)
    region.start()
    try:
        with Publisher(**settings) as publisher:
            for place, event in enumerate(events):
                publisher.publish(event)
                if place % 40 == 20:
                    broker.kill()
                    broker.start()
                time.sleep(0.01)
            assert publisher.flush(timeout_s=60)
    finally:
        region.stop()
    assert {event.id for event in events} <= set(region.seen)


@pytest.mark.parametrize("unsent", [False, True])
def test_after_a_brokers_loss_an_incident_comes_in_its_order(
    settings: dict[str, Any], broker: Broker, pki: Pki, unsent: bool
) -> None:
    events = [accident()]
    for _ in range(30):
        events.append(accident_updated(events[-1], objects=[CAR]))
    with Publisher(**settings) as publisher:
        # The broker acknowledges the first and is killed with it.
        for event in events[:10]:
            publisher.publish(event)
        acknowledged(publisher, 1)
        if not unsent:
            publisher.publish(events[10])
        broker.kill()
        for event in events[10:]:
            publisher.publish(event)
        region = Region(broker, pki)
        broker.start()
        region.start()
        try:
            assert publisher.flush(timeout_s=60)
        finally:
            region.stop()
    firsts = list(dict.fromkeys(region.seen))
    assert firsts == [event.id for event in events]


CONNACK = bytes([0x20, 3, 0, 0, 0])
SENSELESS = {
    "a topic that is no UTF-8": CONNACK + bytes([0x30, 6, 0, 2, 0xFF, 0xFE, 0, 1]),
    "an empty topic": CONNACK + bytes([0x30, 4, 0, 0, 0, 1]),
    "an answer to message 0": CONNACK + bytes([0x40, 2, 0, 0]),
    "an answer without a message": CONNACK + bytes([0x40, 0]),
    "an unknown reason": CONNACK + bytes([0x40, 4, 0, 1, 0xEE, 0]),
    "properties cut off": CONNACK + bytes([0x32, 7, 0, 1, 0x61, 0, 1, 9, 0x26]),
    "an unknown property": CONNACK + bytes([0x30, 6, 0, 1, 0x61, 2, 0xFF, 1]),
    "a length of five bytes": CONNACK + bytes([0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F]),
    "a kind of packet that does not exist": CONNACK + bytes([0x00, 0]),
    "an empty acceptance": bytes([0x20, 0]),
    "an acceptance for an unknown reason": bytes([0x20, 3, 0, 0xEE, 0]),
    "no MQTT at all": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


def test_a_broker_that_sends_what_is_no_mqtt_does_not_end_the_publisher(
    settings: dict[str, Any], stopped_broker: Broker, pki: Pki
) -> None:
    senseless = SenselessBroker(stopped_broker.port, pki, list(SENSELESS.values()))
    with Publisher(**settings) as publisher:
        event = accident()
        publisher.publish(event)
        senseless.wait(timeout_s=60)
        assert publisher.faults >= 1
        stopped_broker.start()
        region = Region(stopped_broker, pki)
        region.start()
        try:
            assert publisher.wait(event, timeout_s=60).id == event.id
        finally:
            region.stop()


def test_a_spool_of_the_version_before_is_brought_up(settings: dict[str, Any], broker: Broker, pki: Pki) -> None:
    camera = dataclasses.replace(CAMERA, id="카메라-1")
    events = [accident(camera=camera)]
    events.append(accident_updated(events[0], objects=[CAR]))
    spool = sqlite3.connect(settings["spool"])
    spool.executescript(
        """
        CREATE TABLE event (
            place INTEGER PRIMARY KEY AUTOINCREMENT, receipt_topic TEXT NOT NULL UNIQUE,
            region TEXT NOT NULL, topic TEXT NOT NULL, message BLOB NOT NULL,
            sends INTEGER NOT NULL DEFAULT 0, sent_at REAL
        );
        PRAGMA user_version = 1;
        """
    )
    for place, event in enumerate(events):
        # It kept texts as they came, while gateways answer for the composed ones.
        source = unicodedata.normalize("NFD", event.source)
        spool.execute(
            "INSERT INTO event (receipt_topic, region, topic, message, sends, sent_at) VALUES (?, ?, ?, ?, ?, ?)",
            (
                receipt_topic("seoul", source, event.id),
                "seoul",
                f"events/seoul/{source}/accident",
                unicodedata.normalize("NFD", event.to_json().decode()).encode(),
                1 - place,
                time.time() if place == 0 else None,
            ),
        )
    spool.commit()
    spool.close()
    region = Region(broker, pki)
    region.start()
    try:
        with Publisher(**settings) as publisher:
            assert publisher.spooled == 2
            assert publisher.flush(timeout_s=60)
    finally:
        region.stop()
    assert region.seen == [event.id for event in events]


def test_a_process_killed_before_it_could_send_loses_nothing(
    settings: dict[str, Any], stopped_broker: Broker, pki: Pki
) -> None:
    event = publish_in_a_process_that_is_killed(settings)
    stopped_broker.start()
    region = Region(stopped_broker, pki)
    region.start()
    try:
        with Publisher(**settings) as publisher:
            assert publisher.flush(timeout_s=60)
    finally:
        region.stop()
    assert region.seen == [event.id]


def test_an_event_acknowledged_to_a_process_that_was_killed_is_sent_by_the_next(
    settings: dict[str, Any], broker: Broker, pki: Pki
) -> None:
    event = publish_in_a_process_that_is_killed(settings, "acknowledged")
    region = Region(broker, pki)
    region.start()
    try:
        with Publisher(**settings) as publisher:
            publisher.publish(event)  # the same again: nothing new
            assert publisher.wait(event, timeout_s=60).id == event.id
    finally:
        region.stop()


def test_an_unanswered_event_is_not_repeated_on_a_steady_connection(
    settings: dict[str, Any], broker: Broker, pki: Pki
) -> None:
    region = Region(broker, pki, states=())
    region.start()
    try:
        with Publisher(**settings) as publisher:
            events = incidents(200)
            for event in events:
                publisher.publish(event)
            until(lambda: len(region.seen) >= 200)
            time.sleep(3)
            assert publisher.spooled == 200
    finally:
        region.stop()
    assert region.seen == [event.id for event in events]


def test_events_go_again_when_the_regions_gateway_connects_anew(
    settings: dict[str, Any], broker: Broker, pki: Pki
) -> None:
    region = Region(broker, pki, states=())
    region.start()
    try:
        with Publisher(**settings) as publisher:
            event = accident()
            publisher.publish(event)
            until(lambda: region.seen == [event.id])
            until(lambda: "its gateway is up" in why_not(publisher, event))
            assert region.seen == [event.id]
            region.states = (ReceiptState.RECEIVED,)
            region.say_up()
            publisher.wait(event, timeout_s=60)
    finally:
        region.stop()
    assert region.seen == [event.id] * 2


def test_receipts_come_in_order_and_once_each(settings: dict[str, Any], region: Region) -> None:
    region.states = (
        ReceiptState.RECEIVED,
        ReceiptState.RECEIVED,
        ReceiptState.STARTED,
        ReceiptState.STARTED,
        ReceiptState.SUCCEEDED,
    )
    every: list[Receipt] = []
    event = accident()
    with Publisher(**settings, on_receipt=every.append) as publisher:
        publisher.publish(event)
        receipts = list(publisher.receipts(event, timeout_s=60))
        until(lambda: len(every) == 5)
    assert [receipt.state for receipt in receipts] == ["received", "started", "succeeded"]
    assert receipts[-1].result == {"post": 1}


def test_a_lost_received_is_made_up_for_by_a_later_state(settings: dict[str, Any], region: Region) -> None:
    region.states = (ReceiptState.NO_FUNCTION,)
    with Publisher(**settings) as publisher:
        publisher.publish(accident())
        assert publisher.flush(timeout_s=60)


def test_a_callback_that_fails_or_publishes_does_no_harm(settings: dict[str, Any], region: Region) -> None:
    follow_up = accident()
    called = threading.Event()

    def on_receipt(receipt: Receipt) -> None:
        if receipt.id == follow_up.id:
            return
        publisher.publish(follow_up)
        with pytest.raises(RuntimeError, match="on_receipt"):
            publisher.wait(follow_up, timeout_s=1)
        called.set()
        raise ValueError("a mistake of the caller")

    with Publisher(**settings, on_receipt=on_receipt) as publisher:
        publisher.publish(accident())
        assert called.wait(60)
        assert publisher.wait(follow_up, timeout_s=60).id == follow_up.id


def test_another_regions_gateway_can_not_answer_for_this_one(
    settings: dict[str, Any], broker: Broker, pki: Pki
) -> None:
    foreign = Region(broker, pki, name="gateway.busan")
    foreign.start()
    event = accident()
    try:
        with Publisher(**settings) as publisher:
            publisher.publish(event)
            acknowledged(publisher, 1)
            foreign.answer(event.source, event.id, ReceiptState.RECEIVED, region="busan")
            foreign.answer(event.source, event.id, ReceiptState.RECEIVED, region="seoul")
            with pytest.raises(ReceiptTimeout):
                publisher.wait(event, timeout_s=1)
            assert publisher.spooled == 1
    finally:
        foreign.stop()


def test_invalid_events_never_reach_the_spool(settings: dict[str, Any]) -> None:
    with Publisher(**settings) as publisher:
        for values in ({"severity": "grave"}, {"confidence": 2}, {"what": "meteor"}):
            with pytest.raises(InvalidEvent):
                publisher.publish(accident(**values))
        assert publisher.spooled == 0


def test_a_full_spool_refuses_and_takes_again_once_it_has_drained(
    settings: dict[str, Any], stopped_broker: Broker, pki: Pki
) -> None:
    size_bytes = len(accident().to_json())
    settings["spool_limit_bytes"] = int(size_bytes * 2.5)
    region = Region(stopped_broker, pki)
    with Publisher(**settings) as publisher:
        first, second, third = accident(), accident(), accident()
        publisher.publish(first)
        publisher.publish(second)
        with pytest.raises(SpoolFull, match=f"{size_bytes} more don't fit"):
            publisher.publish(third)
        with pytest.raises(KeyError):
            publisher.wait(third, timeout_s=0)
        stopped_broker.start()
        region.start()
        try:
            assert publisher.flush(timeout_s=60)
            publisher.publish(third)
            assert publisher.wait(third, timeout_s=60)
        finally:
            region.stop()
    assert set(region.seen) == {first.id, second.id, third.id}


def test_two_events_with_one_id_are_a_mistake(settings: dict[str, Any]) -> None:
    event = accident()
    impostor = Event.from_dict(event.to_dict() | {"sequence": 2})
    with Publisher(**settings) as publisher:
        publisher.publish(event)
        publisher.publish(event)
        assert publisher.spooled == 1
        with pytest.raises(InvalidEvent, match="its own id"):
            publisher.publish(impostor)


def test_a_spool_has_one_publisher(settings: dict[str, Any]) -> None:
    with Publisher(**settings), pytest.raises(SpoolInUse, match="another publisher"):
        Publisher(**settings)
    with Publisher(**settings):
        pass


def test_a_publisher_without_the_right_to_publish_says_so(settings: dict[str, Any], broker: Broker, pki: Pki) -> None:
    event = accident()
    with Publisher(**(settings | pki.of("stranger"))) as publisher:
        publisher.publish(event)
        with pytest.raises(PublishRefused, match=r"events/seoul/cctv-seoul-01/accident.*ACL"):
            publisher.wait(event, timeout_s=60)
        assert publisher.spooled == 1


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"client_id": "a/b"}, "client_id"),
        ({"health_part": ""}, "health_part"),
        ({"ca": Path("/nowhere/ca.crt")}, "/nowhere/ca.crt"),
        ({"spool": Path("/proc/spool.sqlite")}, "spool /proc/spool.sqlite"),
    ],
)
def test_settings_that_can_not_work_are_named(settings: dict[str, Any], values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Publisher(**(settings | values))


def test_files_that_are_no_certificates_or_spools_are_named(settings: dict[str, Any], pki: Pki, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not this " * 200)
    for name, message in (("ca", "ca: "), ("cert", "don't belong"), ("spool", "can't be used")):
        with pytest.raises(ConfigurationError, match=message):
            Publisher(**(settings | {name: text}))
    with pytest.raises(ConfigurationError, match="belong together"):
        Publisher(**(settings | {"key": pki.folder / "stranger.key"}))


class HealthWatch:
    """Reads what others see of the detector's health."""

    def __init__(self, broker: Broker, pki: Pki) -> None:
        self.states: list[str] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        files = pki.of("detector")
        self._client.tls_set(str(files["ca"]), str(files["cert"]), str(files["key"]))
        self._client.on_connect = lambda client, *_: client.subscribe("health/central/detector")
        self._client.on_message = lambda _c, _d, message: self.states.append(json.loads(message.payload)["state"])
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def test_health_tells_up_and_down_and_death(settings: dict[str, Any], broker: Broker, pki: Pki) -> None:
    settings["health_part"] = "detector"
    watch = HealthWatch(broker, pki)
    try:
        with Publisher(**settings):
            until(lambda: watch.states[-1:] == ["up"])
        until(lambda: watch.states == ["up", "down"])
        publish_in_a_process_that_is_killed(settings, "acknowledged")
        until(lambda: watch.states == ["up", "down", "up", "down"])
    finally:
        watch.stop()


def test_leaving_does_not_hang_without_a_broker(settings: dict[str, Any]) -> None:
    started = time.monotonic()
    with Publisher(**settings) as publisher:
        publisher.publish(accident())
        assert not publisher.flush(timeout_s=0.1)
    # It is about a wait without an end; a busy machine takes its time.
    assert time.monotonic() - started < 30
    assert os.path.getsize(settings["spool"]) > 0
