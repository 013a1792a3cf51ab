"""Publishes an incident as a record of a traffic information centre, and closes it when it is over.

Each event of an incident is one request. The endpoint is described by the files of a secret, one value a file:

    format      its (a 돌발상황 record as the open API of Korea's ITS has it, JSON) or datex (DATEX II version 3, XML)
    url         https://…, where records are posted to
    publisher   datex only: who publishes, as the receiver knows it
    token       optional: sent as a bearer token
    ca.crt      optional: the authority of the endpoint's certificate, if it is private
"""

import contextlib
import hashlib
import http.client
import json
import os
import ssl
from urllib.parse import urlsplit

from incident import Incident

from koren_runtime import Reject, RetryAfter, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

SECRET = "/run/secrets/situation"

_TIMEOUT_S = 10.0
_KEPT_S = 30 * 86400
_ANSWER_BYTES = 4096
_NEVER = (400, 413, 415, 422)
"""Answers that say that the record is refused however often it is sent."""


class Misconfigured(Exception):
    """The secret lacks something; the message says what."""


class Refused(Exception):
    """The endpoint did not take the record, or could not be asked; another try may do."""


class Endpoint:
    """Where records go. Raises Misconfigured.

    `write` makes a record's content of an incident, `media_type` says what it is.
    """

    def __init__(self, folder: str) -> None:
        kind = _read(folder, "format")
        self.write: Callable[[Incident], bytes]
        # What the other format imports is not waited for.
        if kind == "its":
            import its

            self.write, self.media_type = its.record, "application/json"
        elif kind == "datex":
            import datex

            publisher = _read(folder, "publisher")
            self.write = lambda incident: datex.publication(incident, publisher)
            self.media_type = "application/xml"
        else:
            raise Misconfigured(f"the file format of the secret says {kind!r}; it must be its or datex")
        self.url = _read(folder, "url")
        parts = urlsplit(self.url)
        try:
            self._at = parts.hostname, parts.port
        except ValueError:
            self._at = None, None
        if parts.scheme != "https" or not self._at[0] or parts.username is not None:
            raise Misconfigured(
                "the secret's url must be like https://its.example.org/events, with no login in it; use the key token"
            )
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        authority = f"{folder}/ca.crt"
        self._context = ssl.create_default_context(cafile=authority if os.path.exists(authority) else None)
        token = _read(folder, "token") if os.path.exists(f"{folder}/token") else ""
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def send(self, content: bytes, key: str) -> None:
        """Post a record. `key` is the same however often that record is sent.

        Raises Reject, RetryAfter or Refused.
        """
        headers = {**self._headers, "Content-Type": f"{self.media_type}; charset=utf-8", "Idempotency-Key": key}
        host, port = self._at
        assert host is not None
        connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=self._context)
        try:
            connection.request("POST", self._target, content, headers)
            response = connection.getresponse()
            answer = response.read(_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise Refused(f"no answer from {host}: {type(error).__name__}: {error}") from error
        finally:
            connection.close()
        if 200 <= response.status < 300:
            return
        problem = f"{host} answered {response.status}: {answer[:200].decode(errors='replace')}"
        if response.status in _NEVER:
            raise Reject(problem)
        wait = response.headers.get("Retry-After", "")
        if response.status in (429, 503) and wait.isascii() and wait.isdigit():
            raise RetryAfter(float(wait), problem)
        raise Refused(problem)


def handler(event: "Mapping[str, Any]", context: "Mapping[str, Any]") -> "dict[str, Any]":
    """The function: publishes the event's incident; returns {id, version, confirmed, closed, sent}.

    An event that is published already, that is older than what is published, or that comes after the incident's end
    sends nothing. Raises Reject when the event can't be published however often it is tried, RetryAfter when the
    endpoint says how long to wait. Whatever else it raises is for the gateway to try again.
    """
    incident = Incident(event)
    endpoint = Endpoint(os.environ.get("SITUATION_SECRET", SECRET))
    name = f"{endpoint.url}\n{incident.id}".encode()
    key = "situation-" + hashlib.sha256(name).hexdigest()[:32]
    entry = state.get(key)
    known: dict[str, Any] = {"version": 0, "confirmed": False, "closed": False}
    if entry:
        known = json.loads(entry.value)
    sent = not known["closed"] and incident.version > known["version"]
    if sent:
        # What a person has confirmed stays so.
        incident.confirmed = incident.confirmed or known["confirmed"]
        endpoint.send(endpoint.write(incident), f"{key[10:]}-{incident.version}")
        known = {
            "version": incident.version,
            "confirmed": incident.confirmed,
            "closed": incident.cleared_at is not None,
        }
        state.put(key, json.dumps(known).encode(), version=entry.version if entry else state.ABSENT, expires_s=_KEPT_S)
    print(f"{incident.id} {incident.version}: {'published' if sent else 'published before'}")
    return {"id": incident.id, **known, "sent": sent}


def _read(folder: str, name: str) -> str:
    try:
        with open(f"{folder}/{name}", encoding="utf-8") as file:
            value = file.read().strip()
    except FileNotFoundError:
        raise Misconfigured(f"{folder} has no file {name}; give the function's secret a key of that name") from None
    if not value or not value.isprintable():
        raise Misconfigured(f"{folder}/{name} must be one line of text; set that key of the function's secret")
    return value


with contextlib.suppress(Misconfigured, OSError):  # it is told when there is an event to publish
    # Loads what the format needs while the pod still waits for its event.
    Endpoint(os.environ.get("SITUATION_SECRET", SECRET))
