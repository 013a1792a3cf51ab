"""Messages of programs that know nothing of events: they wake a function, as any event does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    DONE,
    SITE_DIR,
    TESTED,
    Cluster,
    Connect,
    Heard,
    Identities,
    Identity,
    cut_off,
    drill,
    faas,
    letters,
    until,
)

from koren_events import Publisher, ReceiptState

SOURCE, FUNCTION = "e2e-common", "e2e-common"
PROGRAM = Path(__file__).parent / "plain" / "publish.py"
SAID = [f"mqtt/{SOURCE}", "{'success': 'ok'}"]

Say = Callable[[], None]


@pytest.fixture(scope="module")
def sensor(identities: Identities) -> Iterator[Identity]:
    """Whose certificate the program has."""
    identity = identities.take()
    yield identity
    identities.give_back(identity)


@pytest.fixture(scope="module")
def source(sensor: Identity) -> Iterator[str]:
    """A source at Seoul's broker, and a function that gets its events and gives back what came."""
    create = ("source", "mqtt", "create", SOURCE, "--topic", "common", "--region", "seoul")
    faas(*create, "--publisher", sensor.name)
    faas(
        *("function", "deploy", FUNCTION, "--region", "seoul", "--runtime", "python3.11"),
        *("--from-file", str(PROGRAM.with_name("handler.py")), "--handler", "handler.handler"),
        *("--topic", f"events/{{region}}/{SOURCE}/mqtt"),
    )
    yield SOURCE
    faas("function", "delete", FUNCTION)
    faas("source", "mqtt", "delete", SOURCE)


@pytest.fixture
def say(site: dict[str, Any], source: str, sensor: Identity) -> Say:
    """Runs the program, which ends once Seoul's broker has acknowledged its message."""
    files = (str(SITE_DIR / "pki" / "ca.crt"), str(sensor.cert), str(sensor.key))
    command = [sys.executable, str(PROGRAM), site["regions"]["seoul"]["broker"], *files]
    return lambda: subprocess.run(command, check=True, timeout=60) and None


@pytest.fixture
def listening(publisher: Publisher, heard: Heard) -> Heard:
    """What is heard at the centre, where receipts arrive from now on."""
    first = drill("seoul", type=DONE)
    publisher.publish(first)
    publisher.wait(first, 60)
    # The certificate's session has kept receipts since its last client left.
    heard.clear()
    return heard


def results(heard: Heard) -> list[Any]:
    """What the function has told of each message of the source, with the source."""
    its = (f"mqtt/{SOURCE}", ReceiptState.SUCCEEDED)
    return [receipt.result for receipt in list(heard) if (receipt.source, receipt.state) == its]


def test_a_plain_program_wakes_a_function_and_it_sleeps_again(
    say: Say, listening: Heard, cluster: Callable[[str], Cluster]
) -> None:
    until("nothing runs", lambda: not cluster("seoul").pods(FUNCTION), 120)
    say()
    until("the function has succeeded", lambda: results(listening) == [SAID], 120)
    until("nothing runs again", lambda: not cluster("seoul").pods(FUNCTION), 120)


def test_what_is_said_twice_is_two_events(say: Say, listening: Heard) -> None:
    say()
    say()
    until("both have succeeded", lambda: results(listening) == [SAID, SAID], 120)


def test_it_works_while_the_region_is_cut_off_and_is_told_later(
    say: Say, listening: Heard, cluster: Callable[[str], Cluster]
) -> None:
    until("nothing runs", lambda: not cluster("seoul").pods(FUNCTION), 120)
    with cut_off("seoul"):
        say()
        until("the function runs", lambda: cluster("seoul").pods(FUNCTION), 120)
        assert not results(listening)
    until("the centre is told", lambda: results(listening) == [SAID], 120)


@pytest.mark.usefixtures("source")
def test_texts_bytes_and_nothing_are_events(sensor: Identity, connect: Connect, listening: Heard) -> None:
    client = connect("seoul", sensor.cert, sensor.key)
    known = {letter["id"] for letter in letters("seoul")}
    for body in ("문 열림".encode(), b"\xff\xd8", b"", b"{not JSON"):
        assert client.publish("common", body) is None
    until("all have succeeded", lambda: len(results(listening)) == 4, 120)
    came = sorted(its for _, its in results(listening))
    assert came == sorted(map(repr, ("문 열림", b"\xff\xd8", None, "{not JSON")))
    assert {letter["id"] for letter in letters("seoul")} == known


@pytest.mark.usefixtures("source")
def test_nobody_else_may_publish_and_the_publisher_nothing_else(sensor: Identity, connect: Connect) -> None:
    assert connect("seoul").publish("common", b"1") == "Not authorized"
    assert connect("seoul", sensor.cert, sensor.key).publish("common/more", b"1") == "Not authorized"


def test_a_source_is_listed_with_its_status(source: str) -> None:
    [listed] = [one for one in json.loads(faas("source", "mqtt", "ls", "-o", "json")) if one["name"] == source]
    assert (listed["region"], listed["topic"], listed["status"]) == ("seoul", "common", "LISTENING")


@pytest.mark.long
def test_a_message_at_the_centre_goes_to_the_region_that_its_topic_names(
    site: dict[str, Any], connect: Connect, cluster: Callable[[str], Cluster]
) -> None:
    certificate, key = (SITE_DIR / "pki" / f"sensor.{suffix}" for suffix in ("crt", "key"))
    if not certificate.exists():
        pytest.fail(f"the site has no source at the centre; {TESTED}")
    name = "e2e-centre"
    faas(
        *("function", "deploy", name, "--runtime", "python3.11"),
        *("--from-file", str(PROGRAM.with_name("handler.py")), "--handler", "handler.handler"),
        *("--topic", f"events/{{region}}/{name}/mqtt"),
    )
    try:
        client = connect("central", certificate, key)
        assert client.publish(f"{name}/seoul/door", b"open") is None
        assert client.publish(f"{name}/nowhere/door", b"open") == "Not authorized"
        until("it runs in Seoul", lambda: cluster("seoul").pods(name), 120)
        until("nothing runs again", lambda: not cluster("seoul").pods(name), 120)
        assert not cluster("busan").pods_ever(name)
    finally:
        faas("function", "delete", name)


def test_its_topic_is_free_once_it_is_deleted(sensor: Identity) -> None:
    name = "e2e-other-common"
    faas("source", "mqtt", "create", name, "--topic", "e2e/other", "--region", "seoul", "--publisher", sensor.name)
    faas("source", "mqtt", "delete", name)
    faas("source", "mqtt", "create", f"{name}-2", "--topic", "e2e/+", "--region", "seoul")
    faas("source", "mqtt", "delete", f"{name}-2")
