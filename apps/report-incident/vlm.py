"""What a picture shows, in the words of a vision language model behind an OpenAI-compatible endpoint.

A model makes things up, so its words are used only where each of them is harmless or agrees with the event: kinds of
vehicles must be among those involved, and what has happened must be what the event says. Anything else, such as a
number, an injury or a cause, has no word in the lists below, and the whole description is left out.

The model is described by the files of a secret, one value a file:

    url         https://…, what comes before /v1/chat/completions
    model       its name
    key         optional: sent as a bearer token
    most_a_day  optional: how often a region asks it in a day (UTC), 100 if it is left out
    ca.crt      optional: the authority of the endpoint's certificate, if it is private
"""

import json
import os
import re
from binascii import b2a_base64
from datetime import UTC, datetime

from https import Server, Unreachable, to_json

from koren_runtime import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from post_text.incident import Incident

_TIMEOUT_S = 20.0
_MOST_A_DAY = 100
_DAY_S = 86400
_TOKENS = 300
_LETTERS = 160

_KINDS = {
    "car": ("car cars taxi taxis", "승용차 택시"),
    "van": ("van vans", "승합차"),
    "truck": ("truck trucks lorry lorries", "트럭 화물차"),
    "bus": ("bus buses", "버스"),
    "motorcycle": ("motorcycle motorcycles", "오토바이"),
    "bicycle": ("bicycle bicycles", "자전거"),
    "person": ("person people pedestrian pedestrians", "사람 보행자"),
}
_WHAT = {
    "rear_end": ("accident rear-end collision", "사고 추돌 충돌"),
    "side": ("accident collision", "사고 측면 충돌"),
    "head_on": ("accident head-on collision", "사고 정면 충돌"),
    "single": ("accident", "사고"),
    "unknown": ("accident", "사고"),
    "stopped-vehicle": ("", "정지 정차"),
    "person-on-road": ("person pedestrian", "사람 보행자"),
    "wrong-way": ("wrong-way", "역주행"),
}
_SHOWN = {
    "accident": "after a traffic accident",
    "stopped-vehicle": "on which a vehicle has stopped",
    "person-on-road": "on which a person is in the roadway",
    "wrong-way": "on which a vehicle goes the wrong way",
}
_ENGLISH = """
a an the is are and on in at of to by with near next behind beside between from across against towards its it there
some several other another vehicle vehicles road roadway street lane lanes junction intersection crossing crosswalk
shoulder median middle left right side edge centre center corner front back stopped stand stands standing parked still
stationary blocking block blocks partly close together facing picture image camera view shows show seen visible day
daylight night dark wet dry traffic light lights sign signs tree trees
"""
_KOREAN = """
차량 차 도로 차로 차선 교차로 횡단보도 갓길 중앙 가운데 왼쪽 오른쪽 한쪽 가장자리 앞 뒤 옆 사이
근처 위 여러 대 다른 일부 멈춰 서 있습니다 있는 있고 정차해 정지해 세워져 막고 비스듬히 나란히 가까이
함께 그리고 화면 사진 카메라 영상 모습 낮 밤 어두운 젖은 마른 신호등 표지판 나무 보입니다 보이고
"""
_PARTICLE = "(?:들)?(?:에서|에는|으로|이|가|을|를|은|는|에|의|와|과|로|도)?"
_ASKED = (
    "You see a picture of a road camera {shown}. Say in one short sentence what is seen, in Korean"
    ' (합쇼체) and in English, as JSON: {{"ko": "…", "en": "…"}}. State no number, no injury, no cause, no guess.'
    " Use only these English words: {english}. Use only these Korean words, with particles: {korean}."
)


