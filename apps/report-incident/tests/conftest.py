import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from doubles.gateway import StateDouble
from doubles.tls import Front
from hypothesis import HealthCheck, settings
from social_server import Account, SocialServer, find_or_build

Event = dict[str, Any]

# Nothing is left for a later run. HYPOTHESIS_PROFILE=long tries more.
settings.register_profile(
    "short",
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("long", settings.get_profile("short"), max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 200


def make_event(
    kind: str = "detected",
    sequence: int = 1,
    subject: str = "cctv-seoul-01-20261124T111605Z",
    *,
    jpeg: bytes | None = JPEG,
    region: str = "seoul",
    released_by: str | None = None,
    about: str = "accident",
    **data: Any,
) -> Event:
    """An event of an incident as a handler gets it; `data` overrides what it says."""
    content: dict[str, Any] = {
        "camera": {
            "id": "cctv-seoul-01",
            "name": {"ko": "강남역 사거리", "en": "Gangnam Station Junction"},
            "latitude": 37.4979,
            "longitude": 127.0276,
            "road": {"ko": "강남대로", "en": "Gangnam-daero"},
            "direction": {"ko": "신논현역 방면", "en": "towards Sinnonhyeon Station"},
        },
        "confidence": 0.87,
        "started_at": "2026-11-24T11:16:05.123Z",
    }
    if about == "accident":
        content |= {"severity": "severe", "what": "rear_end"}
    if kind == "cleared":
        content["cleared_at"] = "2026-11-24T11:48:30.000Z"
    else:
        content["objects"] = [
            seen("car", 1), seen("car", 2), seen("bus", 3), seen("truck", 4, involved=False)
        ]  # fmt: skip
    if jpeg is not None:
        content["image"] = {
            "media_type": "image/jpeg",
            "width": 1280,
            "height": 720,
            "base64": b64encode(jpeg).decode(),
        }
    return {
        "data": content | data,
        "event-id": f"{subject}-{sequence}",
        "event-type": f"kr.koren.traffic.{about}.{kind}",
        "event-time": "2026-11-24T11:18:00.250Z",
        "event-namespace": "cctv-seoul-01",
        "extensions": {
            "specversion": "1.0",
            "source": "cctv-seoul-01",
            "datacontenttype": "application/json",
            "subject": subject,
            "region": region,
            "sequence": sequence,
        }
        | ({"releasedby": released_by} if released_by else {}),
    }


def seen(name: str, track: int, *, involved: bool = True) -> dict[str, Any]:
    return {"class": name, "track": track, "box": [0, 0, 9, 9], "involved": involved}


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StateDouble]:
    """The state that the runtime's `state` module reaches."""
    token = tmp_path / "token"
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
        monkeypatch.setenv("SNS_SECRET", str(folder))
        return folder

    return write


@pytest.fixture(scope="session")
def social_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocialServer]:
    """The social server of the bundle, running."""
    folder = tmp_path_factory.mktemp("sns")
    tree = folder / "tree"
    tree.mkdir()
    archive = find_or_build(folder)
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", tree], check=True)
    server = SocialServer(tree, folder / "data")
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def seoul(social_server: SocialServer) -> Account:
    return social_server.create_account("seoul.koren.test")


@pytest.fixture(scope="session")
def front(social_server: SocialServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """TLS in front of the social server."""
    with Front(tmp_path_factory.mktemp("tls"), social_server.port) as tls:
        yield tls


@pytest.fixture
def on_bluesky(
    kept: StateDouble, secret: Callable[..., Path], front: Front, seoul: Account
) -> Path:
    """The function's secret, for the account of Seoul."""
    front.requests.clear()
    return secret(
        provider="bluesky\n",
        url=front.url,
        handle=seoul.handle,
        password=seoul.password,
        ca_crt=front.authority.read_text(),
    )
