"""What functions on this machine keep from event to event, in memory or in a file."""

import base64
import json
import os
import threading
import time
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class LocalError(Exception):
    """A function can't be run on this machine; the message says what to do about it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A value, its version, and when it is forgotten (seconds since 1970); None is never."""

    value: bytes
    version: int
    expires: float | None = None


class State(MutableMapping[str, bytes]):
    """A function's state: a mapping of keys to bytes, and the gateway's compare-and-set on it.

    With a file, its content is what is there first, and each write is in it at once. The file is a
    JSON object. A value is a text, or an object with `text` or `base64`, and `expires` (seconds
    since 1970) where it expires.
    """

    def __init__(self, file: Path | None = None) -> None:
        """Raises LocalError when the file can't be read."""
        self._file = file
        self._lock = threading.RLock()
        self._versions = 0
        self._kept: dict[str, Kept] = {}
        if file is not None and file.exists():
            self._kept = dict(self._read(file))

    def kept(self, key: str) -> Kept | None:
        """What is kept under the key now; None when there is nothing, or it has expired."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None and found.expires is not None and found.expires <= time.time():
                del self._kept[key]
                return None
            return found

    def write(
        self, key: str, value: bytes, *, version: str | None = None, expires_s: float | None = None
    ) -> int | None:
        """Keeps a value; its new version, or None when what is there is not `version`.

        `version` is that of the value to be replaced, an empty text for "nothing may be there", or
        None for whatever is there.
        """
        with self._lock:
            found = self.kept(key)
            if version is not None and version != (str(found.version) if found else ""):
                return None
            self._versions += 1
            expires = None if expires_s is None else time.time() + expires_s
            self._kept[key] = Kept(value, self._versions, expires)
            self._save()
            return self._versions

    def __getitem__(self, key: str) -> bytes:
        found = self.kept(key)
        if found is None:
            raise KeyError(key)
        return found.value

    def __setitem__(self, key: str, value: bytes) -> None:
        self.write(key, value)

    def __delitem__(self, key: str) -> None:
        with self._lock:
            del self._kept[key]
            self._save()

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter([key for key in list(self._kept) if self.kept(key) is not None])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _read(self, file: Path) -> Iterator[tuple[str, Kept]]:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise LocalError(f"state file {file} can't be read: {error}") from error
        if not isinstance(content, dict):
            raise LocalError(f"state file {file} must hold a JSON object: keys and their values")
        for key, said in content.items():
            entry = {"text": said} if isinstance(said, str) else said
            self._versions += 1
            try:
                value = (
                    entry["text"].encode()
                    if "text" in entry
                    else base64.b64decode(entry["base64"], validate=True)
                )
                expires = entry.get("expires")
                yield key, Kept(value, self._versions, None if expires is None else float(expires))
            except (AttributeError, KeyError, TypeError, ValueError):
                raise LocalError(
                    f"state file {file}: {key!r} must be a text, or an object with text or base64"
                ) from None

    def _save(self) -> None:
        if self._file is None:
            return
        content = {key: _shown(self._kept[key]) for key in self}
        part = self._file.with_name(f"{self._file.name}.{os.getpid()}.part")
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(self._file)


def _shown(kept: Kept) -> Any:
    try:
        shown: dict[str, Any] = {"text": kept.value.decode()}
    except UnicodeDecodeError:
        shown = {"base64": base64.b64encode(kept.value).decode()}
    if kept.expires is None:
        return shown.get("text", shown)
    return {**shown, "expires": kept.expires}
