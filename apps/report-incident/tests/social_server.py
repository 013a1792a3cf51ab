"""The bundle's social server as a process of its own."""

import base64
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

REPOSITORY = Path(__file__).parents[3]


@dataclass(frozen=True)
class Account:
    handle: str
    password: str
    did: str


def find_or_build(folder: Path) -> Path:
    """The bundle's archive: $SNS_ARCHIVE, else the site's bundle, else made now."""
    named = os.environ.get("SNS_ARCHIVE")
    archive = Path(named) if named else REPOSITORY / ".state/bundle/sns/sns.tar.gz"
    if archive.is_file():
        return archive
    recipe = folder / "recipe"
    shutil.copytree(REPOSITORY / "bundle/sns", recipe)
    subprocess.run(
        ["nice", "bash", "-euo", "pipefail", "build.sh"],
        cwd=recipe,
        env=os.environ | {"OUT": str(folder), "SOURCE_DATE_EPOCH": "1767225600"},
        check=True,
    )
    return folder / "sns.tar.gz"


class SocialServer:
    """`tree` has app/ and node/, `data` is what outlives a kill."""

    def __init__(self, tree: Path, data: Path) -> None:
        self.port = _free_port()
        self._tree = tree
        self._data = data
        self._process: subprocess.Popen[bytes] | None = None
        self._admin_password = secrets.token_hex(16)
        data.mkdir()
        self._environment = {
            "NODE_ENV": "production",
            "PDS_PORT": str(self.port),
            "PDS_DATA_DIRECTORY": str(data),
            "PDS_BLOBSTORE_DISK_LOCATION": str(data / "blobs"),
            "PDS_DID_PLC_URL": f"http://localhost:{_free_port()}",
            "PDS_HOSTNAME": "sns.koren.test",
            "PDS_SERVICE_HANDLE_DOMAINS": ".koren.test",
            "PDS_INVITE_REQUIRED": "true",
            "PDS_ADMIN_PASSWORD": self._admin_password,
            "PDS_JWT_SECRET": secrets.token_hex(32),
            "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": "11" * 32,
        }

    def start(self) -> None:
        log = self._data / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [self._tree / "node/bin/node", self._tree / "app/server.mjs"],
                env=self._environment,
                stdout=output,
                stderr=output,
            )
        end = time.monotonic() + 120
        while time.monotonic() < end:
            assert self._process.poll() is None, log.read_text()
            try:
                self.get("_health")
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"the social server does not answer: {log.read_text()}")

    def kill(self) -> None:
        """kill -9: nothing is finished, nothing is tidied."""
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def create_account(self, handle: str) -> Account:
        password = secrets.token_hex(8)
        credentials = base64.b64encode(f"admin:{self._admin_password}".encode()).decode()
        invite = self._ask(
            "com.atproto.server.createInviteCode",
            {"useCount": 1},
            {"Authorization": f"Basic {credentials}"},
        )
        made = self._ask(
            "com.atproto.server.createAccount",
            {
                "handle": handle,
                "password": password,
                "email": handle.replace(".", "@", 1),
                "inviteCode": invite["code"],
            },
            {},
        )
        return Account(handle, password, made["did"])

    def get(self, method: str, **query: str) -> Any:
        return json.loads(self.read(method, **query))

    def read(self, method: str, **query: str) -> bytes:
        url = f"http://127.0.0.1:{self.port}/xrpc/{method}?{urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            content: bytes = answer.read()
            return content

    def posts(self, account: Account, subject: str) -> list[dict[str, Any]]:
        """All posts of the account that tell of an incident, the first before its replies."""
        query = {"repo": account.did, "collection": "app.bsky.feed.post", "limit": "100"}
        records = self.get("com.atproto.repo.listRecords", **query)["records"]
        found = [r for r in records if r["value"]["kr.koren.incident"]["subject"] == subject]
        return sorted(found, key=lambda r: r["value"]["kr.koren.incident"]["sequence"])

    def delete(self, account: Account, uri: str) -> None:
        """Deletes a post, as its account's owner does in the app."""
        login = {"identifier": account.handle, "password": account.password}
        session = self._ask("com.atproto.server.createSession", login, {})
        _, _, _, collection, key = uri.split("/")
        self._ask(
            "com.atproto.repo.deleteRecord",
            {"repo": account.did, "collection": collection, "rkey": key},
            {"Authorization": f"Bearer {session['accessJwt']}"},
        )

    def _ask(self, method: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/xrpc/{method}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"} | headers,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method}: {error.read().decode()}") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
