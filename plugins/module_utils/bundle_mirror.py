# SPDX-License-Identifier: Apache-2.0
"""The bundle on a web server: one machine builds, signs and publishes components, the others fetch them.

A mirror is a folder with two files for each component: ``<name>/<key>.jws``, its statement, and
``<name>/<key>-<start of the SHA-256>.tar.gz``, an archive of that component alone. The statement is a JSON Web
Signature (Ed25519) over the component's name and key and the archive's SHA-256 and size. A published archive never
changes, so a mirror can be read while it is being filled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

from ansible.module_utils.urls import ConnectionError as UrlsError
from ansible.module_utils.urls import open_url
from ansible_collections.koren.faas.plugins.module_utils.bundle import BundleError, Entry, digest, is_whole, locked
from ansible_collections.koren.faas.plugins.module_utils.bundle_archive import unpack_archive, write_components
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)
from joserfc import jws
from joserfc.errors import BadSignatureError, JoseError
from joserfc.jwk import OKPKey

ALGORITHM = "Ed25519"
# Keeps signatures of the same key for another purpose from being accepted.
TYPE = "koren-bundle-component"
SCHEMES = ("https", "http", "file")
TIMEOUT_S = 15
ATTEMPTS = 5
_STATEMENT_BYTES = 1 << 16
_CHUNK = 1 << 20


class MirrorUnavailable(BundleError):
    """The mirror does not answer, or lacks a listed file; ``answers`` tells which. Components can be built instead."""

    def __init__(self, text: str, *, answers: bool) -> None:
        super().__init__(text)
        self.answers = answers


@dataclass(frozen=True)
class Statement:
    """What the signature of a component covers."""

    component: str
    key: str
    sha256: str
    size: int

    @property
    def archive(self) -> str:
        """Path of the component's archive on the mirror."""
        return f"{self.component}/{self.key}-{self.sha256[:16]}.tar.gz"


def _statement_path(entry: Entry) -> str:
    return f"{entry.name}/{entry.key}.jws"


def _sign(statement: Statement, key: Ed25519PrivateKey) -> str:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    header = {"alg": ALGORITHM, "typ": TYPE}
    return jws.serialize_compact(header, json.dumps(asdict(statement)), OKPKey.import_key(pem), [ALGORITHM])


def _verified(text: bytes, key: Ed25519PublicKey, entry: Entry) -> Statement:
    """The statement in a signed text; ValueError if it is not by this key or not of this component."""
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    try:
        signed = jws.deserialize_compact(text.strip(), OKPKey.import_key(pem), [ALGORITHM])
    except BadSignatureError as error:
        raise ValueError("its signature is not by bundle_mirror_key") from error
    except (JoseError, ValueError) as error:
        raise ValueError("it has no valid signature") from error
    if signed.headers().get("typ") != TYPE:
        raise ValueError("its signature is for another purpose")
    statement = Statement(**json.loads(signed.payload))
    if (statement.component, statement.key) != (entry.name, entry.key):
        raise ValueError(f"it is the statement of {statement.component} {statement.key}")
    return statement


