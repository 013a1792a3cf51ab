import string
from pathlib import Path
from typing import Any

import pytest
from conftest import make_event, seen
from post_text import wording
from post_text.incident import Incident


def post(*args: Any, limit: int = 300, **data: Any) -> wording.Texts:
    return wording.post(Incident(make_event(*args, **data)), limit)


def test_an_accident() -> None:
    texts = post()

    assert texts.ko == (
        "[교통사고] 강남대로(신논현역 방면)에서 추돌 사고가 감지되었습니다.\n"
        "자동 감지, 아직 확인되지 않음 · 11월 24일 20:18 기준 · 심각도 심각(추정)\n"
        "#교통사고 #서울"
    )
    assert texts.en == (
        "[Accident] Rear-end collision on Gangnam-daero (towards Sinnonhyeon Station).\n"
        "Automatic detection, not yet confirmed · as of 24 Nov 20:18 KST"
        " · severity severe (estimate)\n"
        "#TrafficAccident #Seoul"
    )


def test_all_that_an_accident_may_say() -> None:
    texts = post(limit=1000)

    assert texts.ko.splitlines()[1:3] == [
        "자동 감지, 아직 확인되지 않음 · 11월 24일 20:18 기준 · 심각도 심각(추정)"
        " · 승용차 여러 대와 버스 · 발생 20:16",
        "강남역 사거리 CCTV",
    ]
    assert texts.en.splitlines()[1:3] == [
        "Automatic detection, not yet confirmed · as of 24 Nov 20:18 KST"
        " · severity severe (estimate) · several cars and a bus · began 20:16",
        "CCTV Gangnam Station Junction",
    ]


def test_an_accident_that_a_person_confirmed() -> None:
    texts = post(released_by="console:kim")

    assert "\n담당자가 확인함 · 11월 24일 20:18 기준" in texts.ko and "자동 감지" not in texts.ko
    assert "\nConfirmed by an operator · as of" in texts.en and "utomatic" not in texts.en
    assert "kim" not in texts.joined()


def test_an_end() -> None:
    texts = post("cleared", 2, limit=1000)

    assert texts.ko == (
        "[상황 종료] 강남대로(신논현역 방면) 추돌 사고 상황이 종료되었습니다.\n"
        "자동 감지, 아직 확인되지 않음 · 종료 11월 24일 20:48 · 발생 11월 24일 20:16 · 32분 경과\n"
        "강남역 사거리 CCTV\n"
        "#교통사고 #서울"
    )
    assert texts.en == (
        "[Cleared] Rear-end collision on Gangnam-daero (towards Sinnonhyeon Station).\n"
        "Automatic detection, not yet confirmed · cleared 24 Nov 20:48 KST"
        " · began 24 Nov 20:16 KST · after 32 min\n"
        "CCTV Gangnam Station Junction\n"
        "#TrafficAccident #Seoul"
    )


@pytest.mark.parametrize(
    ("about", "ko", "en"),
    [
        ("stopped-vehicle", "정지 차량이", "Stopped vehicle"),
        ("person-on-road", "차도 위 보행자가", "Person in the roadway"),
        ("wrong-way", "역주행 차량이", "Wrong-way vehicle"),
    ],
)
def test_what_is_no_accident_says_neither_accident_nor_severity(about: str, ko: str, en: str) -> None:
    texts = post(about=about, objects=[seen("car", 1)], limit=1000)

    assert texts.ko == (
        f"[돌발상황] 강남대로(신논현역 방면)에서 {ko} 감지되었습니다.\n"
        "자동 감지, 아직 확인되지 않음 · 11월 24일 20:18 기준 · 승용차 · 발생 20:16\n"
        "강남역 사거리 CCTV\n"
        "#돌발상황 #서울"
    )
    assert texts.en == (
        f"[Road hazard] {en} on Gangnam-daero (towards Sinnonhyeon Station).\n"
        "Automatic detection, not yet confirmed · as of 24 Nov 20:18 KST · a car · began 20:16\n"
        "CCTV Gangnam Station Junction\n"
        "#RoadHazard #Seoul"
    )
    over = post("cleared", 2, about=about, limit=1000)
    assert over.ko.startswith(f"[상황 종료] 강남대로(신논현역 방면) {ko[:-1]} 상황이 종료되었습니다.\n")
    assert over.en.startswith(f"[Cleared] {en} on Gangnam-daero (towards Sinnonhyeon Station).\n")
    assert "사고" not in texts.ko + over.ko and "ccident" not in texts.en + over.en


