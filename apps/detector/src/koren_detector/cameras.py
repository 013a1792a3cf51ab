"""Makes inventory entries of cameras from a list: `koren-detector-cameras import --csv FILE` or `--its`."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from .settings import EVENTS, SCHEMES, Post
from .stream import Transport

ITS_URL = "https://openapi.its.go.kr:9443/cctvInfo"
"""The CCTV service of Korea's National Transport Information Center."""
KEY_VARIABLE = "ITS_API_KEY"
_LIVE_HLS = "1"
_TIMEOUT_S = 30
_MOST_BYTES = 64 * 2**20
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_COLUMNS = ("id", "url", "name_ko", "name_en", "latitude", "longitude")
_MORE_COLUMNS = ("road_ko", "road_en", "direction_ko", "direction_en", "region", "transport", "post", "events")

Entry = dict[str, Any]


class CamerasError(Exception):
    """The list can't be used; the message names what is wrong and the remedy. It never holds the key."""


def from_csv(path: Path, region: str | None) -> list[Entry]:
    """Entries of a CSV file with a row of names; `region` is for rows that have none. Raises CamerasError."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            # What spreadsheets write in Korea.
            text = raw.decode("cp949")
        except UnicodeDecodeError:
            raise CamerasError(f"{path} is neither UTF-8 nor CP949; save it as UTF-8") from None
    rows = csv.DictReader(io.StringIO(text), strict=True)
    missing = [name for name in _COLUMNS if name not in (rows.fieldnames or [])]
    unknown = [name for name in rows.fieldnames or [] if name not in _COLUMNS + _MORE_COLUMNS]
    if missing or unknown:
        raise CamerasError(
            f"{path}: its first row must name the columns {', '.join(_COLUMNS)} and may name"
            f" {', '.join(_MORE_COLUMNS)}; missing: {', '.join(missing) or 'none'},"
            f" unknown: {', '.join(unknown) or 'none'}"
        )
    entries = []
    try:
        for row in rows:
            texts = {key: (value or "").strip() for key, value in row.items() if key}
            entries.append(_row(texts, f"{path} line {rows.line_num}", region))
    except csv.Error as error:
        raise CamerasError(f"{path} line {rows.line_num}: {error}") from error
    return _checked(entries)


def _row(row: dict[str, str], at: str, region: str | None) -> Entry:
    empty = [name for name in _COLUMNS if not row[name]]
    for part in ("road", "direction"):
        texts = {name: row.get(name) for name in (f"{part}_ko", f"{part}_en")}
        empty += [name for name, text in texts.items() if any(texts.values()) and not text]
    if empty:
        raise CamerasError(f"{at}: {', '.join(empty)} is empty")
    region = row.get("region") or region
    if not region:
        raise CamerasError(f"{at}: it has no region; fill the column region, or give --region")
    entry: Entry = {
        "id": row["id"],
        "url": row["url"],
        "region": region,
        **{
            name: {"ko": row[f"{name}_ko"], "en": row[f"{name}_en"]}
            for name in ("name", "road", "direction")
            if row.get(f"{name}_ko")
        },
        "latitude": _degrees(row["latitude"], 90, f"{at}: latitude"),
        "longitude": _degrees(row["longitude"], 180, f"{at}: longitude"),
    }
    for name, known in (("transport", get_args(Transport)), ("post", get_args(Post))):
        if row.get(name):
            if row[name] not in known:
                raise CamerasError(f"{at}: {name} {row[name]!r} must be one of {', '.join(known)}")
            entry[name] = row[name]
    if row.get("events"):
        entry["events"] = row["events"].split()
        if unknown := [name for name in entry["events"] if name not in EVENTS]:
            raise CamerasError(
                f"{at}: events {', '.join(unknown)} must be some of {', '.join(EVENTS)}, with spaces between them"
            )
    _check(entry, at)
    return entry


def from_its(url: str, key: str, box: tuple[float, float, float, float], roads: str, region: str) -> list[Entry]:
    """Entries of the cameras of the ITS open API with live HLS in `box` (west, south, east, north; degrees).

    `roads` is "ex" (motorways), "its" (national roads) or "all". Raises CamerasError.
    """
    west, south, east, north = box
    query = urllib.parse.urlencode({
        "apiKey": key, "type": roads, "cctvType": _LIVE_HLS, "getType": "json",
        "minX": west, "maxX": east, "minY": south, "maxY": north,
    })  # fmt: skip
    try:
        with urllib.request.urlopen(f"{url}?{query}", timeout=_TIMEOUT_S) as answer:
            raw = answer.read(_MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise CamerasError(f"{url}: HTTP {error.code}; is the key right and still valid?") from None
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise CamerasError(f"{url} can't be reached: {getattr(error, 'reason', error)}") from None
    try:
        values = json.loads(raw)
        response = values["response"]
        found = response.get("data") or []
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CamerasError(f"{url} gave no list of cameras: {_told(raw, key)}") from None
    entries = [_its(camera, region) for camera in (found if isinstance(found, list) else [found])]
    return _checked([entry for entry in entries if entry is not None])


def _told(raw: bytes, key: str) -> str:
    """What the service says instead of a list: its message if there is one, else the answer's beginning."""
    text = raw[:2000].decode(errors="replace")
    try:
        header = json.loads(raw).get("header") or json.loads(raw)
        text = f"{header['resultCode']} {header['resultMsg']}"
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return " ".join(text.replace(key, "…").split())[:200] or "an empty answer"


