"""Posts on a Bluesky account, over its server's XRPC.

The record key derives from the incident, so that an incident has one record however often it is
reported, and the record says up to which event of the incident it is. It is written by compare and
swap: of several writers the one with the newest event wins.
"""

import binascii
import hashlib
import http.client
import json
import ssl
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode, urlsplit

import wording

from koren_runtime import Reject, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from incident import Image, Incident

COLLECTION = "app.bsky.feed.post"
TEXT_MAX_GRAPHEMES = 300
IMAGE_MAX_BYTES = 2_000_000
# A field of our own in the record; the schema of posts lets others stand.
OUR_FIELD = "kr.koren.incident"

_TIMEOUT_S = 10.0
_SWAPS = 5
_TOKEN_MARGIN_S = 120
_BASE32 = "234567abcdefghijklmnopqrstuvwxyz"


class XrpcError(Exception):
    """The server refused; the message has the method, the status and what the server says."""

    def __init__(self, method: str, status: int, name: str, message: str) -> None:
        super().__init__(f"{method}: {status} {name}: {message}")
        self.name = name


class Unreachable(Exception):
    """No answer came from the server; the message says where it was looked for."""


class Account:
    """An account at `url`; `authority` is a PEM file, None for the system's."""

    def __init__(self, *, url: str, handle: str, password: str, authority: str | None) -> None:
        self._url = url.rstrip("/")
        self._handle = handle
        self._password = password
        self._authority = authority

    def report(self, incident: "Incident") -> "dict[str, Any]":
        """Makes the incident's post, or edits it; leaves it when it tells of a newer event.

        Raises XrpcError or Unreachable, Reject when no try can post it, RetryAfter when the server
        says how long its rate limit lasts, ValueError for an address that can't be asked.
        """
        key = record_key(incident)
        image = incident.image
        if image and len(image.jpeg) > IMAGE_MAX_BYTES:
            raise Reject(
                f"the event's image has {len(image.jpeg)} bytes; {IMAGE_MAX_BYTES} is the most"
                " that a post may have"
            )
        texts = wording.post(incident, TEXT_MAX_GRAPHEMES)
        with _Server(self._url, self._authority) as server:
            session = _Session(server, self._handle, self._password)
            blob = None
            for _ in range(_SWAPS):
                old = self._post(server, key, incident)
                old_cid = old["cid"] if old else None
                old_embed = old["value"].get("embed") if old else None
                if old and old["value"][OUR_FIELD]["sequence"] >= incident.sequence:
                    posted = wording.Texts.split(old["value"]["text"])
                    return self._result(old, posted, key, created=False)
                if image and blob is None:
                    blob = session.upload(image.jpeg)
                embed = _embed(image, blob, wording.alt(incident)) if image and blob else None
                record = _record(incident, texts, embed or old_embed)
                try:
                    new = session.put(key, record, old_cid)
                except XrpcError as error:
                    if error.name != "InvalidSwap":
                        raise
                else:
                    # Without a commit the very same record was there already.
                    return self._result(new, texts, key, created=not old and "commit" in new)
        raise XrpcError("putRecord", 409, "InvalidSwap", "others write this post all the time")

    def _post(self, server: "_Server", key: str, incident: "Incident") -> "dict[str, Any] | None":
        query = {"repo": self._handle, "collection": COLLECTION, "rkey": key}
        try:
            old = server.get("com.atproto.repo.getRecord", query)
        except XrpcError as error:
            if error.name == "RecordNotFound":
                return None
            raise
        ours = old["value"].get(OUR_FIELD, {})
        if (ours.get("region"), ours.get("subject")) != (incident.region, incident.subject):
            raise Reject(f"{old['uri']} is not of incident {incident.subject!r}: {ours!r}")
        return old

    def _result(
        self, record: "dict[str, Any]", texts: wording.Texts, key: str, *, created: bool
    ) -> "dict[str, Any]":
        did = record["uri"].split("/")[2]
        query = urlencode({"repo": did, "collection": COLLECTION, "rkey": key})
        return {
            "uri": record["uri"],
            "cid": record["cid"],
            "text": texts.as_dict(),
            "created": created,
            "url": f"{self._url}/xrpc/com.atproto.repo.getRecord?{query}",
        }


def record_key(incident: "Incident") -> str:
    """The key of the incident's record, a TID: the time of the accident to the millisecond, filled
    up to 63 bits with a hash of region and subject."""
    name = f"{incident.region}\n{incident.subject}".encode()
    filling = int.from_bytes(hashlib.sha256(name).digest()[:4], "big")
    microseconds = _milliseconds(incident.started_at) * 1000 + filling % 1000
    number = microseconds << 10 | filling >> 10 & 1023
    return "".join(_BASE32[number >> shift & 31] for shift in range(60, -1, -5))


