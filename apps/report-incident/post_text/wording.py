"""An incident in Korean and English, from the templates beside this file.

A template is lines of segments with ` · ` between them, the most important first. A segment that
names a fact which the event does not have is left out: nothing is made up. A text that is too long
loses its last segments. Its first line, the first segment of its second, which says who checked the
rest, and its last line, the tags, stay.

Numbers of objects are not stated: a camera that is not measured out counts some twice and does not
see others.

A placeholder is `{fact}`, `{fact:capital}` for a first letter in upper case, or `{fact:이/가}` for
the Korean particle that the fact's last syllable asks for.
"""

from datetime import datetime, timedelta, timezone
from os.path import dirname, join

from .graphemes import boundary
from .incident import ACCIDENT, LANGUAGES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .incident import Incident

    _Lines = list[list[str]]

ALT_MAX = 1000
_BETWEEN = " · "
_TEMPLATES = join(dirname(__file__), "templates")
_KST = timezone(timedelta(hours=9), "KST")

_WHAT = {
    "ko": {
        "rear_end": "추돌 사고",
        "side": "측면 충돌 사고",
        "head_on": "정면 충돌 사고",
        "single": "단독 사고",
        "unknown": "사고",
        "stopped-vehicle": "정지 차량",
        "person-on-road": "차도 위 보행자",
        "wrong-way": "역주행 차량",
    },
    "en": {
        "rear_end": "rear-end collision",
        "side": "side collision",
        "head_on": "head-on collision",
        "single": "single-vehicle accident",
        "unknown": "accident",
        "stopped-vehicle": "stopped vehicle",
        "person-on-road": "person in the roadway",
        "wrong-way": "wrong-way vehicle",
    },
}
# What a post begins and ends with: the label, and the tag. One of an accident, one of all else.
_LABEL = {
    "ko": {True: ("교통사고", "교통사고"), False: ("돌발상황", "돌발상황")},
    "en": {True: ("Accident", "TrafficAccident"), False: ("Road hazard", "RoadHazard")},
}
_SEVERITY = {
    "ko": {"minor": "경미", "moderate": "보통", "severe": "심각"},
    "en": {"minor": "minor", "moderate": "moderate", "severe": "severe"},
}
_CHECKED = {
    "ko": {False: "자동 감지, 아직 확인되지 않음", True: "담당자가 확인함"},
    "en": {False: "automatic detection, not yet confirmed", True: "confirmed by an operator"},
}
_BY_MACHINE = {"ko": "자동 생성 설명", "en": "Automatic description"}
# Class to how one and several of it are called.
_OBJECTS = {
    "ko": {
        "car": ("승용차", "승용차 여러 대"),
        "van": ("승합차", "승합차 여러 대"),
        "truck": ("트럭", "트럭 여러 대"),
        "bus": ("버스", "버스 여러 대"),
        "motorcycle": ("오토바이", "오토바이 여러 대"),
        "bicycle": ("자전거", "자전거 여러 대"),
        "person": ("사람", "여러 사람"),
    },
    "en": {
        "car": ("a car", "several cars"),
        "van": ("a van", "several vans"),
        "truck": ("a truck", "several trucks"),
        "bus": ("a bus", "several buses"),
        "motorcycle": ("a motorcycle", "several motorcycles"),
        "bicycle": ("a bicycle", "several bicycles"),
        "person": ("a person", "several people"),
    },
}
# Sites of KOREN; a region of another name is called by it.
_REGIONS = {
    "seoul": {"ko": "서울", "en": "Seoul"},
    "pangyo": {"ko": "판교", "en": "Pangyo"},
    "suwon": {"ko": "수원", "en": "Suwon"},
    "chuncheon": {"ko": "춘천", "en": "Chuncheon"},
    "daejeon": {"ko": "대전", "en": "Daejeon"},
    "daegu": {"ko": "대구", "en": "Daegu"},
    "busan": {"ko": "부산", "en": "Busan"},
    "gwangju": {"ko": "광주", "en": "Gwangju"},
    "jeju": {"ko": "제주", "en": "Jeju"},
}
# How the last sound of a word's last letter or digit, as Koreans read it, goes into a final
# consonant: L for ㄹ, C for any other; a word that ends in anything else ends in a vowel.
_READ_WITH_FINAL = {
    "0": "C", "1": "L", "3": "C", "6": "C", "7": "L", "8": "L",
    "l": "L", "r": "L", "m": "C", "n": "C",
}  # fmt: skip


