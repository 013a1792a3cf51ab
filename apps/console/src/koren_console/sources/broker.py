# SPDX-License-Identifier: Apache-2.0
"""The centre's broker: events, receipts and health as they pass."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any

import structlog

from koren_console.settings import Broker, Tls
from koren_events.link import Arrived, Connected, Disconnected, Link, Senseless

CLIENT_ID = "console"
FILTERS = ("events/#", "receipts/#", "health/#")

_MOST_WAITING = 64
_log = structlog.get_logger()


class Listener:
    """Connects for as long as it is open, and hands each message over in the event loop, in order.

    Args:
        on_message: called with topic and payload; what it raises is logged and the message left out.
        on_state: called with whether the broker is connected, and why not.
    """

    def __init__(
        self,
        broker: Broker,
        tls: Tls,
        on_message: Callable[[str, bytes], None],
        on_state: Callable[[bool, str], None],
    ) -> None:
        self._on_message, self._on_state = on_message, on_state
        self._loop = asyncio.get_running_loop()
        self._link = Link(
            _Handover(self._happened),
            host=broker.host,
            port=broker.port,
            ca=tls.ca,
            cert=tls.certificate,
            key=tls.key,
            client_id=CLIENT_ID,
            will=None,
        )
        # The broker waits, through its connection, while the loop has so many before it.
        self._room = threading.Semaphore(_MOST_WAITING)
        self._closed = False

    def open(self) -> None:
        """Begins to connect."""
        self._link.open()

    def close(self) -> None:
        """Ends the connection."""
        self._closed = True
        self._room.release(_MOST_WAITING)
        self._link.close()

    def _happened(self, happening: Any) -> None:
        self._room.acquire()
        if not self._closed:
            try:
                self._loop.call_soon_threadsafe(self._handle, happening)
            except RuntimeError:
                # The loop has ended.
                self._closed = True

    def _handle(self, happening: Any) -> None:
        self._room.release()
        try:
            match happening:
                case Connected():
                    self._link.subscribe(*FILTERS)
                    self._on_state(True, "")
                case Disconnected(why):
                    self._on_state(False, why)
                case Arrived(topic, message):
                    self._on_message(topic, message)
                case Senseless(what):
                    _log.warning("the broker sent what is no MQTT", problem=what)
        except Exception:
            # One message, whatever is in it, must not end the others.
            _log.exception("message left out")


class _Handover(queue.SimpleQueue[Any]):
    """Where the link puts its happenings: each is passed on at once."""

    def __init__(self, pass_on: Callable[[Any], None]) -> None:
        super().__init__()
        self._pass_on = pass_on

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self._pass_on(item)
