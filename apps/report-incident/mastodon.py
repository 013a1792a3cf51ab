"""Posts on a Mastodon account, over its server's REST API.

Mastodon shows edits, with their history, and tells those who boosted a post. So an incident is one
post that is edited, to its end: a boosted post is seen for days, far from the account whose replies
would correct it.

The region's state keeps which post that is and what it has to say; each try brings the post to
that. A first post whose answer was lost is found again by the server's idempotency key for an hour,
and among the account's posts after that.
"""

import hashlib
import json
import time

from https import Answer, Server, to_json
from post_text import networks, wording

from koren_runtime import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from post_text.incident import Image, Incident

IMAGE_MAX_BYTES = 16 * 1024 * 1024

_KEPT_S = 30 * 86400
# Servers forget an idempotency key after an hour.
_KEY_KNOWN_S = 3000
_ROUNDS = 20
_POLLS = 20


class MastodonError(Exception):
    """The server refused; the message has the request, the status and what the server says."""

    def __init__(self, request: str, answer: Answer) -> None:
        content = answer.content
        said = content.get("error", content) if isinstance(content, dict) else content
        super().__init__(f"{request}: {answer.status} {said!s:.200}")
        self.status = answer.status


class Account:
    """The account that `token` is of, at `url`; `authority` is a PEM file, None for the system's.

    The token's scopes: read:accounts, read:statuses, write:media, write:statuses.
    """

    def __init__(self, *, url: str, token: str, authority: str | None) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._authority = authority

    def report(self, incident: "Incident") -> "dict[str, Any]":
        """Makes the incident's post, or edits it. Leaves it when it tells of this event or a newer
        one, when it tells of the incident's end, and when somebody deleted it.

        Raises MastodonError, Unreachable or StateError, Reject when no try can post it, RetryAfter
        when the server says how long its rate limit lasts, ValueError for an address that can't be
        asked.
        """
        incident.check_image(IMAGE_MAX_BYTES)
        with Server(self._url, self._authority) as server:
            return _Post(_Api(server, self._token), incident).report()


class _Post:
    """The post of one incident."""

    def __init__(self, api: "_Api", incident: "Incident") -> None:
        self._api = api
        self._incident = incident
        name = f"{incident.region}\n{incident.subject}".encode()
        self._name = hashlib.sha256(name).hexdigest()[:32]
        self._media: list[str] = []

    def report(self) -> "dict[str, Any]":
        created = False
        for _ in range(_ROUNDS):
            try:
                wanted, version = self._wanted()
                if wanted["id"] is None:
                    wanted |= self._make(wanted)
                    version = self._keep(wanted, version)
                    created = True
                self._edit(wanted)
            except state.Conflict:
                continue
            entry = state.get(self._key)
            if entry and entry.version == version:
                return {
                    "uri": wanted["uri"],
                    "cid": None,
                    "text": wanted["text"],
                    "created": created,
                    "url": wanted["url"],
                }
        raise state.Conflict(f"state {self._key!r} changes all the time")

    @property
    def _key(self) -> str:
        return f"post-{self._name}"

    def _wanted(self) -> "tuple[dict[str, Any], str]":
        """What the post has to say, with this event, and the version under which that is kept."""
        incident = self._incident
        entry = state.get(self._key)
        known: dict[str, Any] = json.loads(entry.value) if entry else self._nothing()
        if entry and (known["kind"] == "cleared" or known["sequence"] >= incident.sequence):
            return known, entry.version
        if incident.image and not self._media:
            self._media = [self._api.upload(incident.image, wording.alt(incident))]
        wanted = known | {
            "sequence": incident.sequence,
            "kind": incident.kind,
            "text": networks.on_mastodon(incident).as_dict(),
            "media": self._media or known["media"],
        }
        if known["id"] is None:
            wanted["tried"] = [*known["tried"], _status(wanted)["status"]]
        return wanted, self._keep(wanted, entry.version if entry else state.ABSENT)

    @staticmethod
    def _nothing() -> "dict[str, Any]":
        return {"id": None, "since": int(time.time()), "media": [], "tried": []}

    def _keep(self, wanted: "dict[str, Any]", version: str) -> str:
        value = json.dumps(wanted, ensure_ascii=False).encode()
        return state.put(self._key, value, version=version, expires_s=_KEPT_S)

    def _make(self, wanted: "dict[str, Any]") -> "dict[str, Any]":
        made = None
        if time.time() - wanted["since"] > _KEY_KNOWN_S:
            made = self._api.find(wanted["tried"])
        if made is None:
            made = self._api.call(
                "POST", "/api/v1/statuses", _status(wanted), {"Idempotency-Key": self._name}
            )
        return {"id": made["id"], "uri": made["uri"], "url": made["url"], "tried": []}

    def _edit(self, wanted: "dict[str, Any]") -> None:
        path = f"/api/v1/statuses/{wanted['id']}"
        try:
            if self._api.call("GET", f"{path}/source")["text"] != _status(wanted)["status"]:
                self._api.call("PUT", path, _status(wanted))
        except MastodonError as error:
            if error.status != 404:
                raise
            print(f"{wanted['url']} was deleted; nothing is posted in its place")


