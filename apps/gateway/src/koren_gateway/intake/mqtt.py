"""One connection to the broker, in the event loop: what paho does, with a bound on memory.

A connection that ended is not used again; its successor has the same client id and so gets what
was not acknowledged. paho's client is new with every connection, too: nothing of the last one (a
queued acknowledgement, say, whose number means another message by now) can leak into the next.
"""

import asyncio
import contextlib
import socket
import ssl
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import structlog
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from koren_gateway.errors import ConnectionLost

_KEEPALIVE_S = 10
_CONNECT_TIMEOUT_S = 5.0
_RECEIVE_MAXIMUM = 500
_WINDOW = 20  # what Mosquitto takes in flight from one client
# A message that the broker retains is old news with every connection, and is not asked for.
_NEW_ONES = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
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
    will_topic: str
    will_message: bytes

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


class Connection:
    """A connection that is open, until `ConnectionLost` is raised or it is closed."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._arrivals: deque[Arrival] = deque()
        self._arrived_bytes = 0
        self._arrived = asyncio.Event()
        self._reading = False
        self._socket: Any = None
        self._up: asyncio.Future[None] = self._loop.create_future()
        self._down: asyncio.Future[ConnectionLost] = self._loop.create_future()
        self._subscribed: dict[int, asyncio.Future[None]] = {}
        self._published: dict[int, asyncio.Future[None]] = {}
        self._upkeep: asyncio.Task[None] | None = None
        self._client = self._make_client()

    @classmethod
    async def open(cls, link: Link) -> Self:
        """Connects. Raises ConnectionLost when the broker can't be reached or refuses."""
        connection = cls(link)
        try:
            await connection._connect()
        except BaseException:
            connection._drop(ConnectionLost("not connected"))
            raise
        return connection

    async def subscribe(self, topic: str) -> None:
        """Subscribes at QoS 1, to what is published from now on.

        Raises ConnectionLost, also when the broker refuses it.
        """
        _, mid = self._client.subscribe(topic, options=_NEW_ONES)
        if mid is None:
            raise ConnectionLost("the connection ended before the subscription")
        done = self._subscribed[mid] = self._loop.create_future()
        await self._unless_lost(done, _CONNECT_TIMEOUT_S)

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
        for arrival in arrivals:
            if self._down.done():
                return
            if arrival.mid is not None:
                self._client.ack(arrival.mid, 1)

    def publish(self, topic: str, message: bytes, *, retain: bool = False) -> asyncio.Future[None]:
        """Sends at QoS 1; the future is done when the broker has acknowledged, or fails with
        ConnectionLost."""
        done: asyncio.Future[None] = self._loop.create_future()
        # Whoever does not look at it does not care.
        done.add_done_callback(lambda future: future.cancelled() or future.exception())
        if self._down.done():
            done.set_exception(self._down.result())
            return done
        info = self._client.publish(topic, message, qos=1, retain=retain)
        if not self._down.done():
            self._published[info.mid] = done
        else:
            done.set_exception(self._down.result())
        return done

    async def close(self, farewell: asyncio.Future[None] | None = None) -> None:
        """Takes leave of the broker, once `farewell` was acknowledged; the will is not sent."""
        if not self._down.done():
            if farewell is not None:
                with contextlib.suppress(ConnectionLost, TimeoutError):
                    await self._unless_lost(farewell, 1.0)
            self._client.disconnect()
            for _ in range(100):
                if self._down.done():
                    return
                self._client.loop_write()
                await asyncio.sleep(0.01)
            self._drop(ConnectionLost("the broker did not take the farewell"))

    async def lost(self) -> ConnectionLost:
        """Waits for the connection's end."""
        return await asyncio.shield(self._down)

    # What follows is paho's side. Every callback runs in the event loop.

    def _make_client(self) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._link.client_id,
            protocol=mqtt.MQTTv5,
            manual_ack=True,
        )
        client.tls_set_context(self._link.tls())
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(_WINDOW)
        client.will_set(self._link.will_topic, self._link.will_message, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        return client

    async def _connect(self) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._link.session_expiry_s
        properties.ReceiveMaximum = _RECEIVE_MAXIMUM
        try:
            # Names, TCP and TLS: paho does it in one blocking call.
            await asyncio.to_thread(
                self._client.connect,
                self._link.host,
                self._link.port,
                keepalive=_KEEPALIVE_S,
                clean_start=False,
                properties=properties,
            )
        except (OSError, ValueError) as error:
            raise ConnectionLost(str(error) or type(error).__name__) from None
        self._socket = self._client.socket()
        # Receipts and acknowledgements are small and many: held back for the one before, they would
        # come 40 ms late.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client.on_socket_close = self._on_socket_close
        self._client.on_socket_register_write = self._on_socket_register_write
        self._client.on_socket_unregister_write = self._on_socket_unregister_write
        self._read_on()
        if self._client.want_write():
            self._on_socket_register_write(self._client, None, self._socket)
        await self._unless_lost(self._up, _CONNECT_TIMEOUT_S)
        self._upkeep = asyncio.create_task(self._keep_up())

    async def _keep_up(self) -> None:
        while not self._down.done():
            await asyncio.sleep(1.0)
            self._client.loop_misc()

    async def _unless_lost(self, future: asyncio.Future[None], timeout_s: float) -> None:
        await asyncio.wait(
            (future, self._down), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
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
        if self._upkeep is not None:
            self._upkeep.cancel()
        self._detach()
        self._arrivals.clear()
        self._arrived.set()
        for future in (*self._published.values(), *self._subscribed.values()):
            if not future.done():
                future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
                future.set_exception(why)

    def _drop(self, why: ConnectionLost) -> None:
        """Without a word, which paho has no call for."""
        self._end(why)
        if self._socket is not None:
            self._socket.close()

    def _read_on(self) -> None:
        if self._socket is not None and not self._down.done():
            self._reading = True
            self._loop.add_reader(self._socket, self._readable)
            # Decrypted bytes that TLS holds back already don't make the socket readable.
            if self._pending():
                self._loop.call_soon(self._readable)

    def _stop_reading(self) -> None:
        self._reading = False
        self._loop.remove_reader(self._socket)

    def _pending(self) -> bool:
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def _readable(self) -> None:
        if self._down.done() or not self._reading:
            return
        self._client.loop_read()
        if self._down.done():
            return
        if self._arrived_bytes >= self._link.buffer_bytes:
            _log.warning("intake is full, reading stops", buffered_bytes=self._arrived_bytes)
            self._stop_reading()
        elif self._pending():
            self._loop.call_soon(self._readable)

    def _detach(self) -> None:
        if self._socket is not None and self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._reading = False

    def _on_connect(
        self, client: mqtt.Client, userdata: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if self._up.done():
            return
        if reason.is_failure:
            self._up.set_exception(ConnectionLost(f"the broker answered '{reason}'"))
        else:
            self._up.set_result(None)

    def _on_disconnect(
        self, client: mqtt.Client, userdata: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        self._end(ConnectionLost(f"the connection ended ({reason})"))

    def _on_subscribe(
        self, client: mqtt.Client, userdata: Any, mid: int, reasons: Any, properties: Any
    ) -> None:
        done = self._subscribed.pop(mid, None)
        if done is None or done.done():
            return
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            done.set_exception(ConnectionLost(f"subscription refused: {', '.join(refused)}"))
        else:
            done.set_result(None)

    def _on_publish(
        self, client: mqtt.Client, userdata: Any, mid: int, reason: ReasonCode, properties: Any
    ) -> None:
        done = self._published.pop(mid, None)
        if reason.is_failure:
            _log.error("broker refused a message; check its ACL", reason=str(reason))
        if done is not None and not done.done():
            done.set_result(None)

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        properties = message.properties
        pairs = getattr(properties, "UserProperty", None) or () if properties else ()
        self._arrivals.append(
            Arrival(
                mid=message.mid if message.qos else None,
                topic=topic,
                message=bytes(message.payload),
                received_ms=round(time.time() * 1000),
                content_type=getattr(properties, "ContentType", None) if properties else None,
                attributes=dict(pairs),
            )
        )
        self._arrived_bytes += len(message.payload)
        self._arrived.set()

    def _on_socket_close(self, client: mqtt.Client, userdata: Any, socket: Any) -> None:
        self._detach()

    def _on_socket_register_write(self, client: mqtt.Client, userdata: Any, socket: Any) -> None:
        self._loop.add_writer(socket, self._client.loop_write)

    def _on_socket_unregister_write(self, client: mqtt.Client, userdata: Any, socket: Any) -> None:
        self._loop.remove_writer(socket)
