"""MQTT 5 on the wire, as much of it as a gateway speaks: bytes to packets and back."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

CONNACK, PUBLISH, PUBACK, SUBACK, UNSUBACK, PINGRESP, DISCONNECT = 2, 3, 4, 9, 11, 13, 14

PING = b"\xc0\x00"
FAREWELL = b"\xe0\x00"

REFUSED = 0x80
"""Reason codes from here on are failures."""

_SESSION_EXPIRY, _RECEIVE_MAXIMUM, _CONTENT_TYPE, _USER_PROPERTY = 0x11, 0x21, 0x03, 0x26
# At QoS 1. A message that the broker retains is old news with every connection: it is not asked for.
_NEW_ONES = 0x21
_MOST = 268_435_455
# How long each property's value is in bytes; 0: its length is in its own first two.
_NUMBERS = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
}
_TEXTS = frozenset((0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F))
_REASONS = {
    0x80: "unspecified error",
    0x81: "malformed packet",
    0x82: "protocol error",
    0x85: "client identifier not valid",
    0x86: "bad user name or password",
    0x87: "not authorized",
    0x88: "server unavailable",
    0x89: "server busy",
    0x8B: "server shutting down",
    0x8D: "keep alive timeout",
    0x8E: "session taken over",
    0x8F: "topic filter invalid",
    0x90: "topic name invalid",
    0x93: "receive maximum exceeded",
    0x95: "packet too large",
    0x97: "quota exceeded",
    0x99: "payload format invalid",
}


class Malformed(Exception):
    """The bytes are no MQTT."""


class Packets:
    """Cuts what arrives into packets. Only an unfinished one, and what was not asked for, is kept."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._wanted = 2  # before there are so many, there is no further packet

    def feed(self, some: bytes | memoryview) -> None:
        """Takes in the next bytes."""
        self._bytes += some

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """First byte and body of each packet that is whole, and none twice. Raises Malformed."""
        start, end = 0, len(self._bytes)
        try:
            while end - start >= self._wanted:
                length, body = _number(self._bytes, start + 1)
                if body > end or body + length > end:
                    self._wanted = max(body + length, end + 1) - start
                    return
                self._wanted = 2
                packet = self._bytes[start], bytes(self._bytes[body : body + length])
                start = body + length
                yield packet
        finally:
            # Also when who iterates has enough for now.
            del self._bytes[:start]


@dataclass(slots=True)
class Message:
    """A PUBLISH packet."""

    topic: str
    """Empty when it is no UTF-8."""
    id: int | None
    """None at QoS 0."""
    body: bytes
    content_type: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    """User properties; of a name that comes twice, the last."""
    repeat: bool = False
    """Whether the broker sends it again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A packet that answers one of ours."""

    id: int
    """Of what it answers; 0 for CONNACK."""
    reasons: bytes
    receive_maximum: int = 65535
    """Of a CONNACK: how many messages may be on their way to the broker unacknowledged."""

    @property
    def refused(self) -> str:
        """What the broker refused, in words; empty when nothing."""
        return ", ".join(reason(code) for code in self.reasons if code >= REFUSED)


def reason(code: int) -> str:
    """A reason code in words."""
    return _REASONS.get(code) or f"reason 0x{code:02X}"


def connect(
    client_id: str,
    *,
    keepalive_s: int,
    session_expiry_s: int,
    receive_maximum: int,
    will: tuple[str, bytes] | None,
) -> bytes:
    """CONNECT that goes on with the client's session; a will's topic and message are retained, at QoS 1."""
    properties = bytes((_SESSION_EXPIRY,)) + session_expiry_s.to_bytes(4, "big")
    properties += bytes((_RECEIVE_MAXIMUM,)) + receive_maximum.to_bytes(2, "big")
    its = (b"\x00", _text(will[0].encode()), _text(will[1])) if will else ()
    return _packet(
        0x10,
        b"\x00\x04MQTT\x05" + (b"\x2c" if will else b"\x00"),
        keepalive_s.to_bytes(2, "big"),
        _sized(properties),
        _text(client_id.encode()),
        *its,
    )


def subscribe(id: int, topic: str) -> bytes:
    """SUBSCRIBE at QoS 1 to what is published from now on."""
    return _packet(0x82, id.to_bytes(2, "big"), b"\x00", _text(topic.encode()), bytes((_NEW_ONES,)))