def test_an_end_on_the_next_day_names_the_day() -> None:
    texts = post("cleared", 2, cleared_at="2026-11-24T16:30:00Z", limit=1000)

    assert "종료 11월 25일 01:30 · 발생 11월 24일 20:16 · 5시간 13분 경과" in texts.ko
    assert "cleared 25 Nov 01:30 KST · began 24 Nov 20:16 KST" in texts.en


def test_without_a_road_the_camera_is_the_place() -> None:
    event = make_event()
    del event["data"]["camera"]["road"]
    texts = wording.post(Incident(event), 300)

    assert texts.ko.startswith("[교통사고] 강남역 사거리 CCTV 화면에서 추돌 사고가 감지되었습니다.\n")
    assert texts.en.startswith("[Accident] Rear-end collision in view of CCTV Gangnam Station Junction.\n")
    assert "신논현역" not in texts.ko and "Sinnonhyeon" not in texts.en


def test_without_a_direction_the_road_is_the_place() -> None:
    event = make_event()
    del event["data"]["camera"]["direction"]
    texts = wording.post(Incident(event), 300)

    assert texts.ko.startswith("[교통사고] 강남대로에서 추돌")
    assert texts.en.startswith("[Accident] Rear-end collision on Gangnam-daero.")


@pytest.mark.parametrize("cleared_at", ["2026-11-24T11:16:40Z", "2026-11-24T11:15:00Z"])
def test_less_than_a_minute_is_no_duration(cleared_at: str) -> None:
    texts = post("cleared", 2, cleared_at=cleared_at, limit=1000)

    assert "경과" not in texts.ko and "after" not in texts.en


def test_what_is_not_known_is_not_said() -> None:
    texts = post(objects=[seen("car", 1, involved=False)], what="unknown")

    assert "승용차" not in texts.ko and "car" not in texts.en
    assert "에서 사고가 감지되었습니다." in texts.ko and "[Accident] Accident on" in texts.en


@pytest.mark.parametrize(
    ("names", "ko", "en"),
    [
        (["car"], "승용차", "a car"),
        (["bus"] * 2, "버스 여러 대", "several buses"),
        (["person"] * 2 + ["bicycle"], "자전거와 여러 사람", "a bicycle and several people"),
        (["car", "van", "truck", "truck"], "승용차, 승합차와 트럭 여러 대",
         "a car, a van and several trucks"),
    ],
)  # fmt: skip
def test_who_is_involved(names: list[str], ko: str, en: str) -> None:
    incident = Incident(make_event(objects=[seen(name, n) for n, name in enumerate(names)]))

    assert wording.facts(incident, "ko")["involved"] == ko
    assert wording.facts(incident, "en")["involved"] == en


@pytest.mark.parametrize(
    ("word", "pair", "after"),
    [
        ("사고", "이/가", "가"),
        ("트럭", "이/가", "이"),
        ("터널", "을/를", "을"),
        ("터널", "으로/로", "로"),
        ("심각", "으로/로", "으로"),
        ("경미", "으로/로", "로"),
        ("사람 1명", "과/와", "과"),
        ("강남대로(북쪽)", "은/는", "는"),
        ("(북쪽)", "은/는", "은"),
        ("1", "으로/로", "로"),
        ("2", "이/가", "가"),
        ("국도 3", "이/가", "이"),
        ("10", "이/가", "이"),
        ("IC", "이/가", "가"),
        ("Gangnam", "은/는", "은"),
        ("Hill", "으로/로", "로"),
        ("'심각'", "으로/로", "으로"),
        ("…", "이/가", "가"),
    ],
)
def test_the_particle_follows_the_sound(word: str, pair: str, after: str) -> None:
    assert wording.with_particle(word, pair) == word + after


