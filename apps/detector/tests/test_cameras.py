from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from koren_detector.cameras import CamerasError, from_csv, from_its, written
from koren_detector.settings import load_settings

HEAD = "id,url,name_ko,name_en,latitude,longitude,road_ko,road_en,direction_ko,direction_en,region,transport,post\n"
ROW = "cctv-seoul-01,rtsp://10.0.0.1/live,강남역,Gangnam,37.49,127.02,강남대로,Gangnam-daero,북쪽,northbound,seoul,udp,never\n"
KEY = "k3y/that+must=stay&hidden"
BOX = (126.8, 37.4, 127.2, 37.7)


def its_camera(**changed: Any) -> dict[str, Any]:
    """A camera with the names that the service's documentation has."""
    return {
        "roadsectionid": "1010000100", "filecreatetime": "20261129091500", "cctvtype": 1, "cctvformat": "HLS",
        "cctvurl": "http://cctv.example/100/token==/playlist.m3u8", "cctvresolution": "", "coordx": 127.101234,
        "coordy": 37.41, "cctvname": "[경부선] 판교",
    } | changed  # fmt: skip


class Service(BaseHTTPRequestHandler):
    """Stands for the ITS open API."""

    cameras: Any = None
    refusal: Any = None
    asked: Any = None

    def do_GET(self) -> None:
        Service.asked = parse_qs(urlsplit(self.path).query)
        if Service.asked["apiKey"] != [KEY]:
            self.send_error(403)
            return
        answer = Service.refusal or {"response": {"coordtype": 1, "datacount": 1, "data": Service.cameras}}
        body = json.dumps(answer, ensure_ascii=False).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def its() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Service)
    Service.cameras, Service.refusal = [], None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/cctvInfo"
    server.shutdown()
    server.server_close()


def test_cameras_of_a_box_become_entries(its: str) -> None:
    Service.cameras = [
        its_camera(), its_camera(cctvname="세종대로 사거리", coordx="126.97"),
        its_camera(cctvname="정지 영상", cctvtype=3),
    ]  # fmt: skip

    entries = from_its(its, KEY, BOX, "all", "seoul")

    assert {key: value[0] for key, value in Service.asked.items()} == {
        "apiKey": KEY, "type": "all", "cctvType": "1", "getType": "json",
        "minX": "126.8", "maxX": "127.2", "minY": "37.4", "maxY": "37.7",
    }  # fmt: skip
    by_name = {entry["name"]["ko"]: entry for entry in entries}
    assert set(by_name) == {"판교", "세종대로 사거리"}
    camera = by_name["판교"]
    assert (camera["road"]["ko"], camera["latitude"], camera["longitude"]) == ("경부선", 37.41, 127.101234)
    assert (camera["url"], camera["region"], camera["post"]) == (its_camera()["cctvurl"], "seoul", "never")


def test_a_camera_keeps_its_id_when_its_address_changes(its: str) -> None:
    ids = []
    for token in ("one", "two"):
        # The service gives a list of one as the camera itself.
        Service.cameras = its_camera(cctvurl=f"http://cctv.example/{token}")
        ids += [entry["id"] for entry in from_its(its, KEY, BOX, "ex", "seoul")]

    assert len(ids) == 2 and len(set(ids)) == 1


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ({"header": {"resultCode": 4, "resultMsg": f"key {KEY} is not known"}}, "4 key … is not known"),
        (["what"], "gave no list of cameras"),
        ({"response": {"data": [{"cctvname": "x"}]}}, "without its name, address or place"),
        ({"response": {"data": [its_camera(coordx="east")]}}, "coordx 'east' must be degrees"),
    ],
)
def test_what_the_service_says_instead_is_told_without_the_key(its: str, refusal: Any, message: str) -> None:
    Service.refusal = refusal

    with pytest.raises(CamerasError, match=message) as told:
        from_its(its, KEY, BOX, "all", "seoul")
    assert KEY not in str(told.value)


def test_a_csv_file_of_either_coding_becomes_entries(tmp_path: Path) -> None:
    for coding in ("utf-8-sig", "cp949"):
        (tmp_path / "cameras.csv").write_bytes((HEAD + ROW).encode(coding))
        (entry,) = from_csv(tmp_path / "cameras.csv", None)
        assert entry["name"] == {"ko": "강남역", "en": "Gangnam"}
        assert (entry["transport"], entry["post"], entry["latitude"]) == ("udp", "never", 37.49)


