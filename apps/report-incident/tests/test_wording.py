import string
from pathlib import Path
from typing import Any

import pytest
import wording
from conftest import make_event, seen
from incident import Incident


def post(*args: Any, limit: int = 300, **data: Any) -> wording.Texts:
    return wording.post(Incident(make_event(*args, **data)), limit)


def test_an_accident() -> None:
    texts = post()

    assert texts.ko == (
        "[교통사고] 강남대로(신논현역 방면)에서 추돌 사고가 발생했습니다.\n"
        "11월 24일 20:16 · 심각도 심각(추정, 신뢰도 87%) · 승용차 2대와 버스 1대\n"
        "강남역 사거리 CCTV\n"
        "#교통사고 #서울"
    )
    assert texts.en == (
        "[Accident] Rear-end collision on Gangnam-daero (towards Sinnonhyeon Station).\n"
        "24 Nov 20:16 KST · severity severe (estimate, 87% confidence) · 2 cars and 1 bus\n"
        "#TrafficAccident #Seoul"
    )


def test_an_end() -> None:
    texts = post("cleared", 2)

    assert texts.ko == (
        "[상황 종료] 강남대로(신논현역 방면) 추돌 사고 상황이 종료되었습니다.\n"
        "발생 11월 24일 20:16 · 종료 20:48 · 32분 경과\n"
        "강남역 사거리 CCTV\n"
        "#교통사고 #서울"
    )
    assert texts.en.startswith(
        "[Cleared] The rear-end collision on Gangnam-daero (towards Sinnonhyeon Station) has been"
        " cleared.\nBegan 24 Nov 20:16 KST · cleared 20:48 · after 32 min\n"
    )


def test_an_end_on_the_next_day_names_the_day() -> None:
    texts = post("cleared", 2, cleared_at="2026-11-24T16:30:00Z")

    assert "종료 11월 25일 01:30 · 5시간 13분 경과" in texts.ko
    assert "cleared 25 Nov 01:30 KST" in texts.en


@pytest.mark.parametrize("cleared_at", ["2026-11-24T11:16:40Z", "2026-11-24T11:15:00Z"])
def test_less_than_a_minute_is_no_duration(cleared_at: str) -> None:
    texts = post("cleared", 2, cleared_at=cleared_at)

    assert "경과" not in texts.ko and "after" not in texts.en


def test_what_is_not_known_is_not_said() -> None:
    texts = post(objects=[seen("car", 1, involved=False)], what="unknown")

    assert "승용차" not in texts.ko and "car" not in texts.en
    assert "에서 사고가 발생했습니다." in texts.ko and "[Accident] Accident on" in texts.en


@pytest.mark.parametrize(
    ("names", "ko", "en"),
    [
        (["car"], "승용차 1대", "1 car"),
        (["bus"] * 2, "버스 2대", "2 buses"),
        (["person"] * 2 + ["bicycle"], "자전거 1대와 사람 2명", "1 bicycle and 2 people"),
        (["car", "van", "truck", "truck"], "승용차 1대, 승합차 1대와 트럭 2대",
         "1 car, 1 van and 2 trucks"),
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


@pytest.mark.parametrize(
    ("confidence", "said"), [(0.999, "99"), (0.29, "29"), (1, "100"), (0, "0")]
)
def test_confidence_is_never_rounded_up(confidence: float, said: str) -> None:
    incident = Incident(make_event(confidence=confidence))

    assert wording.facts(incident, "en")["confidence"] == said


def test_a_long_text_loses_its_least_first() -> None:
    texts = post(limit=260)

    assert "CCTV" not in texts.ko and "2대" not in texts.ko and "2 cars" not in texts.en
    assert texts.ko.endswith("#교통사고 #서울") and texts.en.endswith("#TrafficAccident #Seoul")
    assert "발생했습니다." in texts.ko and "Gangnam-daero" in texts.en


@pytest.mark.parametrize("limit", range(100, 320, 20))
def test_no_text_is_longer_than_its_limit(limit: int) -> None:
    event = make_event("updated", 2)
    event["data"]["camera"]["road"] = {"ko": "가" * 200, "en": "W" * 200}

    assert len(wording.post(Incident(event), limit).joined()) <= limit


def test_a_name_that_begins_like_a_tag_is_none() -> None:
    event = make_event()
    event["data"]["camera"]["name"] = {"ko": "#1 카메라 " + "가" * 190, "en": "#1 Gate"}

    long = wording.post(Incident(event), 1000).joined()
    short = wording.post(Incident(event), 200).joined()

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

    for limit in range(110, 300):
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


def test_texts_survive_being_joined() -> None:
    texts = post()

    assert wording.Texts.split(texts.joined()).as_dict() == texts.as_dict()


def test_only_lines_of_tags_have_tags() -> None:
    text = "[사고] 도로 #1\n#교통사고 #서울\n\n#Seoul"

    found = wording.tags(text)

    assert [tag for _, _, tag in found] == ["교통사고", "서울", "Seoul"]
    assert [text.encode()[a:b].decode() for a, b, _ in found] == ["#교통사고", "#서울", "#Seoul"]


def test_a_region_that_is_not_known_is_called_by_its_name() -> None:
    assert post(region="gangneung-2").ko.endswith("#교통사고 #gangneung-2")


def test_the_description_of_an_image_is_in_both_languages() -> None:
    assert wording.alt(Incident(make_event())).splitlines() == [
        "강남역 사거리 CCTV 화면 · 강남대로(신논현역 방면) · 11월 24일 20:16 · 추돌 사고 현장"
        " · 승용차 2대와 버스 1대가 관련됨",
        "CCTV image of Gangnam Station Junction · Gangnam-daero (towards Sinnonhyeon Station)"
        " · 24 Nov 20:16 KST · Rear-end collision · 2 cars and 1 bus involved",
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