def public_key(text: str) -> Ed25519PublicKey:
    """The key of a line ``ssh-ed25519 …``; BundleError for another text."""
    try:
        key = load_ssh_public_key(text.strip().encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise BundleError(
            "bundle_mirror_key must be the line 'ssh-ed25519 AAAA…' that publishing to the mirror prints, "
            f"but is {text.strip()[:40]!r}"
        )
    return key


def public_line(key: Ed25519PrivateKey) -> str:
    """The line that machines which fetch set as ``bundle_mirror_key``."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def signing_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a file in ssh-keygen's format, which is created if it is missing.

    Raises BundleError for another kind of key, and for a file that others can read.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            made = Ed25519PrivateKey.generate()
            _write(path, made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), 0o600)
    if path.stat().st_mode & 0o077:
        raise BundleError(f"bundle_signing_key {path} can be read by others: chmod 600 {path}")
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BundleError(f"bundle_signing_key {path} can't be read: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleError(f"bundle_signing_key {path} is not an Ed25519 key; create one: ssh-keygen -t ed25519 -N ''")
    return key


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a temporary file and move it into place."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
        out.write(content)
        os.fsync(out.fileno())
    part.rename(path)


def is_published(folder: Path, entry: Entry, key: Ed25519PublicKey) -> bool:
    """Whether a mirror's folder has a complete component that this key signed."""
    try:
        statement = _verified((folder / _statement_path(entry)).read_bytes(), key, entry)
        return digest(folder / statement.archive) == statement.sha256
    except (OSError, ValueError, TypeError):
        return False


def publish(folder: Path, entry: Entry, key: Ed25519PrivateKey) -> bool:
    """Add a component to a mirror's folder; False if it is already there, and its files' times are renewed.

    Raises BundleError if the component differs from its manifest.
    """
    home = folder / entry.name
    home.mkdir(parents=True, exist_ok=True)
    with locked(home / ".lock"):
        if is_published(folder, entry, key.public_key()):
            for file in home.glob(f"{entry.key}*"):
                os.utime(file)
            return False
        part = home / f".{entry.key}.part"
        try:
            sha256 = write_components(part, [entry], compress=True)
            statement = Statement(entry.name, entry.key, sha256, part.stat().st_size)
            part.rename(folder / statement.archive)
        finally:
            part.unlink(missing_ok=True)
        _write(folder / _statement_path(entry), f"{_sign(statement, key)}\n".encode(), 0o644)
    return True


class Mirror:
    """A mirror to fetch from: an address or a folder's path, and the key that signs its components."""

    def __init__(self, address: str, key: str) -> None:
        if not key.strip():
            raise BundleError(
                "bundle_mirror needs bundle_mirror_key, the line 'ssh-ed25519 AAAA…' that publishing to it prints"
            )
        self._key = public_key(key)
        base = address if "://" in address else Path(address).expanduser().absolute().as_uri()
        if urlsplit(base).scheme not in SCHEMES:
            raise BundleError(f"bundle_mirror {address}: it must be a path or begin with https://, http:// or file://")
        self._base = base.rstrip("/")

    def __str__(self) -> str:
        return re.sub("//[^/@]*@", "//", self._base)

    def has(self, entries: list[Entry]) -> list[str]:
        """Names of those components that the mirror has, with verified signatures.

        Raises MirrorUnavailable if it does not answer, BundleError for an invalid signature.
        """
        local = urlsplit(self._base)
        if local.scheme == "file" and not Path(unquote(local.path)).is_dir():
            raise MirrorUnavailable(f"bundle_mirror {self}: there is no such folder", answers=False)
        return [entry.name for entry in entries if self._statement(entry)]

    def fetch(self, cache: Path, entry: Entry) -> None:
        """Fetch one component into the cache. An interrupted download is resumed, also in a later run.

        Raises MirrorUnavailable if it can't be fetched, BundleError if it is not what was signed.
        """
        with locked(cache / "locks" / "downloads"):
            if is_whole(entry.path):
                return
            statement = self._statement(entry)
            if statement is None:
                raise MirrorUnavailable(f"bundle_mirror {self}: it no longer has {entry.name}", answers=True)
            part = cache / "downloads" / statement.archive
            part.parent.mkdir(parents=True, exist_ok=True)
            for left in part.parent.iterdir():
                if left != part:
                    left.unlink()
            self._download(statement, part)
            try:
                unpack_archive(part, cache, [entry], "")
            finally:
                shutil.rmtree(part.parent)

    def _download(self, statement: Statement, part: Path) -> None:
        begun = part.exists()
        failure = MirrorUnavailable("", answers=False)
        for attempt in range(ATTEMPTS):
            time.sleep(attempt)
            try:
                self._read_on(statement, part)
            except MirrorUnavailable as error:
                failure, begun = error, True
                if error.answers:
                    break
                continue
            found = digest(part)
            if found == statement.sha256:
                return
            part.unlink()
            if not begun:
                raise BundleError(
                    f"bundle_mirror {self}: {statement.archive} is not what was signed (its SHA-256 is {found}); "
                    f"nothing was taken from it. Publish {statement.component} again, or build it: -e bundle_mirror="
                )
            # The two parts may be from different files.
            begun = False
        raise failure

    def _read_on(self, statement: Statement, part: Path) -> None:
        """Append the missing bytes of the archive to the part."""
        have = part.stat().st_size if part.exists() else 0
        with part.open("ab") as out:
            if have < statement.size:
                for chunk in self._read(statement.archive, have, statement.size):
                    out.write(chunk)
                    have += len(chunk)
        if have < statement.size:
            raise MirrorUnavailable(
                f"bundle_mirror {self}: {statement.archive} ends after {have} of {statement.size} bytes", answers=False
            )

    def _statement(self, entry: Entry) -> Statement | None:
        path = _statement_path(entry)
        try:
            text = b"".join(self._read(path, 0, _STATEMENT_BYTES))
        except MirrorUnavailable as error:
            if error.answers:
                return None
            raise
        try:
            return _verified(text, self._key, entry)
        except (ValueError, TypeError) as error:
            raise BundleError(
                f"bundle_mirror {self}: {path} can't be trusted: {error}. Nothing was taken from the mirror. "
                "If the mirror has a new key, get it from the publisher. To build without the mirror: -e bundle_mirror="
            ) from error

    def _read(self, path: str, start: int, end: int) -> Iterator[bytes]:
        """The bytes of a file of the mirror from ``start`` to ``end``, or to its end.

        Raises MirrorUnavailable for every transfer error.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            with open_url(
                f"{self._base}/{path}", headers=headers, timeout=TIMEOUT_S, force=True, decompress=False
            ) as response:
                # A server without support for ranges sends the whole file.
                at = start if response.status == HTTPStatus.PARTIAL_CONTENT else 0
                while at < end and (chunk := response.read(min(_CHUNK, end - at))):
                    yield chunk[max(start - at, 0) :]
                    at += len(chunk)
        except (OSError, HTTPException, UrlsError) as error:
            missing = isinstance(error, HTTPError) and error.code in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
            missing = missing or isinstance(getattr(error, "reason", None), FileNotFoundError)
            text = f"it has no {path}" if missing else f"it does not answer for {path}: {error}"
            raise MirrorUnavailable(f"bundle_mirror {self}: {text}", answers=missing) from error