class Texts:
    """The text of a post: the Korean part and the English part."""

    __slots__ = ("en", "ko")

    def __init__(self, ko: str, en: str) -> None:
        self.ko = ko
        self.en = en

    def joined(self) -> str:
        """Both, as they are posted."""
        return f"{self.ko}\n\n{self.en}"

    def as_dict(self) -> dict[str, str]:
        """Language to text."""
        return {"ko": self.ko, "en": self.en}


def post(incident: "Incident", limit: int, length: "Callable[[str], int]" = len) -> Texts:
    """The text to be posted, at most `limit` long by the measure `length`.

    `len` counts at least as many as there are graphemes.
    """
    template = "cleared" if incident.kind == "cleared" else "open"
    lines = {
        language: _fill(template, language, facts(incident, language)) for language in LANGUAGES
    }
    for part in lines.values():
        first = part[0][0]
        # More than the whole text may have: it is not shortened letter by letter.
        if len(first) > limit:
            part[0] = [first[: boundary(first, limit)] + "…"]
    return _fit(lines["ko"], lines["en"], limit, length)


def gist(incident: "Incident") -> str:
    """What a post says beside times: of two events with the same gist, the later one says nothing
    new."""
    known = facts(incident, "en")
    names = ("place", "what", "severity", "checked", "involved")
    parts = [incident.kind == "cleared" and "cleared", *(known.get(name) for name in names)]
    return _BETWEEN.join(part for part in parts if part)


def alt(incident: "Incident") -> str:
    """What the image shows, in both languages, for who can't see it."""
    parts = [_text(_fill("alt", language, facts(incident, language))) for language in LANGUAGES]
    said = incident.describe()
    if said:
        parts += [f"{_BY_MACHINE[language]}: {said[language]}" for language in LANGUAGES]
    text = "\n".join(parts)
    return text[: boundary(text, ALT_MAX)]


def tags(text: str) -> list[tuple[int, int, str]]:
    """The tags of both parts: where each begins and ends in the text's UTF-8, and its name."""
    found = []
    position = 0
    lines = text.split("\n")
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        at = position
        for word in line.split(" "):
            size = len(word.encode())
            # A part's last line has its tags, and no other: names may begin with the sign.
            if not following and word.startswith("#"):
                found.append((at, at + size, word[1:]))
            at += size + 1
        position += len(line.encode()) + 1
    return found


def facts(incident: "Incident", language: str) -> "dict[str, _Word]":
    """What templates may name, as far as the event says it."""
    camera = incident.camera[language]
    road = _road(incident, language)
    place = {
        "ko": road or f"{camera} CCTV 화면",
        "en": f"on {road}" if road else f"in view of CCTV {camera}",
    }[language]
    label, tag = _LABEL[language][incident.about == ACCIDENT]
    started = _moment(incident.started_at, language)
    known: dict[str, str | None] = {
        "label": label,
        "tag": tag,
        "place": place,
        "road": road,
        "camera": camera,
        "cctv": camera if road else None,  # else the place names it
        "region": _REGIONS.get(incident.region, {}).get(language, incident.region),
        "what": _WHAT[language][incident.what],
        "severity": incident.severity and _SEVERITY[language][incident.severity],
        "checked": _CHECKED[language][incident.confirmed],
        "involved": _involved(incident.involved, language),
        "updated": _moment(incident.time, language),
    }
    if incident.cleared_at is None:
        if started != known["updated"]:
            known["started"] = _moment(incident.started_at, language, since=incident.time)
    else:
        known["started"] = started
        known["cleared"] = _moment(incident.cleared_at, language)
        known["duration"] = _duration(incident.cleared_at - incident.started_at, language)
    return {name: _Word(text) for name, text in known.items() if text}