def test_a_csv_file_may_say_which_events_a_camera_reports(tmp_path: Path) -> None:
    head, row = HEAD.replace("post", "events"), ROW.replace("never", "accident stopped_vehicle")
    (tmp_path / "cameras.csv").write_text(head + row)

    entries = from_csv(tmp_path / "cameras.csv", None)

    assert '    events: ["accident", "stopped_vehicle"]' in written(entries, "region_cameras")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,url\n", "missing: name_ko"),
        (HEAD.replace("post", "pots") + ROW, "unknown: pots"),
        (HEAD + ROW + ROW, "cctv-seoul-01 is there twice"),
        (HEAD + ROW.replace("37.49", "127"), "line 2: latitude '127' must be degrees"),
        (HEAD + ROW.replace("강남역", ""), "line 2: name_ko is empty"),
        (HEAD + ROW.replace("northbound", ""), "line 2: direction_en is empty"),
        (HEAD + ROW.replace("seoul,udp", ",udp"), "line 2: it has no region"),
        (HEAD.replace("post", "events") + ROW.replace("never", "crash"), "events crash must be some of accident"),
        (HEAD + ROW.replace("udp", "tls"), "transport 'tls' must be one of tcp, udp"),
        (HEAD + ROW.replace("cctv-seoul-01", "카메라/1"), "must be small letters"),
        (HEAD + ROW.replace("rtsp://", "rtsp://user:secret@"), "put it into detector_logins"),
        (HEAD + ROW.replace("rtsp://", "ftp://"), "url must be rtsp://"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "cameras.csv").write_text(text)

    with pytest.raises(CamerasError, match=message) as told:
        from_csv(tmp_path / "cameras.csv", None)
    assert "secret" not in str(told.value)


def test_a_camera_that_sees_several_roads_needs_none(tmp_path: Path) -> None:
    empty = HEAD + ROW.replace("강남대로,Gangnam-daero,북쪽,northbound", ",,,")
    absent = (HEAD + ROW).replace("road_ko,road_en,direction_ko,direction_en,", "").replace(
        "강남대로,Gangnam-daero,북쪽,northbound,", ""
    )  # fmt: skip
    for table in (empty, absent):
        (tmp_path / "cameras.csv").write_text(table)
        entry = from_csv(tmp_path / "cameras.csv", None)[0]
        assert "road" not in entry and "direction" not in entry


def test_entries_are_what_the_detector_reads(its: str, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    strange = 'a "b": {c} # [d] \\ - \' %'
    Service.cameras = [its_camera(cctvname=strange), its_camera()]

    class Loader(yaml.SafeLoader):  # type: ignore[misc, name-defined]
        pass

    Loader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))
    entries = from_its(its, KEY, BOX, "all", "seoul")
    read = yaml.load("\n".join(written(entries, "region_cameras")), Loader)["region_cameras"]

    assert read == entries
    config = {
        "cameras": read, "broker": {"host": "h", "port": 1, "ca": "c", "cert": "c", "key": "k"}, "model": "m",
        "state": "s", "fps": 4, "network_width": 384, "metrics_address": "a", "metrics_port": 1,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = load_settings(tmp_path / "config.json")
    assert {camera.camera.name.ko for camera in settings.cameras} == {strange, "판교"}
    assert {camera.post for camera in settings.cameras} == {"never"}


def test_templates_in_foreign_text_stay_text(its: str) -> None:
    Service.cameras = [its_camera(cctvname="{{ lookup('pipe', 'id') }}")]

    text = "\n".join(written(from_its(its, KEY, BOX, "all", "seoul"), "region_cameras"))

    assert all("!unsafe" in part for part in text.split("lookup")[:-1])


def command(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    start = f"import sys; sys.path += {sys.path!r}; from koren_detector.cameras import main; main()"
    return subprocess.run(
        [sys.executable, "-c", start, "import", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip


def test_the_key_comes_from_a_file_or_the_environment(its: str, tmp_path: Path) -> None:
    Service.cameras = [its_camera()]
    (tmp_path / "key").write_text(KEY + "\n")
    wanted = ["--its", "--its-url", its, "--box", "126.8,37.4,127.2,37.7", "--region", "seoul"]

    done = [command([*wanted, "--key-file", str(tmp_path / "key")]), command(wanted, ITS_API_KEY=KEY)]

    for each in done:
        assert each.returncode == 0, each.stderr
        assert each.stdout.startswith('region_cameras:\n  - id: "its-')
        assert KEY not in each.stdout + each.stderr
    for arguments, message in (
        (wanted, "there is no key"), ([*wanted, "--box", "127.2,37.4,126.8,37.7"], "west,south,east,north"),
        (wanted[:3], "needs --box and --region"),
    ):  # fmt: skip
        refused = command(arguments, **({} if arguments is wanted else {"ITS_API_KEY": "wrong-key"}))
        assert refused.returncode == 1 and message in refused.stderr and len(refused.stderr.splitlines()) == 1
    wrong = command(wanted, ITS_API_KEY="wrong-key")
    assert "HTTP 403; is the key right" in wrong.stderr and "wrong-key" not in wrong.stderr
