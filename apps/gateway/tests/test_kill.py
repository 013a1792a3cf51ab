"""The gateway's process is killed at the worst moments: nothing is lost, nothing done twice."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from gateway_lab import Mosquitto, Operator, Pki, Pod, RedisServer, environment, settings, until

from koren_gateway.queue.store import Store
from koren_gateway.settings import Settings

pytestmark = pytest.mark.asyncio

PROCESS = Path(__file__).with_name("gateway_process.py")
COUNT = 150


def start(made: Settings, **more: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, str(PROCESS)],
        env={**os.environ, **environment(made), **more},
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("kill_at", ["before-commit", "after-commit"])
async def test_killed_around_the_commit_an_event_is_handled_once(
    kill_at: str, store: Store, pki: Pki, shared_redis: RedisServer, clean_broker: Mosquitto
) -> None:
    made = settings(pki, shared_redis, clean_broker.port)
    operator = await Operator.connect(pki, clean_broker.port)
    process = start(made, KILL_AT=kill_at)
    try:
        await until(lambda: any(h["state"] == "up" for h in operator.health), "up")
        await operator.publish()
        assert await asyncio.to_thread(process.wait, 10) == -signal.SIGKILL
        await until(lambda: operator.health[-1]["state"] == "down", "the last will")
        assert operator.receipts == []
        process = start(made)
        # In effect once: received again after the commit, it is known.
        receipt = await operator.receipt("received")
        assert ("durable" in receipt.phases) is (kill_at == "before-commit")
        pod = Pod(made, "report-incident", "pod-a")
        assert await pod.next()
        assert await pod.post("response", {}) == 204
        assert (await pod.next_now()) is None
    finally:
        process.terminate()
        assert process.wait(10) == 0
        await operator.close()


async def test_killed_again_and_again_under_load_every_event_is_handled_once_in_order(
    store: Store, pki: Pki, shared_redis: RedisServer, clean_broker: Mosquitto
) -> None:
    made = settings(pki, shared_redis, clean_broker.port)
    operator = await Operator.connect(pki, clean_broker.port)
    handled: list[tuple[str, int]] = []
    process = start(made)
    handling = asyncio.create_task(handle_all(made, handled))
    try:
        # From now on the broker keeps what it is published.
        await until(lambda: any(h["state"] == "up" for h in operator.health), "up", 60)
        publishing = asyncio.create_task(publish_all(operator))
        for kill in range(1, 4):
            await until(lambda kill=kill: len(handled) >= kill * COUNT // 5, "some more are handled", 60)
            process.kill()
            process.wait()
            process = start(made)
        await publishing
        await until(lambda: len(handled) >= COUNT, "all handled", 60)
    finally:
        handling.cancel()
        process.kill()
        process.wait()
        await operator.close()
    assert len(handled) == len(set(handled)) == COUNT
    for subject in {subject for subject, _ in handled}:
        mine = [sequence for its, sequence in handled if its == subject]
        assert mine == sorted(mine)


async def publish_all(operator: Operator) -> None:
    for number in range(COUNT):
        await operator.publish(subject=f"incident-{number % 7}", happened="updated", sequence=number)
        await asyncio.sleep(0.01)


async def handle_all(made: Settings, handled: list[tuple[str, int]]) -> None:
    # An answer that was lost with the gateway is taken as the function's own idempotence would: the
    # handler's effect is keyed by the event.
    pod = Pod(made, "report-incident", "pod-a")
    while True:
        try:
            event = await pod.next()
            if event is None:
                continue
            effect = (event["subject"], event["sequence"])
            if effect not in handled:
                handled.append(effect)
            await pod.post("response", {})
        except (httpx.TransportError, AssertionError):
            await asyncio.sleep(0.05)
