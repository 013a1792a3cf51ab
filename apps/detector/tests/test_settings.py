import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from koren_detector.settings import SettingsError, load_settings

ARM = {
    "polygon": [[0, 0], [400, 0], [400, 300]],
    "road": {"ko": "강남대로", "en": "Gangnam-daero"},
    "direction": {"ko": "북쪽", "en": "northbound"},
    "link": "1220012300",
}


def values(tmp_path: Path) -> dict[str, Any]:
    secret = tmp_path / "password"
    secret.write_text("pa/ss word\n")
    return {
        "cameras": [
            {
                "id": "cctv-seoul-01",
                "url": "rtsp://cctv:8554/seoul",
                "region": "seoul",
                "name": {"ko": "세종대로 사거리", "en": "Sejong-daero junction"},
                "latitude": 37.57,
                "longitude": 126.977,
                "road": {"ko": "세종대로", "en": "Sejong-daero"},
                "direction": {"ko": "시청 방향", "en": "towards City Hall"},
                "ground": [[34.2, -6.5, 490.9], [1.8, 2.1, 307.9], [0.024, 0.0276, 1.0]],
            }
        ],
        "broker": {"host": "central-cp", "port": 8883, "ca": "/c", "cert": "/t", "key": "/k"},
        "model": "/opt/model/nanodet.json",
        "state": "/var/lib/koren-detector",
        "fps": 4,
        "network_width": 416,
        "metrics_address": "127.0.0.1",
        "metrics_port": 9101,
        "rtsp_user": "detector",
        "rtsp_password_file": str(secret),
    }


def load(tmp_path: Path, changed: dict[str, Any]) -> Any:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(changed))
    return load_settings(path)


def test_credentials_are_in_the_stream_address_and_nowhere_else(tmp_path: Path) -> None:
    settings = load(tmp_path, values(tmp_path))

    assert settings.stream_url(settings.cameras[0]) == ("rtsp://detector:pa%2Fss%20word@cctv:8554/seoul")
    assert "pa/ss" not in repr(settings)
    assert settings.cameras[0].url == "rtsp://cctv:8554/seoul"


def test_a_login_of_a_cameras_own_is_for_that_camera(tmp_path: Path) -> None:
    changed = values(tmp_path)
    second = dict(changed["cameras"][0], id="cctv-seoul-02", url="https://its/live.m3u8")
    changed["cameras"] += [second, dict(second, id="cctv-seoul-03")]
    changed["logins_file"] = logins(tmp_path, {"cctv-seoul-02": {"user": "뷰어@1", "password": "p/:@?#% 비밀"}})

    settings = load(tmp_path, changed)

    urls = [settings.stream_url(camera) for camera in settings.cameras]
    assert urls[0].startswith("rtsp://detector:")
    assert urlsplit(urls[1]).hostname == "its"
    assert unquote(urlsplit(urls[1]).password or "") == "p/:@?#% 비밀"
    assert unquote(urlsplit(urls[1]).username or "") == "뷰어@1"
    assert urls[2] == "https://its/live.m3u8", "what RTSP cameras ask for is nobody else's"
    assert "비밀" not in repr(settings)