def _record(
    incident: "Incident", texts: wording.Texts, embed: "dict[str, Any] | None"
) -> "dict[str, Any]":
    text = texts.joined()
    record = {
        "$type": COLLECTION,
        "text": text,
        "langs": ["ko", "en"],
        # The accident's time: the same whenever the record is made.
        "createdAt": _rfc3339(incident.started_at),
        "facets": [
            {
                "index": {"byteStart": start, "byteEnd": end},
                "features": [{"$type": "app.bsky.richtext.facet#tag", "tag": tag}],
            }
            for start, end, tag in wording.tags(text)
        ],
        OUR_FIELD: {
            "region": incident.region,
            "subject": incident.subject,
            "sequence": incident.sequence,
            "kind": incident.kind,
        },
    }
    if embed:
        record["embed"] = embed
    return record


def _embed(image: "Image", blob: "dict[str, Any]", alt: str) -> "dict[str, Any]":
    size = {"width": image.width, "height": image.height}
    return {
        "$type": "app.bsky.embed.images",
        "images": [{"image": blob, "alt": alt, "aspectRatio": size}],
    }


def _milliseconds(moment: datetime) -> int:
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Session:
    """Calls in the account's name. The access token is kept in the region's state, since a server
    allows few logins a day."""

    def __init__(self, server: "_Server", handle: str, password: str) -> None:
        self._server = server
        self._login = {"identifier": handle, "password": password}
        self._handle = handle
        name = f"{server.url}\n{handle}".encode()
        self._key = "session-" + hashlib.sha256(name).hexdigest()[:16]
        self._token = ""

    def upload(self, jpeg: bytes) -> "dict[str, Any]":
        answer = self._call("com.atproto.repo.uploadBlob", jpeg, "image/jpeg")
        blob: dict[str, Any] = answer["blob"]
        return blob

    def put(self, key: str, record: "dict[str, Any]", old_cid: str | None) -> "dict[str, Any]":
        body = {
            "repo": self._handle,
            "collection": COLLECTION,
            "rkey": key,
            "record": record,
            "validate": True,
            "swapRecord": old_cid,  # None: there must be no record yet
        }
        return self._call("com.atproto.repo.putRecord", _json(body), "application/json")

    def _call(self, method: str, body: bytes, media_type: str) -> "dict[str, Any]":
        known = self._token or self._kept_token()
        self._token = known or self._log_in()
        try:
            return self._server.post(method, body, media_type, self._token)
        except XrpcError as error:
            if not known or error.name not in ("ExpiredToken", "InvalidToken"):
                raise
        self._token = self._log_in()
        return self._server.post(method, body, media_type, self._token)

    def _kept_token(self) -> str:
        try:
            entry = state.get(self._key)
        except state.StateError as error:
            print(f"logging in anew: {error}")
            return ""
        return entry.value.decode() if entry else ""

    def _log_in(self) -> str:
        answer = self._server.post(
            "com.atproto.server.createSession", _json(self._login), "application/json"
        )
        token: str = answer["accessJwt"]
        left_s = _expiry(token) - int(time.time()) - _TOKEN_MARGIN_S
        if left_s > 0:
            try:
                state.put(self._key, token.encode(), expires_s=left_s)
            except state.StateError as error:
                print(f"the session is not kept: {error}")
        return token


def _expiry(token: str) -> int:
    claims = token.split(".")[1].replace("-", "+").replace("_", "/")
    expiry: int = json.loads(binascii.a2b_base64(claims + "=" * (-len(claims) % 4)))["exp"]
    return expiry


class _Server:
    """One connection to the server, for the calls of one report."""

    def __init__(self, url: str, authority: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.path:
            raise ValueError(
                f"the secret's url is {url!r}; it must be like https://sns.example.org"
            )
        self.url = url
        self._connection = http.client.HTTPSConnection(
            parts.hostname,
            parts.port,
            timeout=_TIMEOUT_S,
            context=ssl.create_default_context(cafile=authority),
        )

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, method: str, query: dict[str, str]) -> "dict[str, Any]":
        return self._ask("GET", method, f"?{urlencode(query)}", None, {})

    def post(self, method: str, body: bytes, media_type: str, token: str = "") -> "dict[str, Any]":
        headers = {"Content-Type": media_type}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return self._ask("POST", method, "", body, headers)

    def _ask(
        self, verb: str, method: str, query: str, body: bytes | None, headers: dict[str, str]
    ) -> "dict[str, Any]":
        try:
            self._connection.request(verb, f"/xrpc/{quote(method)}{query}", body, headers)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"{method}: no answer from {self.url}: {type(error).__name__}: {error}"
            ) from error
        try:
            answer = json.loads(content)
        except ValueError:
            answer = {"message": content[:200].decode(errors="replace")}
        if response.status != 200:
            refused = XrpcError(
                method.rpartition(".")[2],
                response.status,
                str(answer.get("error")),
                str(answer.get("message")),
            )
            raise _later(response, refused) or refused
        found: dict[str, Any] = answer
        return found


def _later(response: http.client.HTTPResponse, refused: XrpcError) -> Exception | None:
    if response.status != 429:
        return None
    from rate_limit import wait_s

    from koren_runtime import RetryAfter

    reset = response.getheader("ratelimit-reset")
    seconds = wait_s([reset], response.getheader("retry-after"))
    return None if seconds is None else RetryAfter(seconds, str(refused))


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
