"""What the gateway gets of a pod's log, and what the log makes of hostile text."""

import os
from pathlib import Path

import pytest
from pods import Pod

from koren_runtime.http import Response
from koren_runtime.local.double import GatewayDouble
from koren_runtime.log import TAIL_MAX_BYTES, Log
from koren_runtime.supervisor import Invocation

PRINTING = """\
def handle(event, context):
    for line in range(event["data"]):
        print("line", line)
    return 1
"""


def paths(gateway: GatewayDouble) -> list[str]:
    return [call.path.rsplit("/", 1)[-1] for call in gateway.calls]


def test_the_lines_of_an_event_follow_its_report(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write("print('loading')\n" + PRINTING)
    gateway.give(2, id="i1")
    gateway.give(1, id="i2")
    pod.start()
    gateway.wait_for("log", 2)
    assert paths(gateway) == ["entered", "response", "log"] * 2
    first, second = (c.body["text"] for c in gateway.calls if c.path == "/v1/log")
    # Whose line that of the loading is depends on whether the event was there first.
    assert first.partition("] ")[2] == "loading\n[event-1] line 0\n[event-1] line 1\n"
    assert second == "[event-1] line 0\n"


def test_a_log_without_lines_is_not_sent(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write(PRINTING)
    for name in ("i1", "i2"):
        gateway.give(0, id=name)
    pod.start()
    gateway.wait_for("i2/response")
    pod.terminate()
    assert pod.wait() == 0
    assert "log" not in paths(gateway)


def test_no_answer_waits_for_the_log(gateway: GatewayDouble, pod: Pod) -> None:
    gateway.hang = {"log"}
    pod.write(PRINTING)
    for name in ("i1", "i2"):
        gateway.give(1, id=name)
    pod.start()
    gateway.wait_for("i2/response")
    gateway.hang = set()
    gateway.give(1, id="i3")
    # What could not be sent is sent with the next.
    gateway.wait_until(lambda: gateway.log().count("line 0") == 3)


def test_a_failing_start_sends_its_lines(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write("print('so far')\nimport nonexistent")
    pod.start()
    text = gateway.wait_for("log").body["text"]
    assert text.startswith("[-] so far\n[-] Traceback (most recent call last):\n")
    assert "No module named 'nonexistent'" in text
    assert paths(gateway) == ["error", "log"]


def test_a_pod_that_ends_sends_what_is_left(gateway: GatewayDouble, pod: Pod, tmp_path: Path) -> None:
    go = tmp_path / "go"
    pod.write(
        f"""\
        import os, threading, time

        def later():
            while not os.path.exists({str(go)!r}):
                time.sleep(0.01)
            print("between two events")

        threading.Thread(target=later, daemon=True).start()

        def handle(event, context):
            pass
        """
    )
    gateway.give(None)
    pod.start()
    gateway.wait_for_next(2)
    go.touch()
    pod.wait_for_log("between two events")
    pod.terminate()
    assert pod.wait() == 0
    assert gateway.log() == "[-] between two events\n"


def test_a_long_log_keeps_its_end(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write(PRINTING)
    gateway.give(100_000)
    pod.start()
    text = gateway.wait_for("log").body["text"]
    assert text.endswith("[event-1] line 99999\n")
    assert text.startswith("[event-1] line ")
    assert 32 * 1024 < len(text) <= TAIL_MAX_BYTES


def test_a_log_that_json_makes_longer_is_sent_all_the_same(
    gateway: GatewayDouble, pod: Pod
) -> None:
    # The double complains of a body of more than 64 KiB.
    pod.write("def handle(event, context): print(('\\x01\\\\' * 1000 + '\\n') * 100)")
    gateway.give(None)
    pod.start()
    assert gateway.wait_for("log").body["text"].startswith("[event-1] ")


def test_the_tail_is_bounded_and_made_of_whole_lines(tmp_path: Path) -> None:
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    log = Log(file)
    for number in range(50_000):
        log.printed(f"{number:07}\n".encode())
        tail = log.tail() if number % 997 == 0 else b""
        assert len(tail) <= TAIL_MAX_BYTES
        assert all(len(line) == 11 for line in tail.splitlines())
    assert log.tail().endswith(b"[-] 0049999\n")
    log.forget()
    assert log.tail() == b""
    os.close(file)


def test_an_event_id_makes_no_lines_of_its_own(tmp_path: Path) -> None:
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    log = Log(file)
    log.belongs_to("x\n[event-2] forged\x1b[2J\u2028")
    log.printed(b"line\n")
    os.close(file)
    assert (tmp_path / "log").read_text() == "[x?[event-2] forged?[2J?] line\n"


@pytest.mark.parametrize("character", ["x", "사", "\U0001f697"])
@pytest.mark.parametrize("ended", [True, False])
def test_a_line_too_long_for_containerd_is_cut_into_lines_of_the_same_event(
    tmp_path: Path, character: str, ended: bool
) -> None:
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    log = Log(file)
    log.belongs_to("event-1")
    printed = character * (40_000 // len(character.encode())) + "[event-2] forged"
    log.printed(printed.encode() + b"\n" * ended)
    log.end_line()
    os.close(file)
    lines = (tmp_path / "log").read_bytes().splitlines()
    assert all(len(line) < 16 * 1024 and line.startswith(b"[event-1] ") for line in lines)
    assert "".join(line.decode().removeprefix("[event-1] ") for line in lines) == printed


@pytest.mark.parametrize(
    ("told", "event_id"),
    [({"koren-event-id": "%EC%82%AC%EA%B3%A0-1"}, "사고-1"), ({}, "key-1"), ({"koren-event-id": "%zz"}, "key-1")],
)
def test_lines_before_the_handler_is_entered_have_the_events_id(
    told: dict[str, str], event_id: str
) -> None:
    headers = {"koren-invocation-id": "key-1", "koren-attempt": "1", **told}
    assert Invocation(Response(200, headers, b""), 0.0).event_id == event_id