def test_a_long_text_loses_its_least_first() -> None:
    texts = post(limit=260)

    assert "CCTV" not in texts.ko and "심각도" not in texts.ko and "severity" not in texts.en
    assert "아직 확인되지 않음" in texts.ko and "not yet confirmed" in texts.en
    assert texts.ko.endswith("#교통사고 #서울") and texts.en.endswith("#TrafficAccident #Seoul")
    assert "감지되었습니다." in texts.ko and "Gangnam-daero" in texts.en


@pytest.mark.parametrize("limit", range(160, 320, 20))
def test_no_text_is_longer_than_its_limit(limit: int) -> None:
    event = make_event("updated", 2)
    event["data"]["camera"]["road"] = {"ko": "가" * 200, "en": "W" * 200}

    assert len(wording.post(Incident(event), limit).joined()) <= limit


def test_a_name_that_begins_like_a_tag_is_none() -> None:
    event = make_event()
    event["data"]["camera"]["name"] = {"ko": "#1 카메라 " + "가" * 190, "en": "#1 Gate"}

    long = wording.post(Incident(event), 1000).joined()
    short = wording.post(Incident(event), 210).joined()

    assert {tag for _, _, tag in wording.tags(long)} == {
        "교통사고",
        "서울",
        "TrafficAccident",
        "Seoul",
    }
    assert "#1" not in short


@pytest.mark.parametrize(
    "whole",
    ["👨‍👩‍👧‍👦", "🏃🏽‍♀️", "🇰🇷", "é̂", "क्ष", "กำ", "한\u11ab", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "1️⃣"],
)
def test_what_readers_take_for_one_character_is_never_cut_in_two(whole: str) -> None:
    event = make_event(jpeg=None)
    event["data"]["camera"]["road"] = {"ko": "길", "en": whole * 20}
    event["data"]["camera"]["direction"] = {"ko": "쪽", "en": "E"}

    for limit in range(150, 300):
        cut, ellipsis, _ = wording.post(Incident(event), limit).en.partition("…")
        _, _, road = cut.partition("] Rear-end collision on ")
        if ellipsis:
            assert len(road.partition(" ")[0]) % len(whole) == 0, (limit, road)


def test_the_description_of_an_image_is_cut_between_characters() -> None:
    family = "👨‍👩‍👧‍👦"
    for start in range(len(family)):
        event = make_event()
        event["data"]["camera"]["name"] = {"ko": "가" * start + family * 150, "en": "x"}
        text = wording.alt(Incident(event))
        assert len(text) <= wording.ALT_MAX and (len(text) - start) % len(family) == 0


def test_an_impossible_limit_is_an_error() -> None:
    with pytest.raises(ValueError, match="#TrafficAccident"):
        post(limit=20)


def test_only_lines_of_tags_have_tags() -> None:
    text = "[사고] 도로 #1\n#교통사고 #서울\n\n#Seoul"

    found = wording.tags(text)

    assert [tag for _, _, tag in found] == ["교통사고", "서울", "Seoul"]
    assert [text.encode()[a:b].decode() for a, b, _ in found] == ["#교통사고", "#서울", "#Seoul"]


def test_a_region_that_is_not_known_is_called_by_its_name() -> None:
    assert post(region="gangneung-2").ko.endswith("#교통사고 #gangneung-2")


def test_the_description_of_an_image_is_in_both_languages() -> None:
    assert wording.alt(Incident(make_event())).splitlines() == [
        "강남역 사거리 CCTV 화면 · 강남대로(신논현역 방면) · 11월 24일 20:18 · 추돌 사고"
        " · 자동 감지, 아직 확인되지 않음 · 승용차 여러 대와 버스가 관련됨",
        "CCTV image of Gangnam Station Junction · Gangnam-daero (towards Sinnonhyeon Station)"
        " · 24 Nov 20:18 KST · Rear-end collision · automatic detection, not yet confirmed"
        " · several cars and a bus involved",
    ]


def test_templates_name_only_facts_that_there_are() -> None:
    known = set()
    for kind in ("detected", "updated", "cleared"):
        known |= set(wording.facts(Incident(make_event(kind)), "ko"))
    known.add("involved")
    templates = sorted((Path(wording.__file__).parent / "templates").iterdir())

    assert len(templates) == 6
    for template in templates:
        named = {name for _, name, _, _ in string.Formatter().parse(template.read_text()) if name}
        assert named <= known, template.name
