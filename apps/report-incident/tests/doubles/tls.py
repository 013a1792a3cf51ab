"""A reverse proxy as the site has one: TLS with a certificate of a private authority."""

import asyncio
import re
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Self


class Front:
    """Forwards to a local port. `requests` has what was asked for; after a request for `cut` its
    connection ends without an answer, once."""

    def __init__(self, folder: Path, port: int) -> None:
        self.authority = folder / "ca.crt"
        self.requests: list[str] = []
        self.cut: str | None = None
        self._to = port
        self._context = certificate(folder)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        server = asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._context)
        self._server = asyncio.run_coroutine_threadsafe(server, self._loop).result()
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.close()
            return
        deaf = asyncio.Event()
        await asyncio.gather(
            self._there(reader, there_writer, deaf),
            self._back(there_reader, writer, deaf),
        )

    async def _there(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, deaf: asyncio.Event
    ) -> None:
        while content := await _read(reader):
            for path in re.findall(rb"(?:GET|POST) /xrpc/([\w.]+)", content):
                self.requests.append(path.decode().rpartition(".")[2])
                if self.requests[-1] == self.cut:
                    self.cut = None
                    deaf.set()
            writer.write(content)
        writer.close()

    async def _back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, deaf: asyncio.Event
    ) -> None:
        while content := await _read(reader):
            if deaf.is_set():
                break
            writer.write(content)
        writer.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(1 << 16)
    except OSError:
        return b""


def certificate(folder: Path) -> ssl.SSLContext:
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    request += ["-nodes", "-days", "2"]
    authority = ["-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt"]
    server = ["-subj", "/CN=sns", "-addext", "subjectAltName=IP:127.0.0.1"]
    server += ["-addext", "basicConstraints=CA:FALSE", "-CA", "ca.crt", "-CAkey", "ca.key"]
    server += ["-keyout", "sns.key", "-out", "sns.crt"]
    for arguments in (authority, server):
        subprocess.run([*request, *arguments], cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "sns.crt", folder / "sns.key")
    return context
