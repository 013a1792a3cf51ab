"""Whatever event the schema allows: its post says what the event says and no more, and keeps each
network's limits, or the event is rejected."""

import json
from datetime import datetime, timedelta
from typing import Any
from unicodedata import is_normalized

import bluesky
import regex
from events import MESSAGES
from https import to_json
from hypothesis import given
from post_text import networks, wording
from post_text.incident import Incident
from post_text.x_length import weight

from koren_runtime import Reject
from koren_runtime.contract import to_event

# What app.bsky.feed.post says, in lexicon's words: maxGraphemes and maxLength.
BLUESKY_GRAPHEMES = 300
BLUESKY_BYTES = 3000
X_WEIGHT = 280
ALT_CHARACTERS = 1000

# In the words of the posts, written down a second time.
WHAT = {
    "rear_end": ("추돌 사고", "rear-end collision"),
    "side": ("측면 충돌 사고", "side collision"),
    "head_on": ("정면 충돌 사고", "head-on collision"),
    "single": ("단독 사고", "single-vehicle accident"),
    "unknown": ("사고", "accident"),
    "stopped-vehicle": ("정지 차량", "stopped vehicle"),
    "person-on-road": ("차도 위 보행자", "person in the roadway"),
    "wrong-way": ("역주행 차량", "wrong-way vehicle"),
}
SEVERITY = {"minor": "경미", "moderate": "보통", "severe": "심각"}
CLASSES = {
    "car": ("승용차", "cars?"),
    "van": ("승합차", "vans?"),
    "truck": ("트럭", "trucks?"),
    "bus": ("버스", "bus(?:es)?"),
    "motorcycle": ("오토바이", "motorcycles?"),
    "bicycle": ("자전거", "bicycles?"),
    "person": ("사람", "person|people"),
}
NAMES = {
    "name": {"ko": "카메라가", "en": "Camera A"},
    "road": {"ko": "도로나", "en": "Road B"},
    "direction": {"ko": "방향다", "en": "Towards C"},
}

TID = regex.compile("[234567abcdefghij][234567abcdefghijklmnopqrstuvwxyz]{12}")


def graphemes(text: str) -> list[str]:
    found: list[str] = regex.findall(r"\X", text)
    return found


def incident_of(message: dict[str, Any]) -> Incident | None:
    """The incident that a handler gets; None when it is rejected with a reason."""
    try:
        return Incident(to_event(json.loads(json.dumps(message))))
    except Reject as rejected:
        assert str(rejected).startswith("the event's ")
        return None


@given(message=MESSAGES)
def test_bluesky_takes_the_post_of_every_event(message: dict[str, Any]) -> None:
    incident = incident_of(message)
    if incident is None:
        return
    texts = networks.on_bluesky(incident)
    record = json.loads(to_json(bluesky._post(incident, texts, None, None)))

    text = record["text"]
    assert len(graphemes(text)) <= BLUESKY_GRAPHEMES and len(text.encode()) <= BLUESKY_BYTES
    assert is_normalized("NFC", text)
    for facet in record["facets"]:
        index = facet["index"]
        tagged = text.encode()[index["byteStart"] : index["byteEnd"]].decode()
        assert tagged == "#" + facet["features"][0]["tag"] and len(tagged) > 1
    assert TID.fullmatch(bluesky.first_key(incident))
    assert TID.fullmatch(bluesky.reply_key(incident))


@given(message=MESSAGES)
def test_x_takes_the_post_of_every_event(message: dict[str, Any]) -> None:
    incident = incident_of(message)
    if incident is None:
        return
    text = networks.on_x(incident).joined()

    assert 0 < weight(text) <= X_WEIGHT
    text.encode()


def clock(moment: str) -> tuple[str, str]:
    """A time of an event in Korea, as both languages write it."""
    here = datetime.fromisoformat(moment) + timedelta(hours=9)
    return (
        f"{here.month}월 {here.day}일 {here:%H:%M}",
        f"{here.day} {here:%b} {here:%H:%M} KST",
    )


