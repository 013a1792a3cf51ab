from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from doubles.gateway import StateDouble
from doubles.serving import Serving, body_of
from doubles.tls import certificate

Event = dict[str, Any]
APPS = Path(__file__).parents[3] / "apps"
BOTH = {
    "name": {"ko": "강남역 사거리", "en": "Gangnam Station Junction"},
    "road": {"ko": "강남대로", "en": "Gangnam-daero"},
    "direction": {"ko": "신논현역 방면", "en": "towards Sinnonhyeon Station"},
}


def make_event(
    kind: str = "detected", sequence: int = 1, released_by: str | None = None, about: str = "accident", **data: Any
) -> Event:
    """An event of an incident as a handler gets it; `data` overrides what it says."""
    content: dict[str, Any] = {
        "camera": {"id": "cctv-seoul-01", "latitude": 37.4979, "longitude": 127.0276, **BOTH},
        "confidence": 0.87,
        "started_at": "2026-11-24T15:16:05.123Z",
    }
    if about == "accident":
        content |= {"severity": "severe", "what": "rear_end"}
    if kind == "cleared":
        content["cleared_at"] = "2026-11-24T15:48:30Z"
    attributes = {"subject": "cctv-seoul-01-20261124T151605Z", "region": "seoul", "sequence": sequence}
    return {
        "data": content | data,
        "event-id": f"event-{sequence}",
        "event-type": f"kr.koren.traffic.{about}.{kind}",
        "event-time": f"2026-11-24T15:18:{sequence:02}.250Z",
        "event-namespace": "cctv-seoul-01",
        "extensions": attributes | ({"releasedby": released_by} if released_by else {}),
    }


class Centre(Serving):
    """A traffic information centre. `taken` has what was posted; it answers the next requests with `answers`, and ends
    the connection without an answer, once it has taken the record, where one of them is None."""

    def __init__(self, folder: Path) -> None:
        self.taken: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[tuple[int, dict[str, str]] | None] = []
        self.authority = folder / "ca.crt"
        super().__init__(certificate(folder))

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        content = body_of(request)
        answer = self.answers.pop(0) if self.answers else (201, {})
        if answer is None or answer[0] < 300:
            self.taken.append((request.path, dict(request.headers.items()), content))
        if answer is None:
            request.close_connection = True
            return
        request.send_response(answer[0])
        for name, value in {**answer[1], "Content-Length": "4"}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(b"what")


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    with Centre(tmp_path) as running:
        yield running


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StateDouble]:
    """The state that the runtime's `state` module reaches."""
    token = tmp_path / "gateway-token"
    token.write_text("a-token")
    with StateDouble() as double:
        monkeypatch.setenv("KOREN_GATEWAY", f"127.0.0.1:{double.port}")
        monkeypatch.setenv("KOREN_TOKEN", str(token))
        yield double


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Writes the function's secret."""

    def write(**files: str) -> Path:
        folder = tmp_path / "secret"
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / name.replace("ca_crt", "ca.crt")).write_text(content)
        monkeypatch.setenv("SITUATION_SECRET", str(folder))
        return folder

    return write


@pytest.fixture
def to_its(kept: StateDouble, secret: Callable[..., Path], centre: Centre) -> Path:
    """The secret of a function that publishes to `centre` in the format of ITS."""
    return secret(
        format="its\n", url=f"{centre.url}/events?of=koren", token="t0ken", ca_crt=centre.authority.read_text()
    )
