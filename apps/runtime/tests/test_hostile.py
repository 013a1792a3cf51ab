"""A function's code that works against its supervisor harms its own events at most."""

from pods import Pod

from koren_runtime.local.double import GatewayDouble

PRINTING = """\
import os, threading

def handle(event, context):
    for _ in range(4):
        if os.fork():
            continue
        while True:
            os.write(1, b"0123456789\\n" * 6000)
    return event["data"]
"""

TALKING = """\
import os, time

def handle(event, context):
    if event["data"] == "talk":
        controls = [int(n) for n in os.listdir("/proc/self/fd") if "socket" in read(n)]
        while True:
            for control in controls:
                os.write(control, b"R\\0\\0\\0\\0" * 4000)
    return event["data"]

def read(number):
    try:
        return os.readlink("/proc/self/fd/" + number)
    except OSError:
        return ""
"""


def test_a_child_that_prints_without_end_stops_no_event(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write(PRINTING)
    for name in ("i1", "i2"):
        gateway.give(name, id=name)
    pod.start(FUNC_TIMEOUT="30")
    gateway.wait_for("i1/response", timeout_s=30)
    gateway.wait_for("i2/response", timeout_s=30)


def test_a_handler_that_floods_its_supervisor_ends_in_time(gateway: GatewayDouble, pod: Pod) -> None:
    pod.write(TALKING)
    gateway.give("talk", id="i1")
    gateway.give("well", id="i2")
    pod.start(FUNC_TIMEOUT="2")
    assert gateway.wait_for("i1/error").body["type"] in ("Timeout", "WorkerEnded")
    assert gateway.wait_for("i2/response").body == "well"