def said(message: dict[str, Any]) -> tuple[list[str], list[str]]:
    """All lines that the posts of an event may have, in Korean and in English, as patterns."""
    data, camera = message["data"], message["data"]["camera"]
    cleared = message["type"].endswith("cleared")
    road = [NAMES["road"][language] if "road" in camera else "" for language in ("ko", "en")]
    if road[0] and "direction" in camera:
        road = ["도로나(방향다)", "Road B (Towards C)"]
    place = (road[0] or "카메라가 CCTV 화면", f"on {road[1]}" if road[1] else "in view of CCTV Camera A")
    about = message["type"].split(".")[-2]
    is_accident = about == "accident"
    what = WHAT[data["what"] if is_accident else about]
    confirmed = "releasedby" in message
    parts_ko = ["담당자가 확인함" if confirmed else "자동 감지, 아직 확인되지 않음"]
    parts_en = [
        "Confirmed by an operator" if confirmed else "Automatic detection, not yet confirmed"
    ]
    began = clock(data["started_at"])
    if cleared:
        over = clock(data["cleared_at"])
        head = (f"[상황 종료] {place[0]} {what[0]} 상황이 종료되었습니다.", f"[Cleared] {what[1]} {place[1]}.")
        lasted = datetime.fromisoformat(data["cleared_at"]) - datetime.fromisoformat(
            data["started_at"]
        )
        hours, minutes = divmod(int(lasted.total_seconds() // 60), 60)
        parts_ko += [f"종료 {over[0]}", f"발생 {began[0]}"]
        parts_en += [f"cleared {over[1]}", f"began {began[1]}"]
        if hours >= 0 and hours + minutes > 0:
            units = ((hours, "시간", " h"), (minutes, "분", " min"))
            parts_ko.append(" ".join(f"{n}{ko}" for n, ko, _ in units if n) + " 경과")
            parts_en.append("after " + " ".join(f"{n}{en}" for n, _, en in units if n))
    else:
        now = clock(message["time"])
        label = ("교통사고", "Accident") if is_accident else ("돌발상황", "Road hazard")
        particle = "이" if what[0].endswith("차량") else "가"
        head = (
            f"[{label[0]}] {place[0]}에서 {what[0]}{particle} 감지되었습니다.",
            f"[{label[1]}] {what[1]} {place[1]}.",
        )
        parts_ko.append(f"{now[0]} 기준")
        parts_en.append(f"as of {now[1]}")
        if is_accident:
            parts_ko.append(f"심각도 {SEVERITY[data['severity']]}(추정)")
            parts_en.append(f"severity {data['severity']} (estimate)")
        if began != now:
            days = {
                (datetime.fromisoformat(moment) + timedelta(hours=9)).date()
                for moment in (data["started_at"], message["time"])
            }
            same_day = len(days) == 1
            parts_ko.append("발생 " + (began[0].split()[-1] if same_day else began[0]))
            parts_en.append("began " + (began[1].split()[-2] if same_day else began[1]))
    lines_ko, lines_en = [head[0]], [head[1]]
    lines_ko.append(" · ".join(parts_ko))
    lines_en.append(" · ".join(parts_en))
    if road[0]:
        lines_ko.append("카메라가 CCTV")
        lines_en.append("CCTV Camera A")
    return lines_ko, lines_en


@given(message=MESSAGES)
def test_a_post_says_what_its_event_says_and_no_more(message: dict[str, Any]) -> None:
    camera = message["data"]["camera"]
    camera |= {name: text for name, text in NAMES.items() if name in camera}
    incident = incident_of(message)
    if incident is None:
        return
    counts: dict[str, int] = {}
    for seen in message["data"].get("objects", ()):
        if seen["involved"] and incident.kind != "cleared":
            counts[seen["class"]] = counts.get(seen["class"], 0) + 1

    texts = wording.post(incident, 10_000)
    for language, lines in zip((0, 1), said(message), strict=True):
        *shown, tags = (texts.ko, texts.en)[language].splitlines()
        assert regex.fullmatch(r"#\w+ #\S+", tags)
        found = [part for part in shown[1].split(" · ") if part not in lines[1].split(" · ")]
        if not counts:
            assert found == []
        else:
            # Who is involved is the one thing more, without any number.
            (involved,) = found
            shown[1] = " · ".join(part for part in shown[1].split(" · ") if part != involved)
            assert not regex.search(r"\d", involved)
            for name, words in CLASSES.items():
                one = regex.search(words[language], involved)
                assert (one is not None) == (name in counts), involved
            several = involved.count(("여러", "several")[language])
            assert several == sum(n > 1 for n in counts.values())
        assert [line.lower() for line in shown] == [line.lower() for line in lines]


@given(message=MESSAGES)
def test_the_shortest_post_still_says_who_checked_it(message: dict[str, Any]) -> None:
    incident = incident_of(message)
    if incident is None:
        return
    for text_on in networks.ON.values():
        texts = text_on(incident)
        second = (texts.ko.split("\n")[1], texts.en.split("\n")[1])
        if "releasedby" in message:
            assert second[0].startswith("담당자가 확인함")
            assert second[1].startswith("Confirmed by an operator")
        else:
            assert second[0].startswith("자동 감지, 아직 확인되지 않음")
            assert second[1].startswith("Automatic detection, not yet confirmed")


@given(message=MESSAGES)
def test_no_cut_goes_through_what_readers_take_for_one_character(message: dict[str, Any]) -> None:
    incident = incident_of(message)
    if incident is None:
        return
    alt = wording.alt(incident)
    assert len(alt) <= ALT_CHARACTERS and alt.encode()

    whole = wording.post(incident, 10_000)
    for limit in (networks.BLUESKY_GRAPHEMES, 240):
        cut = wording.post(incident, limit)
        for before, after in ((whole.ko, cut.ko), (whole.en, cut.en)):
            first, _, _ = after.partition("\n")
            if first.endswith("…") and not before.startswith(first):
                kept = first.removesuffix("…")
                assert before.startswith(kept)
                assert graphemes(before)[: len(graphemes(kept))] == graphemes(kept)
