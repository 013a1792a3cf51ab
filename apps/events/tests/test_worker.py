"""The publisher's thread, with a link that is played: what comes in can't end it."""

import itertools
import json
import queue
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import until

from koren_events import EventsError, Health, Receipt, ReceiptState, SpoolBroken, receipt_topic
from koren_events.link import Answered, Arrived, Connected, Disconnected, Senseless
from koren_events.spool import Spool
from koren_events.times import utc_now
from koren_events.tracks import Tracks
from koren_events.worker import Added, Stop, Worker


@dataclass
class PlayedLink:
    address: str = "broker:8883"
    connection: int = 0
    sent: list[str] = field(default_factory=list)
    mids: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    fault: Exception | None = None

    def subscribe(self, *filters: str) -> None:
        pass

    def send(self, topic: str, message: bytes, *, connection: int) -> int | None:
        if self.fault is not None:
            raise self.fault
        if connection != self.connection:
            return None
        self.sent.append(message.decode())
        return next(self.mids)

    def say(self, health: Health, *, wait_s: float = 0.0) -> None:
        pass


class Lab:
    """A worker in its thread, a spool on disk, and the happenings that a test makes up."""

    def __init__(self, folder: Path, on_receipt: Callable[[Receipt], None] | None = None) -> None:
        self.happenings: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.link = PlayedLink()
        self.spool = Spool(folder / "spool.sqlite", limit_bytes=2**20)
        self.tracks = Tracks()
        self.worker = Worker(
            self.happenings, self.link, self.spool, self.tracks, on_receipt=on_receipt, health_part="x"
        )

    def connect(self) -> None:
        self.link.connection += 1
        self.happenings.put(Connected(self.link.connection))

    def publish(self, id: str, subject: str = "incident") -> str:
        key = receipt_topic("seoul", "cam", id)

        def store() -> bool:
            is_new = self.spool.put(
                receipt_topic=key, region="seoul", subject=subject, topic="events/seoul/cam/x", message=id.encode()
            )
            self.happenings.put(Added(key, "seoul", subject))
            return is_new

        self.tracks.follow(key, ("seoul", subject), store)
        return key

    def receive(self, id: str) -> None:
        self.happenings.put(Arrived(receipt_topic("seoul", "cam", id), receipt(id), retained=False))


def receipt(id: str) -> bytes:
    state = ReceiptState.RECEIVED
    made = Receipt(id=id, source="cam", region="seoul", subject="incident", state=state, time=utc_now())
    return made.to_json()


@contextmanager
def running(folder: Path, on_receipt: Callable[[Receipt], None] | None = None) -> Iterator[Lab]:
    lab = Lab(folder, on_receipt)
    lab.worker.start()
    try:
        yield lab
    finally:
        lab.happenings.put(Stop())
        lab.worker.join()
        lab.spool.close()


def works(lab: Lab) -> None:
    """An event still finds its way through the worker."""
    lab.link.fault = None
    lab.connect()
    key = lab.publish("the last", subject="another")
    until(lambda: "the last" in lab.link.sent)
    lab.receive("the last")
    assert lab.tracks.await_receipt(key, 0, time.monotonic() + 60) is not None


def test_an_event_published_again_as_its_receipt_arrives_is_not_sent(tmp_path: Path) -> None:
    with running(tmp_path) as lab:
        lab.connect()
        key = lab.publish("1")
        until(lambda: lab.link.sent == ["1"])
        lab.receive("1")
        until(lambda: len(lab.spool) == 0)
        # `put` had seen the event in the spool: what it tells the worker comes after the receipt.
        lab.happenings.put(Added(key, "seoul", "incident"))
        works(lab)
        assert lab.link.sent == ["1", "the last"]
        assert lab.worker.faults == 0


def test_an_event_waits_until_the_region_has_the_one_before_it_whatever_the_broker_said(tmp_path: Path) -> None:
    with running(tmp_path) as lab:
        lab.connect()
        for id in "12":
            lab.publish(id)
        until(lambda: lab.link.sent == ["1"])
        # And then the broker is killed, and loses what it acknowledged.
        lab.happenings.put(Answered(1, None))
        lab.happenings.put(Disconnected("killed"))
        lab.publish("3")
        lab.publish("elsewhere", subject="another")
        lab.connect()
        until(lambda: lab.link.sent == ["1", "elsewhere"])
        for mid, id in enumerate("123", start=3):
            until(lambda id=id: lab.link.sent[-1] == id)
            lab.happenings.put(Answered(mid, None))
            lab.receive(id)
        assert lab.link.sent == ["1", "elsewhere", "1", "2", "3"]


def test_a_refused_event_holds_the_later_ones_of_its_subject_back_and_says_so(tmp_path: Path) -> None:
    with running(tmp_path) as lab:
        lab.connect()
        first, second = lab.publish("1"), lab.publish("2")
        until(lambda: lab.link.sent == ["1"])
        lab.happenings.put(Answered(1, "Not authorized"))
        for key in (first, second):
            with pytest.raises(EventsError, match=r"events/seoul/cam/x: Not authorized.*ACL"):
                lab.tracks.await_receipt(key, 0, time.monotonic() + 60)
        works(lab)
        assert "2" not in lab.link.sent
        until(lambda: lab.link.sent[-1] == "1")  # the new connection is a reason to try again


