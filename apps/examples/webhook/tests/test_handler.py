# SPDX-License-Identifier: Apache-2.0
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from koren_runtime.testing import CallFailed


class Receiver:
    """Somebody's server: answers with `status`, and keeps what it was sent."""

    def __init__(self):
        self.status, self.headers, self.got = 200, {}, []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((dict(self.headers), json.loads(body)))
                self.send_response(receiver.status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def receiver(secrets):
    receiver = Receiver()
    secrets("webhook", url=f"http://127.0.0.1:{receiver.server.server_port}/events", token="abc\n")
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


def test_an_event_arrives_with_its_id_and_the_token(call, event, receiver):
    assert call(event.read("event.json", id="e1", type="a.b")) == {"status": 200}
    ((headers, body),) = receiver.got
    assert headers["Authorization"] == "Bearer abc"
    assert headers["Idempotency-Key"] == body["id"] == "e1"
    assert (body["type"], body["data"]["severity"]) == ("a.b", "minor")


@pytest.mark.parametrize(
    ("status", "rejected", "retry_after_s"),
    [(400, True, None), (429, False, 30.0), (503, False, None)],
)
def test_a_refusal_is_tried_again_only_where_that_can_help(
    call, receiver, status, rejected, retry_after_s
):
    receiver.status, receiver.headers = status, {"Retry-After": "30"}
    with pytest.raises(CallFailed) as failed:
        call({"severity": "minor"})
    outcome = failed.value.outcome
    assert (outcome.rejected, outcome.retry_after_s) == (rejected, retry_after_s)
