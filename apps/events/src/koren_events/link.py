"""The connection to the broker: MQTT and TLS, and what happens on it as a queue of happenings."""

import contextlib
import logging
import queue
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from koren_events.errors import ConfigurationError
from koren_events.event import CONTENT_TYPE
from koren_events.health import Health
from koren_events.topics import health_topic

WINDOW = 20
"""What Mosquitto takes in flight from one client."""

_log = logging.getLogger(__name__)

_KEEPALIVE_S = 15
_SESSION_EXPIRY_S = 3600  # a comfort: what it loses is sent again
_RECONNECT_S = (1, 5)
_MAX_PACKET_BYTES = 2**20  # a receipt has some 20 KiB
_AT_LEAST_ONCE = SubscribeOptions(qos=1)


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection stands; `number` counts them."""

    number: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """There is no connection, or no longer."""

    why: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The broker answered a message that `Link.send` gave this id."""

    mid: int
    refusal: str | None


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message came in."""

    topic: str
    message: bytes
    retained: bool


@dataclass(frozen=True, slots=True)
class Senseless:
    """The broker sent what is no MQTT."""

    what: str


Happening = Connected | Disconnected | Answered | Arrived | Senseless


class Link:
    """One client at one broker, which connects for as long as it is open, and again.

    Sends only what it is given on the present connection: what a connection's end interrupts is
    the caller's, who knows what must go before it. Raises ConfigurationError for files that can't
    be used.
    """

    def __init__(
        self,
        happenings: "queue.SimpleQueue[Any]",
        *,
        host: str,
        port: int,
        ca: Path,
        cert: Path,
        key: Path,
        client_id: str,
        will: Health | None,
    ) -> None:
        self.address = f"{host}:{port}"
        # paho calls back while it holds locks of its own: its callbacks put a happening into the
        # queue. `_gate` is the one lock they take, where paho holds none that `send` needs.
        self._happenings = happenings
        self._gate = threading.Lock()
        self._number = 0
        self._open = False
        client = _Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        client.tls_set_context(_tls(ca, cert, key))
        client.max_inflight_messages_set(WINDOW)
        client.reconnect_delay_set(*_RECONNECT_S)
        client.on_socket_open = _send_at_once
        client.on_pre_connect = self._on_pre_connect
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_crash = self._on_crash
        if will is not None:
            topic = health_topic(will.region, will.part)
            client.will_set(topic, will.to_json(), qos=1, retain=True)
        client.connect_later = lambda: client.connect_async(
            host,
            port,
            keepalive=_KEEPALIVE_S,
            clean_start=False,
            properties=_properties(
                PacketTypes.CONNECT,
                SessionExpiryInterval=_SESSION_EXPIRY_S,
                MaximumPacketSize=_MAX_PACKET_BYTES,
            ),
        )
        client.connect_later()
        self._client = client

    def open(self) -> None:
        """Begins to connect."""
        self._client.loop_start()

    def close(self) -> None:
        """Ends the connection, and its thread."""
        self._client.closing.set()
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, *filters: str) -> None:
        """Subscribes on the present connection; sent before whatever is sent later."""
        self._client.subscribe([(name, _AT_LEAST_ONCE) for name in filters])

    def send(self, topic: str, message: bytes, *, connection: int) -> int | None:
        """Sends an event on the connection of that number; None when it no longer stands.

        The id that it returns comes back in `Answered`, unless the connection ends before. Raises
        ValueError for what MQTT can't carry.
        """
        properties = _properties(PacketTypes.PUBLISH, ContentType=CONTENT_TYPE)
        with self._gate:
            if not self._open or self._number != connection:
                return None
            info = self._client.publish(topic, message, qos=1, properties=properties)
        # Anything else, a lost connection too, is kept by paho until `_on_connect` drops it.
        return None if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE else info.mid

    def say(self, health: Health, *, wait_s: float = 0.0) -> None:
        """Publishes a health, retained; waits until the broker has it if asked to."""
        topic = health_topic(health.region, health.part)
        info = self._client.publish(topic, health.to_json(), qos=1, retain=True)
        if wait_s:
            with contextlib.suppress(RuntimeError, ValueError):
                info.wait_for_publish(wait_s)

    # What follows runs in paho's thread.

    def _on_pre_connect(self, client: mqtt.Client, userdata: Any) -> None:
        # What is sent from here on would go ahead of the broker's answer, and of older events.
        with self._gate:
            self._open = False

    def _on_connect(self, client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._happenings.put(Disconnected(f"the broker answered '{reason}'"))
            return
        with self._gate:
            # paho would send at once what the last connection interrupted, though older events
            # may have to go first. At QoS 1 a broker keeps nothing of an unfinished exchange.
            client.drop_out_messages()
            self._open = True
            self._number += 1
            self._happenings.put(Connected(self._number))

    def _on_connect_fail(self, client: mqtt.Client, userdata: Any) -> None:
        # paho calls this where it caught the error, and does not pass it on.
        error = sys.exc_info()[1]
        self._happenings.put(Disconnected(str(error) or "no answer"))

    def _on_disconnect(self, client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._happenings.put(Disconnected(f"the connection ended ({reason})"))

    def _on_publish(self, client: mqtt.Client, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        self._happenings.put(Answered(mid, str(reason) if reason.is_failure else None))

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            self._happenings.put(Senseless("a message whose topic is not UTF-8"))
            return
        self._happenings.put(Arrived(topic, bytes(message.payload), retained=message.retain))

    def _on_crash(self, error: Exception) -> None:
        self._happenings.put(Senseless(f"a packet that can't be read: {error!r:.200}"))
        self._happenings.put(Disconnected("the broker sent what is no MQTT"))


class _Client(mqtt.Client):
    """paho's client, whose thread survives whatever a broker sends.

    Of itself it ends, without a word, at a packet that breaks MQTT in a way that its reader does
    not expect.
    """

    on_crash: Callable[[Exception], None]
    connect_later: Callable[[], None]

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.closing = threading.Event()

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:
        while True:
            try:
                return super().loop_forever(timeout, retry_first_connection)
            except Exception as error:
                self.on_crash(error)
            if self.closing.wait(_RECONNECT_S[0]):
                return MQTTErrorCode.MQTT_ERR_CONN_LOST
            self.connect_later()


def _properties(packet_type: int, **values: Any) -> Properties:
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def _tls(ca: Path, cert: Path, key: Path) -> ssl.SSLContext:
    for name, path in (("ca", ca), ("cert", cert), ("key", key)):
        if not path.is_file():
            raise ConfigurationError(f"{name}: {path} is not a file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"ca: {ca} holds no certificate: {error}") from None
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"cert {cert} and key {key} can't be read or don't belong together: {error}") from None
    return context


def _send_at_once(client: mqtt.Client, userdata: Any, opened: Any) -> None:
    # An event right after a receipt's acknowledgement would wait 40 ms for that one's delivery.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
