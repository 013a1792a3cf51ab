"""A function's pod, as the gateway and the function's author see it."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from pods import Pod

from koren_runtime.local.double import GatewayDouble

# The modules of a pod whose handler imports nothing: each one more is time of every cold start.
MODULES = {
    "__main__",
    "_abc",
    "_codecs",
    "_frozen_importlib",
    "_frozen_importlib_external",
    "_imp",
    "_io",
    "_json",
    "_signal",
    "_socket",
    "_thread",
    "_warnings",
    "_weakref",
    "abc",
    "builtins",
    "codecs",
    "encodings",
    "encodings.aliases",
    "encodings.utf_8",
    "handler",
    "io",
    "koren_runtime",
    "koren_runtime.contract",
    "koren_runtime.fast_json",
    "koren_runtime.frames",
    "koren_runtime.http",
    "koren_runtime.log",
    "koren_runtime.settings",
    "koren_runtime.supervisor",
    "koren_runtime.worker",
    "marshal",
    "posix",
    "select",
    "sys",
    "time",
    "zipimport",
}


def answer(gateway: GatewayDouble, pod: Pod, code: str, data: Any = None) -> Any:
    """What the handler in `code` answers."""
    pod.write(code)
    gateway.give(data)
    pod.start()
    return gateway.wait_for("response").body


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_handler_gets_kubelesss_event_and_context(gateway: GatewayDouble, pod: Pod) -> None:
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    pod.write("def handle(event, context): return [event, context]")
    gateway.give({"severity": "심각"}, traceparent=traceparent)
    pod.start()
    event, context = gateway.wait_for("response").body
    assert event == {
        "data": {"severity": "심각"},
        "event-id": "event-1",
        "event-type": "kr.koren.traffic.accident.detected",
        "event-time": "2026-11-24T10:15:00.250Z",
        "event-namespace": "cctv-seoul-01",
        "extensions": {
            "specversion": "1.0",
            "source": "cctv-seoul-01",
            "subject": "incident-1",
            "datacontenttype": "application/json",
            "region": "seoul",
            "sequence": 1,
            "traceparent": traceparent,
        },
    }
    assert context == {
        "function-name": "handle",
        "timeout": 10.0,
        "runtime": "python3.11",
        "memory-limit": "128Mi",
    }
    assert gateway.words() == ["entered", "response"]
    assert {call.attempt for call in gateway.calls} == {"1"}


def test_binary_data_are_bytes(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write("def handle(event, context): return event['data'].hex()")
    gateway.give(None, data_base64="/9j/4A==", datacontenttype="image/jpeg")
    pod.start()
    assert gateway.wait_for("response").body == "ffd8ffe0"


@pytest.mark.parametrize(
    ("returned", "body"),
    [
        ("None", None),
        ("'사고'", "사고"),
        ("'사고'.encode()", "사고"),
        ("{'a': [1, 2.5, True, None]}", {"a": [1, 2.5, True, None]}),
        ("(1, 2)", [1, 2]),
        ("'x' * 1_500_000", "x" * 1_500_000),
    ],
)
def test_text_bytes_and_json_are_answers(
    gateway: GatewayDouble, pod: Pod, returned: str, body: Any
) -> None:
    assert answer(gateway, pod, f"def handle(event, context): return {returned}") == body


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("{1, 2}", "a set is not JSON"),
        ("float('nan')", "can't be JSON"),
        ("b'\\xff'", "base64"),
        ("'\\ud800'", "surrogates"),
    ],
)
def test_what_is_no_answer_is_an_error_that_says_so(
    gateway: GatewayDouble, pod: Pod, returned: str, message: str
) -> None:
    pod.write(f"def handle(event, context): return {returned}")
    gateway.give(None)
    pod.start()
    assert message in gateway.wait_for("error").body["message"]


def test_a_large_event_arrives_whole(gateway: GatewayDouble, pod: Pod) -> None:
    code = "def handle(event, context): return len(event['data'])"
    assert answer(gateway, pod, code, "사" * 150_000) == 150_000


def test_a_handlers_exception_is_reported_and_logged_and_ends_nothing(
    gateway: GatewayDouble, pod: Pod
) -> None:
    pod.write(
        """\
        calls = 0

        def handle(event, context):
            global calls
            calls += 1
            if calls == 1:
                raise KeyError("no camera")
            if calls == 2:
                raise SystemExit(4)
            return calls
        """
    )
    for number in (1, 2, 3):
        gateway.give(None, id=f"i{number}")
    pod.start()
    first = gateway.wait_for("error", 1).body
    assert (first["type"], first["message"]) == ("KeyError", "'no camera'")
    assert 'handler.py", line 7, in handle' in first["traceback"]
    assert "koren_runtime" not in first["traceback"]
    assert gateway.wait_for("error", 2).body["type"] == "SystemExit"
    # The same process all along: its globals are those of the first call.
    assert gateway.wait_for("response").body == 3
    assert "[event-1] KeyError: 'no camera'" in pod.log


def test_a_handler_that_takes_too_long_is_ended_with_all_it_started(
    gateway: GatewayDouble, pod: Pod
) -> None:
    pod.write(
        """\
        import subprocess, time

        def handle(event, context):
            if event["data"] == "quick":
                return "done"
            print(subprocess.Popen(["sleep", "60"]).pid)
            time.sleep(60)
        """
    )
    gateway.give("slow", id="slow")
    gateway.give("quick", id="quick")
    pod.start(FUNC_TIMEOUT="1.5")
    entered = gateway.wait_for("slow/entered")
    error = gateway.wait_for("slow/error")
    assert error.body == {"type": "Timeout", "message": "no answer within 1.5 s", "traceback": ""}
    assert error.at - entered.at < 2.5
    assert gateway.wait_for("quick/response").body == "done"
    started = int(pod.log.splitlines()[0].removeprefix("[event-1] "))
    assert not alive(started)


@pytest.mark.parametrize(
    ("death", "how"),
    [
        ("os._exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), 11)", "signal 11"),
        ("os.kill(os.getpid(), 9)", "signal 9"),
        ("os.closerange(3, 99); time.sleep(9)", "signal 9"),
    ],
)
def test_a_crash_costs_one_attempt(gateway: GatewayDouble, pod: Pod, death: str, how: str) -> None:
    pod.write(
        f"""\
        import os, time

        def handle(event, context):
            if event["data"] == "die":
                {death}
            return "alive"
        """
    )
    gateway.give("live", id="first")
    gateway.give("die", id="die")
    gateway.give("live", id="live")
    pod.start()
    error = gateway.wait_for("die/error", timeout_s=5).body
    assert error["type"] == "WorkerEnded"
    assert how in error["message"]
    assert gateway.wait_for("live/response").body == "alive"


def test_an_end_between_two_events_costs_no_attempt(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write("import os\ndef handle(event, context): return os.getpid()")
    pod.start()
    workers = set()
    for number in range(10):
        gateway.give(None, id=f"i{number}")
        worker = gateway.wait_for(f"i{number}/response").body
        workers.add(worker)
        os.kill(worker, 9)
    assert len(workers) == 10
    assert "error" not in gateway.words()


def test_a_process_left_behind_does_not_hide_a_crash(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write(
        """\
        import os, time

        def handle(event, context):
            if os.fork() == 0:
                time.sleep(30)
            os._exit(0)
        """
    )
    gateway.give(None)
    pod.start()
    assert gateway.wait_for("error", timeout_s=3).body["type"] == "WorkerEnded"


def test_the_lease_is_kept_while_the_handler_holds_the_interpreter(
    gateway: GatewayDouble, pod: Pod
) -> None:
    pod.write(
        """\
        def handle(event, context):
            return sum(range(event["data"]))  # one call into C, which lets no other thread run
        """
    )
    gateway.give(2_000_000_000)
    pod.start(FUNC_TIMEOUT="60")
    entered = gateway.wait_for("entered")
    beat = gateway.wait_for("heartbeat", timeout_s=20)
    assert beat.at - entered.at < 4
    assert "response" not in gateway.words()


def test_a_lost_lease_ends_the_handler(gateway: GatewayDouble, pod: Pod) -> None:
    gateway.refuse["heartbeat"] = [409]
    pod.write(
        """\
        import time

        def handle(event, context):
            time.sleep(event["data"])
            return "late"
        """
    )
    gateway.give(60, id="lost")
    gateway.give(0, id="following")
    pod.start(FUNC_TIMEOUT="50")
    assert gateway.wait_for("following/response").body == "late"
    assert gateway.words() == ["entered", "entered", "response"]
    assert "[event-1] runtime: the lease is lost, attempt 1 is ended" in pod.log


def test_an_answer_that_comes_too_late_is_dropped(gateway: GatewayDouble, pod: Pod) -> None:
    gateway.refuse["response"] = [409]
    pod.write("def handle(event, context): return event['data']")
    gateway.give(1, id="late")
    gateway.give(2, id="following")
    pod.start()
    assert gateway.wait_for("following/response").body == 2
    assert "[event-1] runtime: the lease was lost, the response is dropped" in pod.log


def test_an_answer_is_delivered_again_until_the_gateway_has_it(
    gateway: GatewayDouble, pod: Pod
) -> None:
    gateway.refuse["response"] = [503, 500, 401]
    assert answer(gateway, pod, "def handle(event, context): return 1") == 1


def test_an_answer_that_the_gateway_does_not_take_is_an_error(
    gateway: GatewayDouble, pod: Pod
) -> None:
    gateway.refuse["response"] = [413]
    pod.write("def handle(event, context): return 1")
    gateway.give(None)
    pod.start()
    error = gateway.wait_for("error").body
    assert error["type"] == "AnswerRefused"
    assert "413" in error["message"]


@pytest.mark.parametrize(
    ("code", "type", "message"),
    [
        ("import nonexistent", "ModuleNotFoundError", "No module named 'nonexistent'"),
        ("def handel(event, context): ...", "ImportError", "handler has no function handle"),
        ("def handle(:", "SyntaxError", "handler.py, line 1"),
        ("raise SystemExit", "SystemExit", ""),
    ],
)
def test_a_handler_that_can_not_be_loaded_is_reported_and_fails_its_events(
    gateway: GatewayDouble, pod: Pod, code: str, type: str, message: str
) -> None:
    pod.write(code)
    pod.start()
    error = gateway.wait_for("init/error").body
    assert error["type"] == type
    assert message in error["message"]
    assert "handler.py" in error["traceback"] or type == "ImportError"
    gateway.give(None)
    assert gateway.wait_for("invocation-1/error").body["type"] == type
    # It is loaded anew for each event: what was missing at first may be there later.
    pod.write("def handle(event, context): return 'well'")
    gateway.give(None, id="later")
    assert gateway.wait_for("later/response").body == "well"


def test_a_process_that_ends_while_it_loads_is_reported(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write("import os; os._exit(1)")
    pod.start()
    error = gateway.wait_for("init/error").body
    assert error["type"] == "WorkerEnded"
    assert "as it loaded the handler" in error["message"]


def test_the_event_is_asked_for_while_the_handler_loads(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write("import time; time.sleep(1.5)\ndef handle(event, context): return 1")
    gateway.give(None)
    before = time.time()
    pod.start()
    gateway.wait_for_next()
    entered = gateway.wait_for("entered")
    assert entered.at - gateway.nexts[0] > 1
    assert entered.at - before >= 1.5
    assert before - 0.1 <= gateway.started_ms / 1000 <= gateway.nexts[0]


def test_a_pod_loads_no_more_than_it_needs(gateway: GatewayDouble, pod: Pod) -> None:
    code = "def handle(event, context):\n    import sys\n    return sorted(sys.modules)"
    assert set(answer(gateway, pod, code)) <= MODULES


def test_dependencies_are_found(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write("here = 1", name="site-packages/dependency.py")
    pod.write("there = 2", name="elsewhere/other.py")
    pod.write(f"{pod.folder}/elsewhere\n", name="site-packages/other.pth")
    pod.write("mine = 3", name="helper.py")
    code = """\
        import dependency, helper, other

        def handle(event, context):
            return [dependency.here, other.there, helper.mine]
        """
    assert answer(gateway, pod, code) == [1, 2, 3]


def test_printed_lines_are_in_the_log_with_their_event(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write(
        """\
        import os, subprocess, sys
        print("loading")

        def handle(event, context):
            print("안녕", event["data"])
            print("to stderr", file=sys.stderr)
            subprocess.run(["echo", "from a child"])
            print("no newline", end="")
            return 1
        """
    )
    pod.start()
    pod.wait_for_log("loading")
    gateway.give(1)
    gateway.wait_for("response")
    pod.terminate()
    assert pod.wait() == 0
    assert pod.log.splitlines() == [
        "[-] loading",
        "[event-1] 안녕 1",
        "[event-1] to stderr",
        "[event-1] from a child",
        "[event-1] no newline",
    ]


def test_an_idle_pod_stops_at_once(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write("def handle(event, context): return 1")
    pod.start()
    gateway.wait_for_next()
    began = time.monotonic()
    pod.terminate()
    assert pod.wait() == 0
    assert time.monotonic() - began < 1


def test_a_pod_that_stops_finishes_its_event_and_takes_no_other(
    gateway: GatewayDouble, pod: Pod
) -> None:
    pod.write("import time\ndef handle(event, context): time.sleep(1.5); return 'done'")
    gateway.give(None)
    gateway.give(None, id="not this one")
    pod.start()
    gateway.wait_for("entered")
    pod.terminate()
    assert pod.wait() == 0
    assert gateway.wait_for("response", timeout_s=0.1).body == "done"
    assert len(gateway.nexts) == 1


def test_no_event_in_time_is_asked_for_again(gateway: GatewayDouble, pod: Pod) -> None:
    gateway.poll_s = 0.2
    pod.write("def handle(event, context): return 1")
    pod.start()
    gateway.wait_for_next(3)
    gateway.give(None)
    gateway.wait_for("response")


def test_a_gateway_that_is_not_there_yet_is_found_soon(tmp_path: Path) -> None:
    first = GatewayDouble()
    first.close()
    pod = Pod(tmp_path, first.port)
    pod.write("def handle(event, context): return 1")
    pod.start()
    try:
        pod.wait_for_log("Connection refused")
        second = GatewayDouble(port=first.port)
        second.give(None)
        try:
            second.wait_for("response", timeout_s=5)
        finally:
            second.close()
    finally:
        pod.kill()
    assert "[-] runtime: gateway: [Errno 111] Connection refused" in pod.log
    assert pod.log.count("Connection refused") == 1
    assert "[-] runtime: gateway: reached again" in pod.log


def test_refusals_of_the_gateway_are_logged_once_and_outlasted(
    gateway: GatewayDouble, pod: Pod
) -> None:
    gateway.refuse["next"] = [503, 503, 401]
    assert answer(gateway, pod, "def handle(event, context): return 1") == 1
    assert pod.log.count("refused by the test") == 2
    assert "Bearer" not in pod.log and "a-token" not in pod.log


def test_a_token_that_was_replaced_is_used(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write("def handle(event, context): return 1")
    pod.token.write_text("expired")
    pod.start()
    deadline = time.monotonic() + 5
    while not gateway.complaints:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pod.token.write_text("a-token")
    gateway.give(None)
    gateway.wait_for("response")
    gateway.complaints.clear()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("MOD_NAME", ""), ("FUNC_TIMEOUT", "soon"), ("FUNC_TIMEOUT", "0")),
        *(("FUNC_CONCURRENCY", "33"), ("KOREN_GATEWAY", "gw")),
    ],
)
def test_a_setting_that_can_not_be_used_is_named(pod: Pod, name: str, value: str) -> None:
    pod.start(**{name: value})
    assert pod.wait() == 2
    assert f"runtime: {name} is" in pod.log


def test_state_is_kept_and_compared(gateway: GatewayDouble, pod: Pod) -> None:
    code = """\
        from koren_runtime import state

        def handle(event, context):
            seen = [state.get("post/1 ü")]
            first = state.put("post/1 ü", b"one", version=state.ABSENT, expires_s=60)
            entry = state.get("post/1 ü")
            seen += [entry.value.decode(), entry.version == first]
            for version in (state.ABSENT, "stale"):
                try:
                    state.put("post/1 ü", b"lost", version=version)
                except state.Conflict:
                    seen.append("conflict")
            second = state.put("post/1 ü", b"two", version=first)
            third = state.put("post/1 ü", b"three")
            seen += [first != second != third, state.get("post/1 ü").value.decode()]
            try:
                state.put("large", bytes(70_000))
            except state.StateError as error:
                seen.append(str(error))
            return seen
        """
    assert answer(gateway, pod, code) == [
        None,
        "one",
        True,
        "conflict",
        "conflict",
        True,
        "three",
        "state 'large' has 70000 bytes; 65536 is the most that is kept",
    ]
    assert gateway.state["post/1 ü"][0] == b"three"


def test_nothing_of_a_pod_is_left_when_it_is_killed(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write("import os\ndef handle(event, context): return os.getpid()")
    gateway.give(None)
    pod.start()
    worker = gateway.wait_for("response").body
    assert worker != pod.pid
    os.kill(pod.pid, 9)
    deadline = time.monotonic() + 5
    while alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.02)
