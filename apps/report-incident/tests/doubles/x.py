"""X's API as far as its documents say what a post with a photo needs.

Signatures (OAuth 1.0a) are verified for real, over the public address that was signed.
"""

import itertools
import json
import threading
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler
from typing import Any

import twitter
from oauthlib.oauth1 import (  # type: ignore[import-untyped]
    RequestValidator,
    ResourceEndpoint,
)
from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter

from doubles.serving import Serving, answer_json, body_of

KEYS = {
    "consumer_key": "consumer",
    "consumer_secret": "consumer secret",
    "access_token": "42-token",
    "access_token_secret": "token secret",
}


class _Signatures(RequestValidator):  # type: ignore[misc]
    dummy_client = "nobody"
    dummy_access_token = "nothing"

    def __init__(self) -> None:
        super().__init__()
        self._nonces: set[str] = set()

    def check_client_key(self, client_key: str) -> bool:
        return True

    check_access_token = check_nonce = check_client_key

    def validate_client_key(self, client_key: str, request: Any) -> bool:
        return client_key == KEYS["consumer_key"]

    def validate_access_token(self, client_key: str, token: str, request: Any) -> bool:
        return token == KEYS["access_token"]

    def validate_timestamp_and_nonce(
        self, client_key: str, timestamp: str, nonce: str, *_: Any, **__: Any
    ) -> bool:
        known = nonce in self._nonces
        self._nonces.add(nonce)
        return not known

    def validate_realms(self, *_: Any, **__: Any) -> bool:
        return True

    def get_client_secret(self, client_key: str, request: Any) -> str:
        return KEYS["consumer_secret"]

    def get_access_token_secret(self, client_key: str, token: str, request: Any) -> str:
        return KEYS["access_token_secret"]


class X(Serving):
    """`posts` and `media` have what was made; `refuse` statuses to answer with, beside `headers`,
    before it works; with `silent` the next post is made and its answer is lost."""

    def __init__(self) -> None:
        self.posts: dict[str, dict[str, Any]] = {}
        self.media: dict[str, dict[str, Any]] = {}
        self.refuse: list[int] = []
        self.headers: dict[str, str] = {}
        self.silent = False
        self._ids = itertools.count(1_900_000_000_000_000_001)
        self._lock = threading.Lock()
        self._gate = ResourceEndpoint(_Signatures())
        super().__init__()

    def account(self, **keys: str) -> twitter.Account:
        """The function's account, whose requests end here and nowhere else."""
        account = twitter.Account(**(KEYS | keys))
        account.client.session.mount("https://", _Detour(self.port))
        return account

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        body = body_of(request)
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        signed, _ = self._gate.validate_protected_resource_request(
            f"https://{headers['X-Signed-Host']}{request.path}",
            request.command,
            # Only a form is part of what is signed.
            None,
            {name: headers[name] for name in ("Authorization",) if name in headers},
        )
        path = request.path.partition("?")[0]
        extra: dict[str, str] = {}
        with self._lock:
            if not signed or headers["X-Signed-Host"] != "api.twitter.com":
                status, answer = _problem(401, "Unauthorized")
            elif self.refuse:
                status, answer = _problem(self.refuse.pop(0), "as the test wants it")
                extra = self.headers
            elif path == "/2/media/upload":
                status, answer = self._upload(headers["Content-Type"], body)
            elif path == "/2/media/metadata":
                status, answer = self._describe(json.loads(body))
            elif path == "/2/tweets":
                status, answer = self._post(json.loads(body))
                if status == 201 and self.silent:
                    self.silent = False
                    request.close_connection = True
                    return
            elif path == "/2/users/42/tweets":
                shown = [
                    {"id": i, "text": p["shown"], "edit_history_tweet_ids": [i]}
                    for i, p in self.posts.items()
                ]
                status, answer = 200, {"data": shown[::-1], "meta": {}}
            else:
                status, answer = _problem(404, path)
        answer_json(request, status, answer, extra)

    def _upload(self, content_type: str, body: bytes) -> tuple[int, dict[str, Any]]:
        header = f"Content-Type: {content_type}\r\n\r\n".encode()
        form = BytesParser(EmailMessage, policy=HTTP).parsebytes(header + body)
        parts = {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
            for part in form.iter_parts()
        }
        if parts.get("media_category") != b"tweet_image" or not parts.get("media"):
            return _problem(400, f"the form has {sorted(map(str, parts))}")
        media_id = str(next(self._ids))
        self.media[media_id] = {"jpeg": parts["media"], "alt": None}
        return 200, {"data": {"id": media_id, "media_key": f"3_{media_id}"}}

    def _describe(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        alt = asked["metadata"]["alt_text"]["text"]
        if asked["id"] not in self.media or len(alt) > 1000:
            return _problem(400, "no such media, or its description is too long")
        self.media[asked["id"]]["alt"] = alt
        return 200, {"data": {"id": asked["id"]}}

    def _post(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        text = asked["text"]
        media = asked.get("media", {}).get("media_ids", [])
        reply_to = asked.get("reply", {}).get("in_reply_to_tweet_id")
        # Simpler than the true rule, and stricter: what is not ASCII counts twice.
        if sum(1 if letter.isascii() else 2 for letter in text.replace("·", ".")) > 280:
            return _problem(403, "You are not permitted to perform this action.")
        if any(post["text"] == text for post in self.posts.values()):
            return _problem(403, "You are not allowed to create a Tweet with duplicate content.")
        if not all(m in self.media for m in media) or reply_to not in (None, *self.posts):
            return _problem(400, "One or more parameters to your request was invalid.")
        post_id = str(next(self._ids))
        shown = text + " https://t.co/abcdefghij" if media else text
        self.posts[post_id] = {"text": text, "shown": shown, "media": media, "reply_to": reply_to}
        return 201, {"data": {"id": post_id, "text": shown}}


def _problem(status: int, detail: str) -> tuple[int, dict[str, Any]]:
    return status, {"title": "Problem", "detail": detail, "type": "about:blank", "status": status}


class _Detour(HTTPAdapter):
    def __init__(self, port: int) -> None:
        self._port = port
        super().__init__()

    def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
        detour = request.copy()
        host, _, path = (request.url or "").removeprefix("https://").partition("/")
        detour.url = f"http://127.0.0.1:{self._port}/{path}"
        detour.headers["X-Signed-Host"] = host
        return super().send(detour, *args, **options)
