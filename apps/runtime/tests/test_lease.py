"""A lease as the runtime keeps it: nobody else has the event while a handler runs."""

import time
from typing import Any

import pytest
from pods import Pod

from koren_runtime.local.double import KEPT, GatewayDouble

# Writes what it did so far into the log, so that its end can be seen.
TICKING = """\
import time

def handle(event, context):
    until = time.monotonic() + event["data"]
    while time.monotonic() < until:
        print("tick", flush=True)
        time.sleep(0.05)
    return "done"
"""


def start(gateway: GatewayDouble, pod: Pod, data: Any, lease_ms: int = 1500) -> None:
    gateway.lease_ms = lease_ms
    pod.write(TICKING)
    gateway.give(data)
    pod.start(FUNC_TIMEOUT="60")


def wait_for_end(pod: Pod, timeout_s: float) -> float:
    """Seconds until the runtime says that the lease has run out."""
    began = time.monotonic()
    pod.wait_for_log("it must have run out, attempt 1 is ended", timeout_s)
    return time.monotonic() - began


def ticks(pod: Pod) -> int:
    return pod.log.count("tick")


def test_a_handler_ends_with_its_lease_when_the_gateway_is_gone(
    gateway: GatewayDouble, pod: Pod
) -> None:
    start(gateway, pod, 30)
    gateway.wait_for("entered")
    gateway.close()
    assert wait_for_end(pod, 5) < 2.5
    before = ticks(pod)
    # The runtime has gone on to its next question by now, and nothing of the handler is left.
    pod.wait_for_log("Connection refused")
    assert ticks(pod) == before
    pod.terminate()
    assert pod.wait() == 0
    assert ticks(pod) == before


@pytest.mark.parametrize("status", [500, 401, 503, 404])
def test_an_answer_that_does_not_renew_the_lease_ends_the_handler(
    gateway: GatewayDouble, pod: Pod, status: int
) -> None:
    gateway.refuse["heartbeat"] = [status] * 100
    start(gateway, pod, 30)
    gateway.wait_for("entered")
    assert wait_for_end(pod, 5) < 2.5
    gateway.refuse.clear()
    gateway.give(0, id="following")
    assert gateway.wait_for("following/response").body == "done"
    assert gateway.words() == ["entered", "entered", "response"]


def test_a_gateway_that_takes_connections_and_says_nothing_delays_no_end(
    gateway: GatewayDouble, pod: Pod
) -> None:
    gateway.hang = {"heartbeat"}
    start(gateway, pod, 30)
    gateway.wait_for("entered")
    assert wait_for_end(pod, 5) < 2.5


def test_a_kept_lease_lets_the_handler_go_on(gateway: GatewayDouble, pod: Pod) -> None:
    gateway.refuse["heartbeat"] = [KEPT] * 100
    start(gateway, pod, 4)
    assert gateway.wait_for("response").body == "done"
    assert "run out" not in pod.log
    # Each question was put to a second connection, too: another replica may know better.
    assert gateway.refused.count("heartbeat") >= 4


def test_another_replica_that_has_lost_the_lease_is_believed(
    gateway: GatewayDouble, pod: Pod
) -> None:
    gateway.refuse["heartbeat"] = [KEPT, 409]
    start(gateway, pod, 30)
    pod.wait_for_log("the lease is lost, attempt 1 is ended")
    assert gateway.refuse["heartbeat"] == []


def test_a_kept_lease_is_kept_though_nobody_else_can_be_reached(
    gateway: GatewayDouble, pod: Pod
) -> None:
    gateway.refuse["heartbeat"] = [KEPT] * 4
    start(gateway, pod, 4)
    gateway.wait_for("entered")
    gateway.stop_listening()
    assert gateway.wait_for("response").body == "done"
    assert gateway.refused.count("heartbeat") == 4


