"""A pod with several events in hand, each in a slot with a worker of its own."""

import os
import subprocess
import time
from collections.abc import Sequence

import pytest
from pods import Pod
from test_node import NODE, WORKER

from koren_runtime.local.double import GatewayDouble

# Each event says when it goes on: once a key of the function's state is there.
WAITING = """\
import os, time
from koren_runtime import state

print("loaded")

def handle(event, context):
    print("entered", os.getpid())
    if event["data"] == "die":
        os._exit(3)
    while event["data"] and state.get(event["data"]) is None:
        time.sleep(0.02)
    return os.getpid()
"""
WAITING_JS = """\
const { state } = require('koren-runtime');
exports.handle = async (event) => {
  while (event.data && (await state.get(event.data)) === null) await new Promise((done) => setTimeout(done, 20));
  return process.pid;
};
"""


def start(gateway: GatewayDouble, pod: Pod, slots: int, *ids: str, code: str = WAITING, **environment: str) -> None:
    """A pod with an event for each id, which goes on when the id is said to."""
    pod.write(code)
    for id in ids:
        gateway.give(f"go {id}", id=id)
    pod.start(**{"FUNC_CONCURRENCY": str(slots), "FUNC_TIMEOUT": "60"} | environment)


def go_on(gateway: GatewayDouble, *ids: str) -> None:
    for id in ids:
        gateway.state[f"go {id}"] = b"", 1


@pytest.mark.parametrize(
    ("program", "name", "code"),
    [((), "handler.py", WAITING), ((NODE, WORKER), "handler.js", WAITING_JS)],
    ids=["python", "node"],
)
def test_events_are_handled_side_by_side_each_by_a_process_of_its_own(
    gateway: GatewayDouble, pod: Pod, program: Sequence[str], name: str, code: str
) -> None:
    pod.write(code, name)
    for id in ("a", "b", "c"):
        gateway.give(f"go {id}", id=id)
    pod.start(program=program, FUNC_CONCURRENCY="2", FUNC_TIMEOUT="60")
    for id in ("a", "b"):
        gateway.wait_for(f"{id}/entered", timeout_s=30)
    assert len(gateway.nexts) == 2  # it has no room for a third
    # The second is done first: its slot is free again, and its process is used again.
    go_on(gateway, "b", "c")
    assert gateway.wait_for("b/response").body == gateway.wait_for("c/response").body
    go_on(gateway, "a")
    assert gateway.wait_for("a/response").body != gateway.wait_for("b/response").body
    assert gateway.slots == {"a": 0, "b": 1, "c": 1}


def test_events_one_after_another_need_one_process(gateway: GatewayDouble, pod: Pod) -> None:
    start(gateway, pod, 8)
    pids = set()
    for number in range(4):
        gateway.give(None, id=f"i{number}")
        pids.add(gateway.wait_for(f"i{number}/response").body)
        while len(os.listdir(f"/proc/{pod.pid}/task")) > 1:
            time.sleep(0.01)  # it has not come back from the event yet
    assert len(pids) == 1 and pod.log.count("loaded") == 1


def test_no_second_event_delays_a_cold_start(gateway: GatewayDouble, pod: Pod) -> None:
    start(gateway, pod, 2, "a", "b", code="import time\ntime.sleep(0.5)\n" + WAITING)
    gateway.wait_for("a/entered")
    assert gateway.nexts_before("a/entered") == 1
    gateway.wait_for("b/entered")
    go_on(gateway, "a", "b")
    gateway.wait_for("a/response")
    gateway.wait_for("b/response")


def test_a_crash_costs_its_own_event_alone(gateway: GatewayDouble, pod: Pod) -> None:
    start(gateway, pod, 3, "a")
    gateway.wait_for("a/entered")
    gateway.give("die", id="b")
    assert "exit code 3" in gateway.wait_for("b/error").body["message"]
    gateway.give(None, id="c")
    gateway.wait_for("c/response")
    go_on(gateway, "a")
    gateway.wait_for("a/response")
    assert [call.path for call in gateway.calls if call.path.endswith("/error")] == ["/v1/invocation/b/error"]