def test_a_new_process_sends_what_the_last_one_had_acknowledged_before_what_is_newer(tmp_path: Path) -> None:
    with running(tmp_path) as lab:
        lab.connect()
        lab.publish("1")
        until(lambda: lab.link.sent == ["1"])
        lab.happenings.put(Answered(1, None))
        until(lambda: lab.spool.entries()[0].sent_at is not None)
    with running(tmp_path) as lab:
        lab.publish("2")
        lab.connect()
        until(lambda: lab.link.sent == ["1"])
        lab.receive("1")
        until(lambda: lab.link.sent == ["1", "2"])


def test_an_event_that_can_not_be_sent_does_no_harm_to_the_others(tmp_path: Path) -> None:
    with running(tmp_path) as lab:
        lab.link.fault = ValueError("Invalid topic.")
        lab.connect()
        lab.publish("1")
        until(lambda: lab.worker.faults == 1)
        works(lab)


def test_nothing_that_on_receipt_does_ends_the_thread(tmp_path: Path) -> None:
    with running(tmp_path, on_receipt=lambda receipt: sys.exit(1)) as lab:
        works(lab)
        until(lambda: lab.worker.faults == 1)


def test_a_spool_that_is_broken_stops_the_publisher_and_is_named(tmp_path: Path) -> None:
    with running(tmp_path) as lab:
        lab.connect()
        key = lab.publish("1")
        until(lambda: lab.link.sent == ["1"])
        lab.spool._database.close()
        lab.receive("1")
        until(lambda: not lab.worker._thread.is_alive())
        for call in (
            lambda: lab.tracks.await_receipt(key, 3, time.monotonic() + 60),
            lambda: lab.tracks.wait_until(lambda: False, 5),
            lambda: lab.publish("2"),
        ):
            with pytest.raises(EventsError, match=r"has stopped: spool .*spool.sqlite is broken"):
                call()
        with pytest.raises(SpoolBroken):
            lab.spool.message(key)


def test_a_spool_that_can_not_be_written_for_a_while_counts_each_event_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path) as lab:
        settle = lab.spool._settle

        def full(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(lab.spool, "_settle", full)
        lab.connect()
        lab.publish("1")
        until(lambda: lab.link.sent == ["1"])
        lab.receive("1")
        lab.publish("1")
        lab.receive("1")
        works(lab)
        monkeypatch.setattr(lab.spool, "_settle", settle)
        until(lambda: len(lab.spool) == 0)
        assert lab.link.sent == ["1", "the last"]


texts = st.text(max_size=8) | st.sampled_from(["seoul", "cam", "received", "2026-11-24T10:15:00Z"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts, lambda v: st.lists(v, max_size=2), max_leaves=3
)
names = ["id", "source", "region", "subject", "state", "time", "function", "attempt", "phases", "error", "since"]


def odd_json() -> st.SearchStrategy[bytes]:
    objects = st.dictionaries(st.sampled_from(names), values)
    odd = st.sampled_from([b"[" * 5000, b'{"id":' * 3000, b"\xff\xfe{", b'"\\ud800"', b"9" * 5000, b""])
    return odd | st.binary(max_size=30) | objects.map(lambda o: json.dumps(o).encode())


def changed(change: dict[str, Any]) -> bytes:
    return json.dumps(json.loads(receipt("1")) | change).encode()


messages = odd_json() | st.dictionaries(st.sampled_from(names), values, max_size=2).map(changed)
topics = st.sampled_from(
    [receipt_topic("seoul", "cam", "1"), "receipts/x", "health/seoul/gateway", "health/", "health/a/b/c", "", "\n"]
) | st.text(max_size=10)
happenings = st.one_of(
    st.builds(Arrived, topics, messages, st.booleans()),
    st.builds(Answered, st.integers(0, 8), st.none() | st.just("Quota exceeded")),
    st.just("connect"),
    st.builds(Disconnected, st.text(max_size=5)),
    st.builds(Senseless, st.text(max_size=5)),
    st.builds(Added, st.sampled_from(["nothing", receipt_topic("seoul", "cam", "1")]), texts, texts),
    st.sampled_from("1234").map(lambda id: f"publish {id}"),
    st.sampled_from("1234").map(lambda id: f"receive {id}"),
    st.sampled_from([ValueError("x"), RuntimeError("x"), None]),
    st.just(None) | st.integers(),
)


@given(st.lists(happenings, max_size=30))
@settings(max_examples=60, deadline=None)
def test_whatever_happens_the_thread_goes_on(what: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as lab:
        for happening in what:
            match happening:
                case "connect":
                    lab.connect()
                case str():
                    verb, id = happening.split()
                    getattr(lab, verb)(id)
                case Exception():
                    lab.link.fault = happening
                case _:
                    lab.happenings.put(happening)
        works(lab)
        assert lab.worker._thread.is_alive()