def test_entered_is_told_until_it_is_taken(gateway: GatewayDouble, pod: Pod) -> None:
    gateway.refuse["entered"] = [503, KEPT, KEPT, 500]
    start(gateway, pod, 4, lease_ms=3000)
    gateway.wait_for("heartbeat")
    assert gateway.refuse["entered"] == []
    first, second = gateway.calls[:2]
    assert first.path.endswith("/entered") and second.path.endswith("/heartbeat")
    gateway.wait_for("response")


def test_a_connection_that_was_cut_costs_no_heartbeat(gateway: GatewayDouble, pod: Pod) -> None:
    start(gateway, pod, 4)
    for number in (1, 3, 5):  # what is cut may be its answer, and then it is told again
        gateway.wait_for("heartbeat", number)
        gateway.cut()
    assert gateway.wait_for("response").body == "done"
    assert "gateway:" not in pod.log


def test_the_lease_the_gateway_gives_sets_the_pace(gateway: GatewayDouble, pod: Pod) -> None:
    start(gateway, pod, 2, lease_ms=600)
    gateway.wait_for("response")
    assert sum(call.path.endswith("heartbeat") for call in gateway.calls) >= 6


def test_a_long_event_is_taken_in_by_a_module_that_holds_the_interpreter(
    gateway: GatewayDouble, pod: Pod
) -> None:
    # Two megabytes fit into no socket: the supervisor must not wait for a reader that is stuck.
    pod.write(
        """\
        import threading, time

        def hold():
            sum(range(150_000_000))  # lets no other thread run

        threading.Thread(target=hold, daemon=True).start()

        def handle(event, context):
            return len(event["data"])
        """
    )
    gateway.lease_ms = 2000
    gateway.give("x" * 2_000_000)
    pod.start(FUNC_TIMEOUT="60")
    gateway.wait_for("heartbeat")
    assert gateway.wait_for("response", timeout_s=60).body == 2_000_000


def test_a_report_outlasts_an_outage_that_keeps_the_lease(gateway: GatewayDouble, pod: Pod) -> None:
    gateway.refuse["response"] = [KEPT] * 3
    start(gateway, pod, 0)
    assert gateway.wait_for("response").body == "done"


def test_a_pod_that_is_to_end_does_not_storm_a_gateway_that_is_away(
    gateway: GatewayDouble, pod: Pod
) -> None:
    gateway.refuse["response"] = [503] * 10_000
    start(gateway, pod, 0)
    gateway.wait_until(lambda: gateway.refused)
    pod.terminate()
    time.sleep(1)  # what is looked at is what happens within a time
    assert len(gateway.refused) < 12


STATE = """\
import time
from koren_runtime import state

def put(key):
    try:
        state.put(key, b"x")
    except state.LeaseLost as error:
        return str(error)

put("loading")

def handle(event, context):
    first = put("first")
    time.sleep(event["data"])
    return [first, put("second")]
"""


def test_a_write_of_state_says_for_which_attempt_it_is(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write(STATE)
    for name in ("i1", "i2"):
        gateway.give(0, id=name)
    pod.start()
    assert gateway.wait_for("i2/response").body == [None, None]
    assert gateway.writers == [(None, None)] + [("i1", "1")] * 2 + [("i2", "2")] * 2


def test_a_write_of_state_after_the_lease_is_refused(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write(STATE)
    gateway.give(1)
    pod.start()
    gateway.wait_until(lambda: "first" in gateway.state)
    gateway.leases.clear()
    _, second = gateway.wait_for("response").body
    assert second == "state 'second' is not written: 409 the attempt has no lease"
    assert "second" not in gateway.state


def test_a_full_store_says_so(gateway: GatewayDouble, pod: Pod) -> None:
    gateway.refuse["key"] = [507]
    pod.write("from koren_runtime import state\ndef handle(e, c): state.put('key', b'x')")
    gateway.give(None)
    pod.start()
    error = gateway.wait_for("error").body
    assert error["type"] == "StateError"
    assert error["message"] == "state 'key': the gateway answered 507 refused by the test"