class Describer:
    """Asks the model that the files of `folder` describe. Raises ValueError for what can't be asked."""

    def __init__(self, folder: str) -> None:
        self._url = _read(folder, "url")
        self._model = _read(folder, "model")
        key, most = _read(folder, "key"), _read(folder, "most_a_day")
        if not self._url or not self._model:
            raise ValueError(
                f"{folder} must have files url and model; give the function's secret those keys"
            )
        if most and not (most.isascii() and most.isdigit()):
            raise ValueError(f"{folder}/most_a_day says {most!r}; it must be a whole number")
        self._most_a_day = int(most) if most else _MOST_A_DAY
        self._headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {key}"} if key else {}
        )
        authority = f"{folder}/ca.crt"
        self._server = Server(
            self._url, authority if os.path.exists(authority) else None, _TIMEOUT_S
        )

    def describe(self, incident: "Incident") -> "dict[str, str] | None":
        """What the incident's picture shows, in Korean and English; None where the model's words can't be used.

        Raises nothing: a description is not worth the post.
        """
        try:
            if incident.image is None or not self._may_ask():
                return None
            english, korean = (" ".join(_words(incident, language)) for language in ("en", "ko"))
            with self._server as server:
                answer = server.ask(
                    "POST",
                    "/v1/chat/completions",
                    self._body(incident, english, korean),
                    self._headers,
                )
            if answer.status != 200:
                raise ValueError(f"it answered {answer.status}: {answer.content!s:.200}")
            said = json.loads(answer.content["choices"][0]["message"]["content"])
            texts = {"ko": _line(said["ko"]), "en": _line(said["en"])}
        except (Unreachable, state.StateError, ValueError, LookupError, TypeError) as error:
            print(f"no description by {self._model}: {type(error).__name__}: {error!s:.300}")
            return None
        if not all(agrees(text, language, incident) for language, text in texts.items()):
            print(
                f"the description by {self._model} is not used, it says more than the event: {texts!r:.500}"
            )
            return None
        return texts

    def _may_ask(self) -> bool:
        """Whether the day's limit is not reached; counts this time."""
        key = f"vlm-{datetime.now(UTC):%Y%m%d}"
        entry = state.get(key)
        asked = int(entry.value) if entry else 0
        if asked >= self._most_a_day:
            print(
                f"no description by {self._model}: it was asked {asked} times today, the most that most_a_day allows"
            )
            return False
        # Where another pod counts at the same time, this one asks nothing.
        version = entry.version if entry else state.ABSENT
        state.put(key, str(asked + 1).encode(), version=version, expires_s=2 * _DAY_S)
        return True

    def _body(self, incident: "Incident", english: str, korean: str) -> bytes:
        assert incident.image is not None
        picture = b2a_base64(incident.image.jpeg, newline=False).decode()
        content = [
            {
                "type": "text",
                "text": _ASKED.format(
                    shown=_SHOWN[incident.about], english=english, korean=korean
                ),
            },
            {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{picture}"}},
        ]
        return to_json(
            {
                "model": self._model,
                "messages": [{"role": "user", "content": content}],
                "response_format": {"type": "json_object"},
                "max_tokens": _TOKENS,
                "temperature": 0,
            }
        )


def agrees(text: str, language: str, incident: "Incident") -> bool:
    """Whether a text is a sentence of words that may be used for the incident, and of no others."""
    words = _words(incident, language)
    if not text.endswith(".") or len(text) > _LETTERS:
        return False
    said = text[:-1].replace(",", " ").split()
    if language == "en":
        return bool(said) and all(word.lower() in words for word in said)
    known = re.compile(f"(?:{'|'.join(words)}){_PARTICLE}")
    return bool(said) and all(known.fullmatch(word) for word in said)


def _words(incident: "Incident", language: str) -> list[str]:
    column = 0 if language == "en" else 1
    kinds = [words[column] for kind, words in _KINDS.items() if kind in incident.involved]
    return " ".join([(_ENGLISH, _KOREAN)[column], *kinds, _WHAT[incident.what][column]]).split()


def _line(text: "Any") -> str:
    if not isinstance(text, str):
        raise ValueError(f"{text!r:.80} is not a text")
    return " ".join(text.split())


def _read(folder: str, name: str) -> str:
    try:
        with open(f"{folder}/{name}", encoding="utf-8") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""