def _its(camera: Any, region: str) -> Entry | None:
    """A camera as the service describes it; None where it is not one with live HLS."""
    try:
        title, url = str(camera["cctvname"]).strip(), str(camera["cctvurl"]).strip()
        longitude, latitude = str(camera["coordx"]), str(camera["coordy"])
        live = str(camera.get("cctvformat", "HLS")).upper() == "HLS" and str(camera.get("cctvtype", "1")) in ("1", "4")
    except (KeyError, TypeError, AttributeError):
        raise CamerasError(f"the service gave a camera without its name, address or place: {camera!r:.200}") from None
    if not live:
        return None
    in_brackets = re.fullmatch(r"\[(?P<road>[^\]]+)\]\s*(?P<name>.+)", title)
    road, name = (in_brackets["road"], in_brackets["name"]) if in_brackets else (title, title)
    # The service has no ids, and its addresses change.
    digest = hashlib.sha256(f"{title}|{longitude}|{latitude}".encode()).hexdigest()[:10]
    at = f"camera {title}"
    entry: Entry = {
        "id": f"its-{digest}",
        "url": url,
        "region": region,
        "name": {"ko": name, "en": name},
        "road": {"ko": road, "en": road},
        "latitude": _degrees(latitude, 90, f"{at}: coordy"),
        "longitude": _degrees(longitude, 180, f"{at}: coordx"),
        # A new camera is run silently first.
        "post": "never",
    }
    _check(entry, at)
    return entry


def _degrees(text: str, most: float, at: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not -most <= value <= most:
        raise CamerasError(f"{at} {text!r} must be degrees between -{most} and {most}")
    return value


def _check(entry: Entry, at: str) -> None:
    if not _ID.fullmatch(entry["id"]):
        raise CamerasError(
            f"{at}: id {entry['id']!r} must be small letters, digits, dots, dashes, such as cctv-seoul-01"
        )
    try:
        parts = urlsplit(entry["url"])
    except ValueError:
        raise CamerasError(f"{at}: url is no address") from None
    if parts.username is not None or parts.password is not None:
        raise CamerasError(f"{at}: url holds a login; take it out, and put it into detector_logins in the vault")
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise CamerasError(f"{at}: url must be {', '.join(f'{scheme}://' for scheme in SCHEMES)} and a host")


def _checked(entries: list[Entry]) -> list[Entry]:
    ids = [entry["id"] for entry in entries]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise CamerasError(f"the id {', '.join(twice)} is there twice; give each camera its own")
    return sorted(entries, key=lambda entry: str(entry["id"]))


def written(entries: list[Entry], variable: str) -> Iterator[str]:
    """Lines of YAML that set `variable` to the entries."""
    yield f"{variable}:" + ("" if entries else " []")
    for entry in entries:
        for number, (key, value) in enumerate(entry.items()):
            lead = "  - " if number == 0 else "    "
            if isinstance(value, dict):
                value = "{" + ", ".join(f"{name}: {_scalar(text)}" for name, text in value.items()) + "}"
            else:
                value = _scalar(value)
            yield f"{lead}{key}: {value}"


def _scalar(value: Any) -> str:
    """JSON, which YAML takes; templates of Ansible in foreign text stay text."""
    text = json.dumps(value, ensure_ascii=False)
    return f"!unsafe {text}" if "{{" in text or "{%" in text or "{#" in text else text


def _key(file: Path | None) -> str:
    key = file.read_text().strip() if file else os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise CamerasError(
            f"there is no key; put it into the environment as {KEY_VARIABLE}, or into a file: --key-file"
        )
    return key


def _box(text: str) -> tuple[float, float, float, float]:
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        west = south = east = north = float("nan")
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise CamerasError(f"--box {text}: give west,south,east,north in degrees, such as 126.8,37.4,127.2,37.7")
    return west, south, east, north


def main() -> None:
    """Entry of the command: prints the entries."""
    parser = argparse.ArgumentParser(description="Inventory entries of cameras.")
    act = parser.add_subparsers(required=True).add_parser("import", help="from a CSV file or from the ITS open API")
    source = act.add_mutually_exclusive_group(required=True)
    source.add_argument("--csv", type=Path, help=f"columns {', '.join(_COLUMNS)}; also {', '.join(_MORE_COLUMNS)}")
    source.add_argument("--its", action="store_true", help=f"the ITS open API; its key in {KEY_VARIABLE} or --key-file")
    act.add_argument("--region", help="region of the cameras; needed with --its")
    act.add_argument("--box", help="with --its: west,south,east,north in degrees")
    act.add_argument(
        "--roads", choices=("all", "ex", "its"), default="all", help="motorways are ex, national roads its"
    )
    act.add_argument("--key-file", type=Path, help="with --its: file that holds the key")
    act.add_argument("--its-url", default=ITS_URL, help="another address of the service")
    act.add_argument("--variable", default="region_cameras", help="what to call the list (region_cameras)")
    options = parser.parse_args()
    try:
        if options.csv:
            entries = from_csv(options.csv, options.region)
        elif not options.box or not options.region:
            raise CamerasError("--its needs --box and --region")
        else:
            key = _key(options.key_file)
            entries = from_its(options.its_url, key, _box(options.box), options.roads, options.region)
    except (CamerasError, OSError) as error:
        sys.exit(f"koren-detector-cameras: {error}")
    print("\n".join(written(entries, options.variable)))
    print(f"{len(entries)} cameras", file=sys.stderr)
    if options.its and entries:
        print(
            "The service tells neither English names nor directions: add both before a camera posts."
            " Its addresses may expire; import again then.",
            file=sys.stderr,
        )
