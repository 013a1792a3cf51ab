"""An incident in Korean and English, from the templates beside this file.

A template is lines of segments with ` · ` between them, the most important first. A segment that
names a fact which the event does not have is left out: nothing is made up. A text that is too long
loses its last segments; its first line and its last, the tags, stay.

A placeholder is `{fact}`, `{fact:capital}` for a first letter in upper case, or `{fact:이/가}` for
the Korean particle that the fact's last syllable asks for.
"""

from datetime import datetime, timedelta, timezone
from os.path import dirname, join

from graphemes import boundary
from incident import LANGUAGES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from incident import Incident

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
    },
    "en": {
        "rear_end": "rear-end collision",
        "side": "side collision",
        "head_on": "head-on collision",
        "single": "single-vehicle accident",
        "unknown": "accident",
    },
}
_SEVERITY = {
    "ko": {"minor": "경미", "moderate": "보통", "severe": "심각"},
    "en": {"minor": "minor", "moderate": "moderate", "severe": "severe"},
}
# Class to its Korean name, its counter, and English for one and for more.
_OBJECTS = {
    "car": ("승용차", "대", "car", "cars"),
    "van": ("승합차", "대", "van", "vans"),
    "truck": ("트럭", "대", "truck", "trucks"),
    "bus": ("버스", "대", "bus", "buses"),
    "motorcycle": ("오토바이", "대", "motorcycle", "motorcycles"),
    "bicycle": ("자전거", "대", "bicycle", "bicycles"),
    "person": ("사람", "명", "person", "people"),
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

    @classmethod
    def split(cls, text: str) -> "Texts":
        """The parts of what `joined` made."""
        ko, _, en = text.partition("\n\n")
        return cls(ko, en)

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
    return _fit(lines["ko"], lines["en"], limit, length)


def alt(incident: "Incident") -> str:
    """What the image shows, in both languages, for who can't see it."""
    parts = [_text(_fill("alt", language, facts(incident, language))) for language in LANGUAGES]
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
    known: dict[str, str | None] = {
        "road": incident.road[language],
        "direction": incident.direction[language],
        "camera": incident.camera[language],
        "region": _REGIONS.get(incident.region, {}).get(language, incident.region),
        "what": _WHAT[language][incident.what],
        "severity": _SEVERITY[language][incident.severity],
        # Cut, not rounded: 99.6 % is not certainty.
        "confidence": str(int(incident.confidence * 100 + 1e-9)),
        "started": _moment(incident.started_at, language),
        "involved": _count(incident.involved, language),
        "updated": _moment(incident.time, language, since=incident.started_at)
        if incident.kind == "updated"
        else None,
    }
    if incident.cleared_at is not None:
        known["cleared"] = _moment(incident.cleared_at, language, since=incident.started_at)
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
    if len(lines) > 2:
        lines[-2].pop()
        if not lines[-2]:
            del lines[-2]
        return
    first = lines[0][0]
    if first == "…":
        raise ValueError(f"no text is short enough with {_text(lines[1:])!r}")
    first = first.rstrip("…")
    lines[0] = [first[: boundary(first, max(0, len(first) - 1))] + "…"]


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


def _count(involved: dict[str, int], language: str) -> str | None:
    parts = []
    for name, (korean, counter, one, more) in _OBJECTS.items():
        if n := involved.get(name, 0):
            parts.append(
                f"{korean} {n}{counter}" if language == "ko" else f"{n} {one if n == 1 else more}"
            )
    if len(parts) < 2:
        return "".join(parts) or None
    head = ", ".join(parts[:-1])
    return (with_particle(head, "과/와") if language == "ko" else head + " and") + " " + parts[-1]