def unsubscribe(id: int, topic: str) -> bytes:
    """UNSUBSCRIBE."""
    return _packet(0xA2, id.to_bytes(2, "big"), b"\x00", _text(topic.encode()))


def publish(id: int, topic: str, message: bytes, *, retain: bool) -> bytes:
    """PUBLISH at QoS 1."""
    name = topic.encode()
    return b"".join(
        (
            b"\x33" if retain else b"\x32",
            _length(len(name) + len(message) + 5),
            len(name).to_bytes(2, "big"),
            name,
            id.to_bytes(2, "big"),
            b"\x00",
            message,
        )
    )


def acknowledge(id: int) -> bytes:
    """PUBACK."""
    return b"\x40\x02" + id.to_bytes(2, "big")


def message_of(first: int, body: bytes) -> Message:
    """The message in a PUBLISH packet. Raises Malformed."""
    try:
        at = 2 + int.from_bytes(body[:2], "big")
        id = None
        if first & 0x06:
            id = int.from_bytes(body[at : at + 2], "big")
            at += 2
        topic = _utf8(body[2 : at - 2] if id is not None else body[2:at])
        if not body[at]:
            return Message(topic, id, body[at + 1 :], repeat=bool(first & 0x08))
        content_type, pairs = None, {}
        properties, start = _properties(body, at)
        for name, value in properties:
            if name == _USER_PROPERTY:
                size = int.from_bytes(value[:2], "big")
                pairs[_utf8(value[2 : 2 + size])] = _utf8(value[4 + size :])
            elif name == _CONTENT_TYPE:
                content_type = _utf8(value)
    except IndexError:
        raise Malformed("a PUBLISH packet ends too early") from None
    return Message(topic, id, body[start:], content_type, pairs, bool(first & 0x08))


def answer_of(kind: int, body: bytes) -> Answer:
    """What a CONNACK, PUBACK, SUBACK or UNSUBACK says. Raises Malformed."""
    try:
        if kind == CONNACK:
            maximum = 65535
            for name, value in _properties(body, 2)[0]:
                if name == _RECEIVE_MAXIMUM:
                    maximum = int.from_bytes(value, "big")
            return Answer(0, body[1:2], maximum)
        id = body[0] << 8 | body[1]
        if kind == PUBACK:
            return Answer(id, body[2:3])
        return Answer(id, body[_properties(body, 2)[1] :])
    except IndexError:
        raise Malformed("an answer ends too early") from None


def _properties(body: bytes, at: int) -> tuple[list[tuple[int, bytes]], int]:
    """Identifier and value of each property, and where they end."""
    length, at = _number(body, at)
    end = at + length
    if end > len(body):
        raise IndexError
    found = []
    while at < end:
        name, at = body[at], at + 1
        if name in _NUMBERS:
            after = at + _NUMBERS[name]
        elif name in _TEXTS:
            at, after = at + 2, at + 2 + int.from_bytes(body[at : at + 2], "big")
        elif name == _USER_PROPERTY:
            value = at + 2 + int.from_bytes(body[at : at + 2], "big")
            after = value + 2 + int.from_bytes(body[value : value + 2], "big")
        elif name == 0x0B:
            after = _number(body, at)[1]
        else:
            raise Malformed(f"there is no property 0x{name:02X}")
        if after > end:
            raise IndexError
        found.append((name, body[at:after]))
        at = after
    return found, end


def _number(some: bytes | bytearray, at: int) -> tuple[int, int]:
    """A number of variable length, and where it ends: beyond the last byte when that is not there.
    Raises Malformed."""
    value = shift = 0
    for place in range(at, at + 4):
        if place >= len(some):
            return 0, len(some) + 1
        byte = some[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise Malformed("a length has more than four bytes")


def _utf8(some: bytes) -> str:
    try:
        return some.decode()
    except UnicodeDecodeError:
        return ""


def _packet(first: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes((first,)) + _sized(body)


def _sized(body: bytes) -> bytes:
    return _length(len(body)) + body


def _length(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if value > _MOST:
        raise ValueError(f"{value} bytes are more than a packet of MQTT holds")
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def _text(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value