def _status(wanted: "dict[str, Any]") -> "dict[str, Any]":
    text = wording.Texts(**wanted["text"]).joined()
    return {"status": text, "media_ids": wanted["media"], "language": "ko"}


class _Api:
    """Calls in the account's name."""

    def __init__(self, server: Server, token: str) -> None:
        self._server = server
        self._headers = {"Authorization": f"Bearer {token}"}

    def call(
        self, verb: str, path: str, body: object = None, headers: "dict[str, str] | None" = None
    ) -> "Any":
        """What the server answers, of JSON. Raises MastodonError, Unreachable or RetryAfter."""
        content = None if body is None else to_json(body)
        headers = {"Content-Type": "application/json"} | (headers or {})
        return self._ask(verb, path, content, headers).content

    def upload(self, image: "Image", alt: str) -> str:
        """The id of the image, once it can be posted."""
        boundary = hashlib.sha256(image.jpeg).hexdigest()
        part = f"\r\n--{boundary}\r\nContent-Disposition: form-data; name="
        body = (
            f'{part}"description"\r\n\r\n{alt}'
            f'{part}"file"; filename="accident.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        ).encode() + image.jpeg + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        answer = self._ask("POST", "/api/v2/media", body, headers)
        media = str(answer.content["id"])
        for _ in range(_POLLS):
            if answer.status == 200:
                return media
            # 202 and 206: the server is at it still.
            time.sleep(1)
            answer = self._ask("GET", f"/api/v1/media/{media}")
        raise MastodonError("the image is not ready", answer)

    def find(self, texts: list[str]) -> "dict[str, Any] | None":
        """The account's newest post with one of the texts."""
        account = self.call("GET", "/api/v1/accounts/verify_credentials")["id"]
        path = f"/api/v1/accounts/{account}/statuses?limit=40&exclude_reblogs=true"
        wanted = {_bare(text) for text in texts}
        for status in self.call("GET", path):
            if _bare(_plain(status["content"])) in wanted:
                found: dict[str, Any] = status
                return found
        return None

    def _ask(
        self,
        verb: str,
        path: str,
        body: bytes | None = None,
        headers: "dict[str, str] | None" = None,
    ) -> Answer:
        answer = self._server.ask(verb, path, body, self._headers | (headers or {}))
        if answer.status not in (200, 202, 206):
            refused = MastodonError(f"{verb} {path}", answer)
            raise answer.later("x-ratelimit-reset", str(refused)) or refused
        return answer


def _plain(content: str) -> str:
    import html
    import re

    return html.unescape(re.sub("<[^>]*>", "", content))


def _bare(text: str) -> str:
    return "".join(text.split())
