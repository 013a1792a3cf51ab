"""No input ends the runtime: neither a message, nor what a gateway answers, nor what a worker says.

KOREN_FUZZ_EXAMPLES sets how many examples each property gets; 150 unless given.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pods import Pod

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from koren_runtime import frames
from koren_runtime.contract import to_answer, to_event
from koren_runtime.fast_json import loads
from koren_runtime.frames import BrokenFrame, Frames, pack
from koren_runtime.http import Connection, number, quote
from koren_runtime.local.double import GatewayDouble

settings.register_profile(
    "runtime",
    max_examples=int(os.environ.get("KOREN_FUZZ_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("runtime")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
ATTRIBUTES = st.fixed_dictionaries(
    {"specversion": st.just("1.0"), "id": st.text(min_size=1), "source": st.text(min_size=1)},
    optional={
        "type": st.text(min_size=1) | JSON,
        "time": st.sampled_from(["2026-11-24T10:15:00Z", "9999-12-31T23:59:59-14:00"]) | JSON,
        "subject": st.text(min_size=1) | JSON,
        "sequence": st.integers() | st.just("9" * 5000) | JSON,
        "hold": st.booleans() | JSON,
        "data": JSON,
        "data_base64": st.just("/9j/4A==") | st.just("a b=c") | JSON,
    },
)
MESSAGES = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: text.encode(errors="replace")),
    st.one_of(ATTRIBUTES, JSON).map(lambda value: json.dumps(value).encode()),
    st.tuples(ATTRIBUTES, st.sampled_from(["utf-8-sig", "utf-16", "utf-32"])).map(
        lambda pair: json.dumps(pair[0]).encode(pair[1])
    ),
)


@given(MESSAGES)
@example(b"\xef\xbb\xbf{}")
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"9" * 5000)
@example(b"1e999")
@example(b'"\\ud800"')
def test_the_readers_of_json_agree(message: bytes) -> None:
    try:
        text = message.decode()
        expected = json.loads(text)
    except (ValueError, RecursionError):
        with pytest.raises(ValueError):
            loads(message.decode())
    else:
        assert repr(loads(text)) == repr(expected)


@given(MESSAGES)
@example(b'{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":null}')
def test_an_event_that_the_parser_accepts_is_one_for_a_handler(message: bytes) -> None:
    parser: Any = pytest.importorskip("koren_events.cloudevent")
    errors: Any = pytest.importorskip("koren_events.errors")
    try:
        accepted, handed_on = parser.parse(message)
    except errors.InvalidEvent:
        with contextlib.suppress(ValueError):  # the one way in which it is refused here
            to_event(loads(message.decode()))
        return
    event = to_event(loads(handed_on.decode()))
    assert (event["event-id"], event["event-type"]) == (accepted.id, accepted.type)
    assert event["event-namespace"] == accepted.source


@given(JSON)
def test_an_answer_is_json_or_refused(value: Any) -> None:
    try:
        answer = to_answer(value)
    except ValueError:
        return
    assert json.loads(answer.decode()) == value
    assert loads(answer.decode()) == value


@given(st.text())
def test_a_quoted_path_is_one_word(text: str) -> None:
    try:
        path = quote(text)
    except UnicodeEncodeError:
        return  # half a surrogate pair, which no header can carry
    assert path.isascii() and not set(path) & set(" \r\n?#")


@given(st.text() | st.from_regex(r"[0-9²³]{1,20}"))
def test_a_number_is_one_or_none(text: str) -> None:
    value = number(text)
    assert value is None or str(value) == (text.lstrip("0") or "0")


LINE = st.sampled_from(
    [
        b"Content-Length: 2",
        b"Content-Length: \xb2",
        b"Content-Length: -1",
        b"Content-Length: " + b"9" * 5000,
        b"Content-Length: 99999999999",
        b"Transfer-Encoding: chunked",
        b"Koren-Invocation-Id: i1",
        b"Koren-Invocation-Id: \xff",
        b"Koren-Invocation-Id: a\nb",
        b"Koren-Attempt: 1",
        b"Koren-Attempt: \xb2",
        b"Koren-Attempt: x\ny",
        b"Koren-Lease-Ms: 0",
        b"Koren-Lease-Ms: 1000",
        b"Koren-Lease-Ms: -5",
        b"Koren-Lease: kept",
        b":",
        b"",
    ]
) | st.binary(max_size=30)
ANSWER = st.builds(
    lambda status, lines, body: b"\r\n".join([status, *lines]) + b"\r\n\r\n" + body,
    st.sampled_from([200, 204, 304, 409, 500, 503]).map(lambda s: b"HTTP/1.1 %d x" % s)
    | st.sampled_from([b"HTTP/1.1 \xb2\xb3\xb9", b"HTTP/1.1", b"", b"HTTP/1.1 100 Continue"])
    | st.binary(max_size=30),
    st.lists(LINE, max_size=6),
    st.sampled_from([b"", b"{}", b"{" * 3000, b"\xff", b'{"error":' * 2000])
    | st.binary(max_size=100),
)


@pytest.fixture(scope="module")
def hostile() -> Iterator[Any]:
    """A gateway that answers each request with the bytes it is told, and hangs up."""

    class Hostile:
        def __init__(self) -> None:
            self.answers: list[bytes] = []
            self.served = 0
            self._listening = socket.create_server(("127.0.0.1", 0))
            self.port = self._listening.getsockname()[1]
            threading.Thread(target=self._serve, daemon=True).start()

        def _serve(self) -> None:
            while True:
                try:
                    connection, _ = self._listening.accept()
                except OSError:
                    return
                with connection:
                    try:
                        connection.settimeout(2)
                        connection.recv(65536)
                        connection.sendall(self.answers[self.served % len(self.answers)])
                    except OSError:
                        pass
                    self.served += 1

        def close(self) -> None:
            self._listening.close()

    hostile = Hostile()
    yield hostile
    hostile.close()


@given(answer=ANSWER)
def test_any_answer_is_read_or_refused(hostile: Any, tmp_path: Path, answer: bytes) -> None:
    token = tmp_path / "token"
    token.write_bytes(b"t\xff")
    hostile.answers, hostile.served = [answer], 0
    connection = Connection("127.0.0.1", hostile.port, str(token), timeout_s=2)
    try:
        connection.send("GET", "/", {})
        assert "\n" not in connection.receive().problem()
    except OSError:
        pass  # the one way in which it is refused
    finally:
        connection.close()


@settings(max_examples=max(1, settings.get_profile("runtime").max_examples // 50))
@given(answers=st.lists(ANSWER, min_size=20, max_size=20))
@example(
    answers=[
        b"HTTP/1.1 200 OK\r\nKoren-Invocation-Id: i\r\nKoren-Attempt: 1\r\n"
        b"Koren-Lease-Ms: 300\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        for body in (b"", b"{}", b"\xff", b"[" * 5000, b'{"id":1}', b"9" * 5000)
    ]
)
def test_no_answers_end_the_supervisor(hostile: Any, tmp_path: Path, answers: list[bytes]) -> None:
    hostile.answers, hostile.served = answers, 0
    pod = Pod(tmp_path, hostile.port)
    pod.write("def handle(event, context): return 1")
    pod.start(FUNC_TIMEOUT="1")
    try:
        until = time.monotonic() + 30
        while hostile.served < min(8, len(answers)) and time.monotonic() < until:
            time.sleep(0.01)
        assert hostile.served >= min(8, len(answers)), pod.log
        hostile.answers = [b"HTTP/1.1 204 No Content\r\n\r\n"]
        pod.terminate()
        assert pod.wait(90) == 0, pod.log
        assert "Traceback" not in pod.log or "supervisor.py" not in pod.log
    finally:
        pod.kill()


@given(
    st.lists(
        st.binary(max_size=60)
        | st.tuples(
            st.sampled_from([frames.READY, frames.ANSWER, frames.FAILED, frames.ENTERED, b"?"]),
            st.binary(max_size=40),
        ).map(lambda frame: pack(*frame)),
        max_size=6,
    )
)
@example([b"A\xff\xff\xff\xff"])
def test_any_frames_are_read_or_refused(pieces: list[bytes]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        reader = Frames(ours)
        sent = b"".join(pieces)
        received = b""
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        try:
            while (said := reader.receive()) is not None:
                received += b"".join(pack(kind, body) for kind, body in said)
        except BrokenFrame:
            pass
        assert sent.startswith(received)


@pytest.mark.parametrize(
    "said",
    [
        b"A\xff\xff\xff\xff",
        b"nonsense, and a lot of it",
        pack(frames.FAILED, b"\xff no JSON"),
        pack(frames.ANSWER, b"{"),
        pack(frames.READY) * 3,
        pack(frames.NOT_READY, b"[]"),
        pack(frames.ENTERED, b"\xff\n"),
        pack(frames.EVENT, b""),
    ],
)
def test_a_function_that_writes_to_the_supervisor_harms_itself_alone(
    gateway: GatewayDouble, pod: Pod, said: bytes
) -> None:
    pod.write(
        f"""\
        import os, socket

        def handle(event, context):
            if event["data"] == "harm":
                for name in os.listdir("/proc/self/fd"):
                    if os.path.realpath("/proc/self/fd/" + name).partition(":")[0].endswith("socket"):
                        os.write(int(name), {said!r})
            return "well"
        """
    )
    gateway.give("harm", id="harm")
    gateway.give("fine", id="fine")
    pod.start(FUNC_TIMEOUT="2")
    gateway.wait_for("fine/response")
    gateway.complaints.clear()
    pod.terminate()
    assert pod.wait() == 0
    assert "supervisor.py" not in pod.log
