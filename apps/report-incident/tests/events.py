"""Events as the schemas of incidents allow them, for generated tests."""

import json
import math
from base64 import b64encode
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any
from unicodedata import normalize

from hypothesis import strategies as st

Schema = dict[str, Any]

_FOLDER = Path(__file__).parents[3] / "apps/events/src/koren_events"
SCHEMA: Schema = json.loads((_FOLDER / "accident.schema.json").read_text())
INCIDENT: Schema = json.loads((_FOLDER / "incident.schema.json").read_text())

# What has been trouble for a program that counts and cuts: scripts that compose, marks, emoji of
# several code points, links, the signs that templates and networks use, what no text may have.
_BITS = (
    "가", "강남역", normalize("NFD", "한국"), "\u1100", "\u11a8", "W", "e\u0301", "\u0301", "क्ष", "กำ",
    "👨‍👩‍👧‍👦", "🏃🏽‍♀️", "🇰🇷", "🇰", "👍🏽", "\u200d", "\ufe0f", "1️⃣", "❤️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "koren.kr", "https://koren.kr/a?b=c", "http://", ".", "/", "a.zone", "한.kr", "@a", "#", "#a",
    " ", " · ", "…", "(", ")", "{road}", "{", "\n", "\u2028", "\0", "\x85", "\ufeff", "\uffff", "\ud800",
    "ﬃ", "\u0958", "\ufb2c",
)  # fmt: skip


def _texts(least: int, most: int) -> st.SearchStrategy[str]:
    bits = st.lists(st.sampled_from(_BITS), min_size=1, max_size=most).map("".join)
    repeated = st.builds(lambda bit: bit * most, st.sampled_from(_BITS))
    letters = st.text(min_size=least, max_size=most)
    return (
        st.one_of(bits, repeated, letters)
        .map(lambda text: text[:most])
        .filter(lambda text: len(text) >= least)
    )


def _times() -> st.SearchStrategy[str]:
    second = st.datetimes().map(lambda moment: moment.isoformat(timespec="seconds"))
    fraction = st.from_regex(r"(\.[0-9]{1,9})?", fullmatch=True)
    return st.builds(lambda s, f: f"{s}{f}Z", second, fraction)


_OF_PATTERN = {
    SCHEMA["$defs"]["time"]["pattern"]: _times(),
    SCHEMA["$defs"]["image"]["properties"]["base64"]["pattern"]: st.one_of(
        st.binary(max_size=99).map(lambda end: b64encode(b"\xff\xd8\xff" + end).decode()),
        st.from_regex(r"/9j/[A-Za-z0-9+/]{1,99}={0,2}", fullmatch=True),
    ),
}


def values(schema: Schema) -> st.SearchStrategy[Any]:
    """What `schema` allows, as far as those schemas go; an unknown word is an error."""
    words = set(schema) - {"description", "format", "contentEncoding", "contentMediaType"}
    if "$ref" in words:
        document, _, pointer = schema["$ref"].partition("#/")
        # Each refers to its own definitions, and that of other incidents to those of accidents, too.
        known = SCHEMA if document else {"$defs": SCHEMA["$defs"] | INCIDENT["$defs"]}
        return values(reduce(getitem, pointer.split("/"), known))
    if "const" in words:
        return st.just(schema["const"])
    if "enum" in words:
        return st.sampled_from(schema["enum"])
    kind = schema["type"]
    if kind == "object":
        assert words <= {"type", "required", "properties", "additionalProperties"}, words
        fields = {name: values(of) for name, of in schema["properties"].items()}
        needed = schema["required"]
        return st.fixed_dictionaries(
            {name: fields[name] for name in needed},
            optional={name: of for name, of in fields.items() if name not in needed},
        )
    if kind == "array":
        assert words <= {"type", "items", "minItems", "maxItems"}, words
        most = schema.get("maxItems", 9)
        return st.lists(
            values(schema["items"]), min_size=schema.get("minItems", 0), max_size=min(most, 30)
        )
    if kind == "boolean":
        return st.booleans()
    if kind == "string":
        assert words <= {"type", "minLength", "maxLength", "pattern"}, words
        if "pattern" in words:
            if schema["pattern"] in _OF_PATTERN:
                return _OF_PATTERN[schema["pattern"]]
            return st.from_regex(schema["pattern"].replace("$", r"\Z"))
        return _texts(schema["minLength"], schema["maxLength"])
    assert words <= {"type", "minimum", "maximum"}, words
    least, most = schema.get("minimum"), schema.get("maximum")
    whole = st.integers(
        least if least is None else math.ceil(least), most if most is None else math.floor(most)
    )
    if kind == "integer":
        # 1.0 is an integer to a schema.
        return whole | whole.filter(lambda n: abs(n) < 2**53).map(float)
    return st.floats(least, most, allow_nan=False, allow_infinity=False) | whole


def _messages(schema: Schema) -> st.SearchStrategy[Any]:
    return values({k: schema[k] for k in ("type", "required", "properties")})


def _complete(
    message: dict[str, Any], released_by: str | None, left_out: set[str]
) -> dict[str, Any]:
    if message["type"].endswith("cleared"):
        message["data"].setdefault("cleared_at", message["time"])
    else:
        message["data"].pop("cleared_at", None)
        message["data"].setdefault("objects", [])
    if released_by:
        message["releasedby"] = released_by
    for name in left_out:
        message["data"]["camera"].pop(name, None)
    return message


# With what the gateway adds to an event that a person released, and of cameras with no known road.
MESSAGES = st.builds(
    _complete,
    _messages(SCHEMA) | _messages(INCIDENT),
    st.sampled_from((None, "admin", "console:kim")),
    st.sets(st.sampled_from(("road", "direction"))),
)
