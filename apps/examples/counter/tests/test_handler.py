# SPDX-License-Identifier: Apache-2.0
import threading

from handler import add


def test_messages_are_counted_by_their_topic(call, event, state):
    for count in (1, 2):
        assert call(event.read("event.json")) == {"topic": "meters/hall/7", "count": count}
    assert call(event.read("event.json", mqtttopic="meters/hall/8"))["count"] == 1
    assert state["count/meters/hall/7"] == b"2"


def test_several_pods_lose_no_count(state):
    pods = [threading.Thread(target=lambda: [add("count") for _ in range(5)]) for _ in range(4)]
    for pod in pods:
        pod.start()
    for pod in pods:
        pod.join()
    assert state["count"] == b"20"
