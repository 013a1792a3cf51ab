"""Mastodon's REST API as far as its documents and its source say what a post with a photo needs."""

import html
import itertools
import json
import re
import threading
import time
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import regex

from doubles.serving import Serving, answer_json, body_of
from doubles.tls import certificate

TOKEN = "a-token"
_FIELDS = {"status", "media_ids", "in_reply_to_id", "language", "sensitive", "visibility"}


class Mastodon(Serving):
    """`statuses` and `media` have what was made, `edits` how often each status was edited. `refuse`
    has statuses to answer with, beside `headers`, before it works; with `silent` the next change is
    made and its answer is lost; `slow` is how many questions an upload takes until it is ready."""

    def __init__(self, folder: Path) -> None:
        self.statuses: dict[str, dict[str, Any]] = {}
        self.media: dict[str, dict[str, Any]] = {}
        self.edits: dict[str, int] = {}
        self.keys: dict[str, str] = {}
        self.refuse: list[int] = []
        self.headers: dict[str, str] = {}
        self.silent = ""
        self.slow = 0
        self._ids = itertools.count(113_000_000_000_000_001)
        self._lock = threading.Lock()
        super().__init__(certificate(folder))
        self.authority = folder / "ca.crt"

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        body = body_of(request)
        extra: dict[str, str] = {}
        with self._lock:
            if request.headers["Authorization"] != f"Bearer {TOKEN}":
                status, answer = _error(401, "The access token is invalid")
            elif self.refuse:
                status, answer = _error(self.refuse.pop(0), "Too many requests")
                extra = self.headers
            else:
                status, answer = self._route(request, body)
                if self.silent and request.command == self.silent:
                    self.silent = ""
                    request.close_connection = True
                    return
        answer_json(request, status, answer, extra)

    def _route(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, Any]:
        path, _, query = request.path.partition("?")
        what = (request.command, re.sub(r"/\d+", "/:id", path))
        number = "".join(re.findall(r"/(\d+)", path))
        if what == ("POST", "/api/v2/media"):
            return self._upload(request.headers["Content-Type"], body)
        if what == ("GET", "/api/v1/media/:id"):
            return self._processed(number)
        if what == ("POST", "/api/v1/statuses"):
            return self._post(json.loads(body), request.headers["Idempotency-Key"])
        if what == ("GET", "/api/v1/accounts/verify_credentials"):
            return 200, {"id": "7", "username": "seoul"}
        if what == ("GET", "/api/v1/accounts/:id/statuses"):
            most = int(parse_qs(query).get("limit", ["20"])[0])
            if number != "7" or most > 40:
                return _error(404, "Record not found")
            return 200, [self._shown(status) for status in self.statuses][::-1][:most]
        if number not in self.statuses:
            return _error(404, "Record not found")
        if what == ("GET", "/api/v1/statuses/:id/source"):
            text = self.statuses[number]["text"]
            return 200, {"id": number, "text": text, "spoiler_text": ""}
        if what == ("PUT", "/api/v1/statuses/:id"):
            return self._change(number, json.loads(body))
        return _error(404, "Record not found")

    def _upload(self, content_type: str, body: bytes) -> tuple[int, Any]:
        header = f"Content-Type: {content_type}\r\n\r\n".encode()
        form = BytesParser(EmailMessage, policy=HTTP).parsebytes(header + body)
        parts = {p.get_param("name", header="content-disposition"): p for p in form.iter_parts()}
        if set(parts) != {"file", "description"} or not parts["file"].get_filename():
            return _error(422, "Validation failed: File can't be blank")
        if parts["file"].get_content_type() != "image/jpeg":
            return _error(422, "Validation failed: File content type is invalid")
        description = parts["description"].get_payload(decode=True).decode()
        if len(description) > 1500:
            return _error(422, "Validation failed: Description is too long")
        media_id = str(next(self._ids))
        jpeg = parts["file"].get_payload(decode=True)
        self.media[media_id] = {"jpeg": jpeg, "alt": description, "of": None, "left": self.slow}
        shown = {"id": media_id, "type": "image", "url": None if self.slow else "https://files"}
        return (202 if self.slow else 200), shown

    def _processed(self, media_id: str) -> tuple[int, Any]:
        if media_id not in self.media:
            return _error(404, "Record not found")
        media = self.media[media_id]
        media["left"] = max(0, media["left"] - 1)
        return (206 if media["left"] else 200), {"id": media_id, "type": "image"}

    def _post(self, asked: dict[str, Any], key: str | None) -> tuple[int, Any]:
        if key in self.keys:
            return 200, self._shown(self.keys[key])
        status_id = str(next(self._ids))
        refused = self._refused(asked, status_id)
        if refused:
            return refused
        self.statuses[status_id] = {"text": asked["status"], "media": asked.get("media_ids", [])}
        self.edits[status_id] = 0
        if key:
            self.keys[key] = status_id
        return 200, self._shown(status_id)

    def _change(self, status_id: str, asked: dict[str, Any]) -> tuple[int, Any]:
        refused = self._refused(asked, status_id)
        if refused:
            return refused
        # Media that an edit does not name are taken off.
        changed = {"text": asked["status"], "media": asked.get("media_ids", [])}
        self.edits[status_id] += changed != self.statuses[status_id]
        self.statuses[status_id] = changed
        return 200, self._shown(status_id)

    def _refused(self, asked: dict[str, Any], status_id: str) -> tuple[int, Any] | None:
        assert set(asked) <= _FIELDS, "real servers ignore what they do not know"
        text = re.sub(r"https?://\S+", "x" * 23, asked["status"])
        if not text.strip():
            return _error(422, "Validation failed: Text can't be blank")
        if len(regex.findall(r"\X", text)) > 500:
            return _error(422, "Validation failed: Text character limit of 500 exceeded")
        for media_id in asked.get("media_ids", []):
            media = self.media.get(media_id)
            if media is None or media["of"] not in (None, status_id):
                return _error(422, "Validation failed: Media not found")
            if media["left"]:
                return _error(422, "Cannot attach files that have not finished processing.")
        for media_id in asked.get("media_ids", []):
            self.media[media_id]["of"] = status_id
        return None

    def _shown(self, status_id: str) -> dict[str, Any]:
        lines = html.escape(self.statuses[status_id]["text"], quote=False)
        lines = re.sub(r"#(\w+)", r'<a href="https://x/tags/\1">#<span>\1</span></a>', lines)
        lines = lines.replace("\n\n", "</p><p>").replace("\n", "<br />")
        return {
            "id": status_id,
            "uri": f"{self.url}/users/seoul/statuses/{status_id}",
            "url": f"{self.url}/@seoul/{status_id}",
            "created_at": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
            "content": f"<p>{lines}</p>",
        }


def _error(status: int, text: str) -> tuple[int, Any]:
    return status, {"error": text}
