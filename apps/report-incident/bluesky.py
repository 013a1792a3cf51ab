"""Posts on a Bluesky account, over its server's XRPC.

Bluesky's app does not show edits. So an incident's first post stays as it is, and each later event
that says something new is a reply to it. Beside the posts, a record of the incident says up to
which event they tell of it. A post and that record are written together or not at all, and only if
the repository is as it was when the record was read: of several writers one goes first, and the
others look again. Record keys derive from incident and event.
"""

import binascii
import hashlib
import json
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from https import Server, to_json
from post_text import networks, wording

from koren_runtime import Reject, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from post_text.incident import Image, Incident

POSTS = "app.bsky.feed.post"
# The records of incidents, and the field of a post that names its incident: the schema of posts
# lets others stand.
INCIDENTS = "kr.koren.incident"
IMAGE_MAX_BYTES = 2_000_000

# Of writers to one repository at a time, each waits for all others at the most.
_SWAPS = 20
_TOKEN_MARGIN_S = 120
_BASE32 = "234567abcdefghijklmnopqrstuvwxyz"


class XrpcError(Exception):
    """The server refused; the message has the method, the status and what the server says."""

    def __init__(self, method: str, status: int, name: str, message: str) -> None:
        super().__init__(f"{method}: {status} {name}: {message}")
        self.name = name


class Account:
    """An account at `url`; `authority` is a PEM file, None for the system's."""

    def __init__(self, *, url: str, handle: str, password: str, authority: str | None) -> None:
        self._url = url.rstrip("/")
        self._handle = handle
        self._password = password
        self._authority = authority

    def report(self, incident: "Incident") -> "dict[str, Any]":
        """Makes the incident's first post, or a reply to it. Posts nothing when the event is
        reported already, is older than what is posted, says nothing new or comes after the
        incident's end, nor when somebody deleted the first post.

        Raises XrpcError or Unreachable, Reject when no try can post it, RetryAfter when the server
        says how long its rate limit lasts, ValueError for an address that can't be asked.
        """
        incident.check_image(IMAGE_MAX_BYTES)
        image = incident.image
        texts = networks.on_bluesky(incident)
        says = wording.gist(incident)
        key = first_key(incident)
        with Server(self._url, self._authority) as server:
            session = _Session(server, self._handle, self._password)
            blob = None
            for _ in range(_SWAPS):
                commit = session.commit()
                known = session.find(INCIDENTS, key)
                first = session.find(POSTS, key) if known else None
                if known and _is_told(known["value"], incident):
                    return self._result(session.did, key, first, known["value"]["text"])
                new = known is None or (first is not None and known["value"]["says"] != says)
                writes = []
                if new:
                    if image and blob is None:
                        blob = session.upload(image.jpeg)
                    embed = _embed(image, blob, wording.alt(incident)) if image and blob else None
                    post_key = reply_key(incident) if first else key
                    post = _post(incident, texts, embed, first)
                    writes.append(_write("create", POSTS, post_key, post))
                text = known["value"]["text"] if known and not new else texts.as_dict()
                told = _ours(incident) | {"$type": INCIDENTS, "says": says, "text": text}
                writes.append(_write("update" if known else "create", INCIDENTS, key, told))
                try:
                    written = session.apply(writes, commit)
                except XrpcError as error:
                    if error.name != "InvalidSwap":
                        raise
                else:
                    first = first or (written[0] if not known else None)
                    return self._result(session.did, key, first, text, created=not known)
        raise XrpcError("applyWrites", 400, "InvalidSwap", "others write all the time")

    def _result(
        self,
        did: str,
        key: str,
        first: "dict[str, Any] | None",
        text: dict[str, str],
        *,
        created: bool = False,
    ) -> "dict[str, Any]":
        query = urlencode({"repo": did, "collection": POSTS, "rkey": key})
        return {
            "uri": f"at://{did}/{POSTS}/{key}",
            "cid": first["cid"] if first else None,
            "text": text,
            "created": created,
            "url": f"{self._url}/xrpc/com.atproto.repo.getRecord?{query}",
        }


def first_key(incident: "Incident") -> str:
    """The key of the incident's first post, and of its record."""
    return _tid(incident.started_at, incident.region, incident.subject)


def reply_key(incident: "Incident") -> str:
    """The key of the reply that tells of the incident's event."""
    return _tid(incident.time, incident.region, incident.subject, str(incident.sequence))


def _tid(moment: datetime, *names: str) -> str:
    """A TID: the time to the millisecond, filled up to 63 bits with a hash of the names."""
    name = "\n".join(names).encode()
    filling = int.from_bytes(hashlib.sha256(name).digest()[:4], "big")
    microseconds = _milliseconds(moment) * 1000 + filling % 1000
    number = microseconds << 10 | filling >> 10 & 1023
    return "".join(_BASE32[number >> shift & 31] for shift in range(60, -1, -5))


def _is_told(told: "dict[str, Any]", incident: "Incident") -> bool:
    if (told.get("region"), told.get("subject")) != (incident.region, incident.subject):
        raise Reject(f"the record of incident {incident.subject!r} is of another: {told!r:.200}")
    return bool(told["kind"] == "cleared" or told["sequence"] >= incident.sequence)


def _ours(incident: "Incident") -> "dict[str, Any]":
    return {
        "region": incident.region,
        "subject": incident.subject,
        "sequence": incident.sequence,
        "kind": incident.kind,
    }