def logins(tmp_path: Path, entries: Any) -> str:
    (tmp_path / "logins.json").write_text(json.dumps(entries))
    return str(tmp_path / "logins.json")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"cctv-seoul-09": {"user": "u", "password": "secret"}}, "there is no camera cctv-seoul-09"),
        ({"cctv-seoul-01": {"user": "u"}}, "cctv-seoul-01 must have user and password"),
        ({"cctv-seoul-01": {"user": "a:b", "password": "secret"}}, "may not be empty nor hold a colon"),
        ({"cctv-seoul-01": {"user": "u", "password": "secret\n"}}, "line breaks"),
        ({"cctv-seoul-01": {"user": "u", "password": "secret" * 30}}, "more than 127 characters"),
        (["secret"], "must hold an object"),
    ],
)
def test_a_login_that_can_not_be_sent_is_refused_and_not_shown(tmp_path: Path, entries: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as refusal:
        load(tmp_path, values(tmp_path) | {"logins_file": logins(tmp_path, entries)})

    assert "secret" not in str(refusal.value)


def test_systemd_says_where_state_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/private/koren-detector")

    assert load(tmp_path, values(tmp_path)).state == Path("/var/lib/private/koren-detector")


def test_a_camera_may_have_no_ground(tmp_path: Path) -> None:
    changed = values(tmp_path)
    del changed["cameras"][0]["ground"]

    assert load(tmp_path, changed).cameras[0].ground is None


def test_a_camera_may_know_the_arms_of_its_junction(tmp_path: Path) -> None:
    changed = values(tmp_path)
    changed["cameras"][0]["arms"] = [ARM]

    (arm,) = load(tmp_path, changed).cameras[0].arms
    assert (arm.link, arm.direction.en, arm.polygon.tolist()) == ("1220012300", "northbound", ARM["polygon"])


def test_incidents_wait_for_a_person_unless_the_camera_says_otherwise(tmp_path: Path) -> None:
    changed = values(tmp_path)
    assert load(tmp_path, changed).cameras[0].post == "confirm"

    for post in ("confirm", "automatic", "never"):
        changed["cameras"][0]["post"] = post
        assert load(tmp_path, changed).cameras[0].post == post


def test_clips_are_kept_only_where_the_settings_say_so(tmp_path: Path) -> None:
    changed = values(tmp_path)
    assert load(tmp_path, changed).clips is None

    changed["clips"] = {"kept_days": 30, "max_mb": 1.5, "hold_s": 3600}
    assert load(tmp_path, changed).clips.most_bytes == 1_500_000


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("fps",), 50, "fps: 50 must be between 1 and 10"),
        (("fps",), "4", "fps must be"),
        (("cameras",), [], "cameras: the list is empty"),
        (("cameras", 0, "name"), {"ko": "이름"}, r"cameras\[0\].name.en is missing"),
        (("cameras", 0, "ground"), [[0, 0, 0]] * 3, r"cameras\[0\].ground: the ground homography"),
        (("cameras", 0, "url"), "rtsp://u:secret@h/x", "url must not hold a password"),
        (("cameras", 0, "url"), "rtmp://h/x", "url must begin with rtsp://, http://, https://"),
        (("cameras", 0, "arms"), [{"polygon": [[1, 2]]}], r"arms\[0\]\.road must be dict|road is missing"),
        (("cameras", 0, "arms"), [ARM | {"polygon": [[1, 2], [3, 4]]}], r"arms\[0\]\.polygon: a polygon is a list"),
        (("cameras", 0, "arms"), [ARM | {"link": 1220012300}], "link must be a text; put it into quotation marks"),
        (("cameras", 0, "transport"), "sctp", "transport: 'sctp' must be one of tcp, udp"),
        (("cameras", 0, "ground_size"), [1920], "ground_size must be the picture's width and height"),
        (
            ("cameras", 0, "post"),
            "auto",
            r"cameras\[0\].post of camera cctv-seoul-01: 'auto' must be one of confirm, automatic, never",
        ),
        (("clips",), {"kept_days": 0, "max_mb": 1, "hold_s": 1}, "clips.kept_days: 0 must be above 0"),
        (("clips",), {"kept_days": 1, "max_mb": 1}, "clips.hold_s is missing"),
        (("cameras", 0, "post"), None, r"cameras\[0\].post of camera cctv-seoul-01: None must be one of"),
        (("broker", "port"), "8883", "broker.port must be int, not str"),
        (("rtsp_password_file",), "/nowhere", "rtsp_password_file /nowhere can't be read"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, path: tuple[Any, ...], value: Any, message: str) -> None:
    changed = values(tmp_path)
    entry: Any = changed
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value

    with pytest.raises(SettingsError, match=message):
        load(tmp_path, changed)


def test_two_cameras_of_one_id_are_refused(tmp_path: Path) -> None:
    changed = values(tmp_path)
    changed["cameras"] *= 2

    with pytest.raises(SettingsError, match="cctv-seoul-01 is there twice"):
        load(tmp_path, changed)


def test_a_camera_reports_accidents_alone_unless_it_names_other_events(tmp_path: Path) -> None:
    changed = values(tmp_path)
    camera = changed["cameras"][0]
    assert load(tmp_path, changed).cameras[0].events == {"accident"}

    camera["arms"] = [ARM | {"heading": [[500, 500], [520, 420]]}]
    camera["crossings"] = [[[0, 0], [50, 0], [50, 50]]]
    camera["events"] = ["accident", "stopped_vehicle", "person_on_road", "wrong_way"]
    settings = load(tmp_path, changed).cameras[0]

    assert settings.events == {"accident", "stopped-vehicle", "person-on-road", "wrong-way"}
    assert settings.arms[0].heading.tolist() == [[500, 500], [520, 420]]
    assert len(settings.crossings) == 1


HEADED = ARM | {"heading": [[500, 500], [520, 420]]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"events": []},
            r"events of camera cctv-seoul-01: \[\] must be a list of one or more of accident, stopped_vehicle",
        ),
        ({"events": ["crash"]}, "must be a list of one or more of"),
        ({"events": "accident"}, "must be a list of one or more of"),
        ({"events": [["accident"]]}, "must be a list of one or more of"),
        ({"events": ["person_on_road"], "ground": None}, "need the camera's ground; calibrate it"),
        ({"events": ["wrong_way"], "ground": None, "arms": [HEADED]}, "need the camera's ground; calibrate it"),
        ({"events": ["wrong_way"]}, "give at least one arm its heading"),
        ({"events": ["wrong_way"], "arms": [ARM]}, "give at least one arm its heading"),
        (
            {"events": ["wrong_way"], "arms": [ARM, ARM | {"heading": [[5, -9000], [9, -9000]]}]},
            r"heading of arms\[1\]: .*horizon",
        ),
        ({"arms": [ARM | {"heading": [[1, 2]]}]}, r"arms\[0\].heading: a heading is two points"),
        ({"crossings": [[[0, 0], [5, 5]]]}, r"crossings\[0\]: a polygon is a list of three"),
    ],
)
def test_events_that_a_camera_can_not_report_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    changed = values(tmp_path)
    changed["cameras"][0] |= changes
    with pytest.raises(SettingsError, match=message):
        load(tmp_path, changed)
