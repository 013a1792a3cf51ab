"""One connection to the broker, with a bound on memory.

A connection that ended is not used again; its successor has the same client id and so gets what
was not acknowledged. Nothing of the last one (a queued acknowledgement, say, whose number means
another message by now) leaks into the next.
"""

import asyncio
import os
import re
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import structlog

from koren_gateway.errors import ConnectionLost, SubscriptionRefused
from koren_gateway.intake import wire

_KEEPALIVE_S = 10.0
_CONNECT_TIMEOUT_S = 5.0
_SUBSCRIBE_TIMEOUT_S = 60.0
_FAREWELL_S = 1.0
_RECEIVE_MAXIMUM = 500
_READ_BYTES = 64 * 1024
_WAITING_MAX = 500
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How to reach the broker and who to be there."""

    host: str
    port: int
    client_id: str
    ca: Path
    certificate: Path
    key: Path
    session_expiry_s: int
    buffer_bytes: int
    """Above this much unfetched, the connection is not read from."""
    will_topic: str = ""
    """Empty: there is no will."""
    will_message: bytes = b""

    def tls(self) -> ssl.SSLContext:
        """TLS 1.3 that checks the broker and shows the client's certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(self.ca)
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message from the broker, not yet acknowledged."""

    mid: int | None
    """By which it is acknowledged; none at QoS 0, which nobody waits for."""
    topic: str
    message: bytes
    received_ms: int
    content_type: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    """MQTT 5 user properties; of a name that comes twice, the last."""
    repeat: bool = False
    """Whether the broker sends it again, since it was not acknowledged."""


class Connection:
    """A connection that is open, until `ConnectionLost` is raised or it is closed."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._up: asyncio.Future[wire.Answer] = self._loop.create_future()
        self._down: asyncio.Future[ConnectionLost] = self._loop.create_future()
        self._line = _Line(self)
        self._packets = wire.Packets()
        self._arrivals: deque[Arrival] = deque()
        self._arrived_bytes = 0
        self._arrived = asyncio.Event()
        self._reading = True
        self._to_write: list[bytes] = []
        self._window = 1
        """How many messages the broker takes before it has acknowledged the first."""
        self._published: dict[int, asyncio.Future[None]] = {}
        self._waiting: deque[tuple[str, bytes, bool, asyncio.Future[None]]] = deque()
        self._roomy = asyncio.Event()
        self._subscribed: dict[int, asyncio.Future[None]] = {}
        self._last_id = 0
        self._wrote_at = self._heard_at = time.monotonic()
        self._tick: asyncio.TimerHandle | None = None

    @classmethod
    async def open(cls, link: Link) -> Self:
        """Connects. Raises ConnectionLost when the broker can't be reached or refuses."""
        connection = cls(link)
        try:
            await connection._connect()
        except BaseException:
            connection._end(ConnectionLost("not connected"))
            connection._line.abort()
            raise
        return connection

    async def subscribe(self, topic: str) -> None:
        """Subscribes at QoS 1, to what is published from now on.

        The broker's answer may come behind what it has kept for this client: that must be fetched
        meanwhile. Raises ConnectionLost, and SubscriptionRefused when the broker refuses it.
        """
        await self._ask(wire.subscribe, topic)

    async def unsubscribe(self, topic: str) -> None:
        """Ends a subscription; one that there is not is no error. Raises as `subscribe` does."""
        await self._ask(wire.unsubscribe, topic)

    async def fetch(self, at_most_bytes: int) -> list[Arrival]:
        """What has arrived, at least one message, in order. Raises ConnectionLost."""
        while not self._arrivals:
            self._check()
            self._arrived.clear()
            await self._arrived.wait()
        self._check()
        batch: list[Arrival] = []
        size = 0
        while self._arrivals and (not batch or size < at_most_bytes):
            arrival = self._arrivals.popleft()
            size += len(arrival.message)
            batch.append(arrival)
        self._arrived_bytes -= size
        if not self._reading and self._arrived_bytes < self._link.buffer_bytes // 2:
            self._read_on()
        return batch

    def acknowledge(self, arrivals: Sequence[Arrival]) -> None:
        """Tells the broker to forget them. On a connection that ended it does nothing: the broker
        sends them again on the next."""
        self.forget(arrival.mid for arrival in arrivals if arrival.mid is not None)

    def forget(self, mids: Iterable[int]) -> None:
        """As `acknowledge`, by what the messages are known by."""
        if not self._down.done():
            self._write(b"".join(wire.acknowledge(mid) for mid in mids))

    def publish(self, topic: str, message: bytes, *, retain: bool = False) -> asyncio.Future[None]:
        """Sends at QoS 1; the future is done when the broker has acknowledged, or fails with
        ConnectionLost."""
        done: asyncio.Future[None] = self._loop.create_future()
        # Whoever does not look at it does not care.
        done.add_done_callback(_look)
        if self._down.done():
            done.set_exception(self._down.result())
        else:
            self._waiting.append((topic, message, retain, done))
            self._send_waiting()
        return done

    async def room(self) -> None:
        """Waits until few messages wait for the broker, or the connection has ended."""
        while len(self._waiting) >= _WAITING_MAX:
            self._roomy.clear()
            await self._roomy.wait()

    async def close(self, farewell: asyncio.Future[None] | None = None) -> None:
        """Takes leave of the broker, once `farewell` was acknowledged; the will is not sent."""
        if self._down.done():
            return
        if farewell is not None:
            await asyncio.wait(
                (farewell, self._down),
                timeout=_FAREWELL_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
        if not self._down.done():
            self._write(wire.FAREWELL)
            self._flush()
            self._end(ConnectionLost("closed"))
            await self._line.close(_FAREWELL_S)

    async def lost(self) -> ConnectionLost:
        """Waits for the connection's end."""
        return await asyncio.shield(self._down)

    async def _connect(self) -> None:
        link = self._link
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await self._loop.create_connection(
                    lambda: self._line,
                    link.host,
                    link.port,
                    ssl=link.tls(),
                    ssl_shutdown_timeout=_FAREWELL_S,
                )
        except TimeoutError:
            raise ConnectionLost(f"no connection within {_CONNECT_TIMEOUT_S:g} s") from None
        except (OSError, ValueError) as error:
            raise ConnectionLost(_why(error)) from None
        self._write(
            wire.connect(
                link.client_id,
                keepalive_s=round(_KEEPALIVE_S),
                session_expiry_s=link.session_expiry_s,
                receive_maximum=_RECEIVE_MAXIMUM,
                will=(link.will_topic, link.will_message) if link.will_topic else None,
            )
        )
        self._keep_up()
        await self._unless_lost(self._up, _CONNECT_TIMEOUT_S)
        answer = self._up.result()
        if answer.refused:
            raise ConnectionLost(f"the broker answered '{answer.refused}'")
        self._window = max(1, answer.receive_maximum)
        self._send_waiting()

    async def _ask(self, packet: Callable[[int, str], bytes], topic: str) -> None:
        self._check()
        id = self._new_id()
        done = self._subscribed[id] = self._loop.create_future()
        self._write(packet(id, topic))
        await self._unless_lost(done, _SUBSCRIBE_TIMEOUT_S)

    async def _unless_lost(self, future: asyncio.Future[Any], timeout_s: float) -> None:
        await asyncio.wait((future, self._down), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            future.result()
        elif self._down.done():
            raise self._down.result()
        else:
            raise ConnectionLost(f"no answer within {timeout_s:g} s")

    def _check(self) -> None:
        if self._down.done():
            raise self._down.result()

    def _end(self, why: ConnectionLost) -> None:
        if self._down.done():
            return
        self._down.set_result(why)
        if self._tick is not None:
            self._tick.cancel()
        self._to_write.clear()
        self._arrivals.clear()
        self._arrived.set()
        waiting = [done for *_, done in self._waiting]
        self._waiting.clear()
        self._roomy.set()
        for future in (*self._published.values(), *self._subscribed.values(), *waiting):
            if not future.done():
                future.add_done_callback(_look)
                future.set_exception(why)

    def _drop(self, why: str) -> None:
        """Ends the connection without a word to the broker."""
        self._end(ConnectionLost(why))
        self._line.abort()

    def _keep_up(self) -> None:
        """Looks now and then whether the broker is to be asked for a sign of life, or owes one."""
        now = time.monotonic()
        silent_s = now - self._heard_at
        if self._reading and silent_s > 2 * _KEEPALIVE_S:
            self._drop(f"the broker has said nothing for {silent_s:.0f} s")
            return
        if now - self._wrote_at >= _KEEPALIVE_S or (
            self._reading and silent_s >= _KEEPALIVE_S and now - self._wrote_at >= 1
        ):
            self._write(wire.PING)
        self._tick = self._loop.call_later(_KEEPALIVE_S / 10, self._keep_up)

    # What is written in one turn of the event loop goes as one: one record of TLS, one call.

    def _write(self, packet: bytes) -> None:
        if not self._to_write:
            self._loop.call_soon(self._flush)
        self._to_write.append(packet)

    def _flush(self) -> None:
        if self._to_write:
            self._line.write(b"".join(self._to_write))
            self._to_write.clear()
            self._wrote_at = time.monotonic()

    def _send_waiting(self) -> None:
        """Sends what waits, as far as the broker's window allows."""
        while self._waiting and len(self._published) < self._window and self._up.done():
            topic, message, retain, done = self._waiting.popleft()
            id = self._new_id()
            self._published[id] = done
            self._write(wire.publish(id, topic, message, retain=retain))
        if len(self._waiting) < _WAITING_MAX:
            self._roomy.set()

    def _new_id(self) -> int:
        while True:
            self._last_id = self._last_id % 65535 + 1
            if self._last_id not in self._published and self._last_id not in self._subscribed:
                return self._last_id

    def _read_on(self) -> None:
        self._reading = True
        self._heard_at = time.monotonic()
        self._take()
        if self._reading:
            self._line.read_on()

    def _read(self, some: memoryview) -> None:
        """Bytes came from the broker."""
        self._heard_at = time.monotonic()
        self._packets.feed(some)
        if self._reading:
            self._take()

    def _take(self) -> None:
        """Looks at the packets that are there, until the buffer is full."""
        now_ms = round(time.time() * 1000)
        try:
            for first, body in self._packets:
                kind = first >> 4
                if kind == wire.PUBLISH:
                    self._take_message(wire.message_of(first, body), now_ms)
                    if self._arrived_bytes >= self._link.buffer_bytes:
                        _log.warning("intake is full, reading stops", buffered_bytes=self._arrived_bytes)
                        self._reading = False
                        self._line.stop_reading()
                        break
                else:
                    self._take_answer(kind, body)
                    if self._down.done():
                        break
        except wire.Malformed as error:
            self._drop(f"what the broker sent is no MQTT: {error}")
        self._send_waiting()

    def _take_message(self, message: wire.Message, now_ms: int) -> None:
        self._arrivals.append(
            Arrival(
                message.id,
                message.topic,
                message.body,
                now_ms,
                message.content_type,
                message.attributes,
                message.repeat,
            )
        )
        self._arrived_bytes += len(message.body)
        self._arrived.set()

    def _take_answer(self, kind: int, body: bytes) -> None:
        match kind:
            case wire.PUBACK:
                answer = wire.answer_of(kind, body)
                done = self._published.pop(answer.id, None)
                if answer.refused:
                    _log.error("broker refused a message; check its ACL", reason=answer.refused)
                if done is not None and not done.done():
                    done.set_result(None)
            case wire.SUBACK | wire.UNSUBACK:
                answer = wire.answer_of(kind, body)
                done = self._subscribed.pop(answer.id, None)
                if done is not None and not done.done():
                    if answer.refused:
                        done.set_exception(SubscriptionRefused(f"subscription refused: {answer.refused}"))
                    else:
                        done.set_result(None)
            case wire.CONNACK:
                if not self._up.done():
                    self._up.set_result(wire.answer_of(kind, body))
            case wire.DISCONNECT:
                said = wire.reason(body[0]) if body else "no reason given"
                self._drop(f"the broker ended the connection ({said})")
            case wire.PINGRESP:
                pass
            case _:
                raise wire.Malformed(f"a packet of type {kind} is not the broker's to send")


class _Line(asyncio.BufferedProtocol):
    """TLS to the broker: asyncio's side of a connection. What ends it ends the connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transport: asyncio.Transport | None = None
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._over = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if not self._connection._down.done():
            self._connection._read(self._buffer[:nbytes])

    def connection_lost(self, exc: Exception | None) -> None:
        self._over.set()
        problem = "the broker closed it" if exc is None else _why(exc)
        self._connection._end(ConnectionLost(f"the connection ended ({problem})"))

    def write(self, some: bytes) -> None:
        if self._transport is not None:
            self._transport.write(some)

    def stop_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def close(self, timeout_s: float) -> None:
        """Sends what is written still, and waits for the broker's close."""
        if self._transport is not None:
            self._transport.close()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._over.wait()
            except TimeoutError:
                self._transport.abort()


def _why(error: Exception) -> str:
    """An error in words; asyncio names most by their number."""

    def words(number: re.Match[str]) -> str:
        return os.strerror(int(number[1]))

    text = re.sub(r"\[Errno (\d+)\](?: Connect call failed)?", words, str(error))
    return text or type(error).__name__


def _look(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
