"""Whatever event the schema allows: its post keeps each network's limits, or it is rejected."""

import json
from typing import Any
from unicodedata import is_normalized

import bluesky
import regex
import twitter
import wording
from events import MESSAGES
from hypothesis import given
from incident import Incident

from koren_runtime import Reject
from koren_runtime.contract import to_event

# What app.bsky.feed.post says, in lexicon's words: maxGraphemes and maxLength.
BLUESKY_GRAPHEMES = 300
BLUESKY_BYTES = 3000
X_WEIGHT = 280
ALT_CHARACTERS = 1000

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
    texts = wording.post(incident, bluesky.TEXT_MAX_GRAPHEMES)
    record = json.loads(bluesky._json(bluesky._record(incident, texts, None)))

    text = record["text"]
    assert len(graphemes(text)) <= BLUESKY_GRAPHEMES and len(text.encode()) <= BLUESKY_BYTES
    assert is_normalized("NFC", text)
    for facet in record["facets"]:
        index = facet["index"]
        tagged = text.encode()[index["byteStart"] : index["byteEnd"]].decode()
        assert tagged == "#" + facet["features"][0]["tag"] and len(tagged) > 1
    assert TID.fullmatch(bluesky.record_key(incident))
    assert wording.Texts.split(text).as_dict() == texts.as_dict()


@given(message=MESSAGES)
def test_x_takes_the_post_of_every_event(message: dict[str, Any]) -> None:
    incident = incident_of(message)
    if incident is None:
        return
    text = wording.post(incident, twitter.TEXT_MAX, twitter.weight).joined()

    assert 0 < twitter.weight(text) <= X_WEIGHT
    text.encode()


@given(message=MESSAGES)
def test_no_cut_goes_through_what_readers_take_for_one_character(message: dict[str, Any]) -> None:
    incident = incident_of(message)
    if incident is None:
        return
    alt = wording.alt(incident)
    assert len(alt) <= ALT_CHARACTERS and alt.encode()

    whole = wording.post(incident, 10_000)
    for limit in (bluesky.TEXT_MAX_GRAPHEMES, 200):
        cut = wording.post(incident, limit)
        for before, after in ((whole.ko, cut.ko), (whole.en, cut.en)):
            first, _, _ = after.partition("\n")
            if first.endswith("…") and not before.startswith(first):
                kept = first.removesuffix("…")
                assert before.startswith(kept)
                assert graphemes(before)[: len(graphemes(kept))] == graphemes(kept)