def test_what_a_crashed_handler_has_started_ends_with_it_and_nothing_else_does(
    gateway: GatewayDouble, pod: Pod
) -> None:
    # As in a container, the runtime is the first process: it inherits what has lost its parent.
    first = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*first, "true"], capture_output=True).returncode != 0:
        pytest.skip("no PID namespace can be made")
    pod.write(
        """\
        import os, subprocess, time
        from koren_runtime import state

        def commands():
            for name in os.listdir("/proc"):
                if name.isdigit():
                    with open(f"/proc/{name}/cmdline") as file:
                        yield file.read().split("\\0")[:-1]

        def handle(event, context):
            if event["data"] == "list":
                return sorted(words[1] for words in commands() if words and words[0] == "sleep")
            subprocess.run(["sh", "-c", f"sleep {event['data']} &"], start_new_session=True)
            if event["data"] == "1001":
                os._exit(3)
            state.put("left", b"")
            while state.get("go") is None:
                time.sleep(0.02)
        """
    )
    gateway.give("1000", id="a")
    pod.start(*first, FUNC_CONCURRENCY="2", FUNC_TIMEOUT="60")
    gateway.wait_until(lambda: "left" in gateway.state)
    gateway.give("1001", id="b")
    assert "exit code 3" in gateway.wait_for("b/error").body["message"]
    gateway.give("list", id="c")
    assert gateway.wait_for("c/response").body == ["1000"]
    gateway.state["go"] = b"", 1
    gateway.wait_for("a/response")


def test_a_handler_that_takes_too_long_costs_its_own_event_alone(gateway: GatewayDouble, pod: Pod) -> None:
    start(gateway, pod, 2, "a", FUNC_TIMEOUT="6")
    gateway.wait_for("a/entered")
    gateway.wait_for("heartbeat", timeout_s=20)
    gateway.give("go b", id="b")
    gateway.wait_for("b/entered")
    assert gateway.wait_for("a/error", timeout_s=20).body["type"] == "Timeout"
    go_on(gateway, "b")
    gateway.wait_for("b/response")


def test_a_gateway_that_is_slow_with_one_event_renews_the_leases_of_the_others(
    gateway: GatewayDouble, pod: Pod
) -> None:
    gateway.lease_ms = 3000
    start(gateway, pod, 2, "a")
    gateway.wait_for("a/entered")
    gateway.hang = {"response"}
    gateway.give(None, id="b")
    gateway.wait_for("b/entered")
    beats = sum(call.path == "/v1/invocation/a/heartbeat" for call in gateway.calls)
    gateway.wait_for("a/heartbeat", beats + 3)
    gateway.hang = set()
    go_on(gateway, "a")
    gateway.wait_for("a/response")


def test_a_pod_that_is_to_end_brings_all_its_events_to_the_end(gateway: GatewayDouble, pod: Pod) -> None:
    start(gateway, pod, 3, "a", "b")
    gateway.wait_for("b/entered")
    gateway.wait_for("a/entered")
    pod.terminate()
    pod.wait_for_log("entered")
    go_on(gateway, "a", "b")
    gateway.wait_for("a/response")
    gateway.wait_for("b/response")
    assert pod.wait() == 0
    assert set(gateway.slots) == {"a", "b"}


def test_lines_of_events_side_by_side_are_told_apart(gateway: GatewayDouble, pod: Pod) -> None:
    code = """\
    import time
    from koren_runtime import state

    def handle(event, context):
        for line in range(200):
            print(event["data"], line, "x" * 100)
        state.put(event["data"], b"")
        while state.get("go") is None:
            time.sleep(0.02)
    """
    pod.write(code)
    for id in ("a", "b"):
        gateway.give(id, id=id)
    pod.start(FUNC_CONCURRENCY="2")
    gateway.wait_until(lambda: {"a", "b"} <= set(gateway.state))
    gateway.state["go"] = b"", 1
    gateway.wait_for("a/response")
    gateway.wait_for("b/response")
    gateway.wait_for("/v1/log", 2)
    lines = pod.log.splitlines()
    assert sorted(lines) == sorted(f"[event-1] {id} {n} {'x' * 100}" for id in ("a", "b") for n in range(200))
    for call in gateway.calls:
        if call.path == "/v1/log":
            assert len({line.split()[1] for line in call.body["text"].splitlines()}) == 1