def _post(
    incident: "Incident",
    texts: wording.Texts,
    embed: "dict[str, Any] | None",
    first: "dict[str, Any] | None",
) -> "dict[str, Any]":
    text = texts.joined()
    record = {
        "$type": POSTS,
        "text": text,
        "langs": ["ko", "en"],
        # The same whenever the record is made.
        "createdAt": _rfc3339(incident.time if first else incident.started_at),
        "facets": [
            {
                "index": {"byteStart": start, "byteEnd": end},
                "features": [{"$type": "app.bsky.richtext.facet#tag", "tag": tag}],
            }
            for start, end, tag in wording.tags(text)
        ],
        INCIDENTS: _ours(incident),
    }
    if embed:
        record["embed"] = embed
    if first:
        reference = {"uri": first["uri"], "cid": first["cid"]}
        record["reply"] = {"root": reference, "parent": reference}
    return record


def _embed(image: "Image", blob: "dict[str, Any]", alt: str) -> "dict[str, Any]":
    size = {"width": image.width, "height": image.height}
    return {
        "$type": "app.bsky.embed.images",
        "images": [{"image": blob, "alt": alt, "aspectRatio": size}],
    }


def _write(action: str, collection: str, key: str, record: "dict[str, Any]") -> "dict[str, Any]":
    return {
        "$type": f"com.atproto.repo.applyWrites#{action}",
        "collection": collection,
        "rkey": key,
        "value": record,
    }


def _milliseconds(moment: datetime) -> int:
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Session:
    """Calls in the account's name; `did` is its identity. The access token is kept in the region's
    state, since a server allows few logins a day."""

    def __init__(self, server: Server, handle: str, password: str) -> None:
        self._server = server
        self._login = {"identifier": handle, "password": password}
        name = f"{server.url}\n{handle}".encode()
        self._key = "session-" + hashlib.sha256(name).hexdigest()[:16]
        self._token = self._kept_token()
        self._is_kept = bool(self._token)
        if not self._token:
            self._log_in()

    @property
    def did(self) -> str:
        return str(_claims(self._token)["sub"])

    def commit(self) -> str:
        """The repository's newest commit."""
        answer = self._get("com.atproto.sync.getLatestCommit", {"did": self.did})
        return str(answer["cid"])

    def find(self, collection: str, key: str) -> "dict[str, Any] | None":
        """The record {uri, cid, value}; None when there is none."""
        query = {"repo": self.did, "collection": collection, "rkey": key}
        try:
            return self._get("com.atproto.repo.getRecord", query)
        except XrpcError as error:
            if error.name == "RecordNotFound":
                return None
            raise

    def upload(self, jpeg: bytes) -> "dict[str, Any]":
        """What a record says of an image."""
        answer = self._post("com.atproto.repo.uploadBlob", jpeg, "image/jpeg")
        blob: dict[str, Any] = answer["blob"]
        return blob

    def apply(self, writes: "list[dict[str, Any]]", commit: str) -> "list[dict[str, Any]]":
        """Writes all or nothing, if `commit` is the newest still: {uri, cid} of each."""
        # Servers do not know the schema of incidents; without `validate` they check what they know.
        body = to_json({"repo": self.did, "writes": writes, "swapCommit": commit})
        answer = self._post("com.atproto.repo.applyWrites", body, "application/json")
        results: list[dict[str, Any]] = answer["results"]
        return results

    def _get(self, method: str, query: dict[str, str]) -> "dict[str, Any]":
        return _ask(self._server, "GET", method, f"?{urlencode(query)}")

    def _post(self, method: str, body: bytes, media_type: str) -> "dict[str, Any]":
        try:
            return self._post_once(method, body, media_type)
        except XrpcError as error:
            if not self._is_kept or error.name not in ("ExpiredToken", "InvalidToken"):
                raise
        self._log_in()
        return self._post_once(method, body, media_type)

    def _post_once(self, method: str, body: bytes, media_type: str) -> "dict[str, Any]":
        headers = {"Content-Type": media_type, "Authorization": f"Bearer {self._token}"}
        return _ask(self._server, "POST", method, "", body, headers)

    def _kept_token(self) -> str:
        try:
            entry = state.get(self._key)
        except state.StateError as error:
            print(f"logging in anew: {error}")
            return ""
        return entry.value.decode() if entry else ""

    def _log_in(self) -> None:
        answer = _ask(
            self._server,
            "POST",
            "com.atproto.server.createSession",
            "",
            to_json(self._login),
            {"Content-Type": "application/json"},
        )
        self._token = token = answer["accessJwt"]
        self._is_kept = False
        left_s = _claims(token)["exp"] - int(time.time()) - _TOKEN_MARGIN_S
        if left_s > 0:
            try:
                state.put(self._key, token.encode(), expires_s=left_s)
            except state.StateError as error:
                print(f"the session is not kept: {error}")


def _claims(token: str) -> "dict[str, Any]":
    part = token.split(".")[1].replace("-", "+").replace("_", "/")
    claims: dict[str, Any] = json.loads(binascii.a2b_base64(part + "=" * (-len(part) % 4)))
    return claims


def _ask(
    server: Server,
    verb: str,
    method: str,
    query: str,
    body: bytes | None = None,
    headers: "dict[str, str] | None" = None,
) -> "dict[str, Any]":
    answer = server.ask(verb, f"/xrpc/{method}{query}", body, headers or {})
    content: dict[str, Any] = answer.content
    if answer.status != 200:
        refused = XrpcError(
            method.rpartition(".")[2],
            answer.status,
            str(content.get("error")),
            str(content.get("message")),
        )
        raise answer.later("ratelimit-reset", str(refused)) or refused
    return content
