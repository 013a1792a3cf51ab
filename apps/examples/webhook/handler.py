# SPDX-License-Identifier: Apache-2.0
"""Forwards each event to an address by HTTPS.

A receiver gets an event more than once when its answer is lost. It knows a repeat by the header `Idempotency-Key`.
"""

import json
import urllib.error
import urllib.request
from pathlib import Path

from koren_runtime import Reject, RetryAfter

SECRET = Path("/run/secrets/webhook")
TIMEOUT_S = 10
LATER = (408, 425, 429)


def handler(event, context):
    """Forward the event, and give the receiver's status."""
    body = {"id": event["event-id"], "type": event["event-type"], "time": event["event-time"]}
    request = urllib.request.Request(
        _secret("url"),
        data=json.dumps(body | {"data": event["data"]}, ensure_ascii=False).encode(),
        headers={"Content-Type": "application/json", "Idempotency-Key": event["event-id"]},
    )
    if token := _secret("token"):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return {"status": answer.status}
    except urllib.error.HTTPError as error:
        seconds = error.headers.get("Retry-After", "")
        if error.code in LATER and seconds.isdigit():
            raise RetryAfter(int(seconds), f"the receiver answered {error.code}") from error
        if 400 <= error.code < 500 and error.code not in LATER:
            raise Reject(f"the receiver refuses the event: {error.code} {error.reason}") from error
        raise


def _secret(key):
    """A value of the secret; empty when it has none of that name. It is read anew, since it may change."""
    file = SECRET / key
    return file.read_text().strip() if file.exists() else ""