def with_particle(word: str, pair: str) -> str:
    """`word` with the one of `pair` (이/가, 은/는, 을/를, 과/와, 으로/로) that follows it."""
    after_consonant, after_vowel = pair.split("/")
    final = _final(word)
    if final == "C" or (final == "L" and after_consonant != "으로"):
        return word + after_consonant
    return word + after_vowel


class _Word(str):
    __slots__ = ()

    def __format__(self, how: str) -> str:
        if "/" in how:
            return with_particle(str(self), how)
        if how == "capital":
            return self[:1].upper() + self[1:]
        return str(self)


def _final(word: str) -> str:
    if word.endswith(")"):
        # The particle belongs to the word before the brackets.
        word = word[: word.rfind("(")] or word
    last = next((letter for letter in reversed(word) if letter.isalnum()), "")
    if "가" <= last <= "힣":
        consonant = (ord(last) - ord("가")) % 28
        return "" if consonant == 0 else "L" if consonant == 8 else "C"
    return _READ_WITH_FINAL.get(last.lower(), "")


def _fill(template: str, language: str, known: "dict[str, _Word]") -> "_Lines":
    path = join(_TEMPLATES, f"{template}.{language}.txt")
    lines: _Lines = []
    with open(path, encoding="utf-8") as file:
        for line in file.read().splitlines():
            segments = []
            for segment in line.split(_BETWEEN):
                try:
                    segments.append(segment.format_map(known))
                except KeyError:
                    continue  # a fact that the event does not have
            if segments:
                lines.append(segments)
    return lines


def _text(lines: "_Lines") -> str:
    return "\n".join(_BETWEEN.join(segments) for segments in lines)


def _fit(ko: "_Lines", en: "_Lines", limit: int, length: "Callable[[str], int]") -> Texts:
    while True:
        texts = Texts(_text(ko), _text(en))
        if length(texts.joined()) <= limit:
            return texts
        longer = max((en, ko), key=lambda lines: (sum(map(len, lines)), length(_text(lines))))
        _shorten(longer)


def _shorten(lines: "_Lines") -> None:
    if len(lines) > 3:
        del lines[2]
        return
    if len(lines[1]) > 1:
        lines[1].pop()
        return
    first = lines[0][0]
    if first == "…":
        raise ValueError(f"no text is short enough with {_text(lines[1:])!r}")
    first = first.rstrip("…")
    lines[0] = [first[: boundary(first, max(0, len(first) - 1))] + "…"]


def _road(incident: "Incident", language: str) -> str | None:
    if incident.road is None:
        return None
    road = incident.road[language]
    if incident.direction is None:
        return road
    direction = incident.direction[language]
    return f"{road}({direction})" if language == "ko" else f"{road} ({direction})"


def _moment(time: datetime, language: str, since: datetime | None = None) -> str:
    here = time.astimezone(_KST)
    clock = f"{here:%H:%M}"
    if since is not None and since.astimezone(_KST).date() == here.date():
        return clock
    if language == "ko":
        return f"{here.month}월 {here.day}일 {clock}"
    return f"{here.day} {here:%b} {clock} KST"


def _duration(time: timedelta, language: str) -> str | None:
    minutes = int(time.total_seconds() // 60)
    if minutes < 1:
        return None
    hours, minutes = divmod(minutes, 60)
    units = ("시간", "분") if language == "ko" else (" h", " min")
    return " ".join(f"{n}{unit}" for n, unit in zip((hours, minutes), units, strict=True) if n)


def _involved(counts: dict[str, int], language: str) -> str | None:
    parts = [names[counts[of] > 1] for of, names in _OBJECTS[language].items() if of in counts]
    if len(parts) < 2:
        return "".join(parts) or None
    head = ", ".join(parts[:-1])
    return (with_particle(head, "과/와") if language == "ko" else head + " and") + " " + parts[-1]
