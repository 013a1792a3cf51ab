"""A vision language model's words beside a post's photo, by a server on this machine with the API of OpenAI's."""

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import vlm
from conftest import JPEG, make_event, seen
from doubles.gateway import StateDouble
from doubles.serving import Serving, answer_json, body_of
from doubles.tls import certificate
from doubles.x import KEYS, X
from post_text.incident import Incident

KO = "승용차 여러 대와 버스가 도로 가운데에 멈춰 서 있습니다."
EN = "Several cars and a bus are standing in the middle of the road."


class Model(Serving):
    """`asked` has the requests; it says `says`, with the status `status`."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[tuple[str, str | None, dict[str, Any]]] = []
        self.says: Any = json.dumps({"ko": KO, "en": EN})
        self.status = 200
        super().__init__(certificate(folder))

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(
            (request.path, request.headers.get("Authorization"), json.loads(body_of(request)))
        )
        answer_json(request, self.status, {"choices": [{"message": {"content": self.says}}]}, {})


@pytest.fixture
def model(tmp_path: Path, kept: StateDouble, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    folder = tmp_path / "vlm"
    folder.mkdir()
    with Model(folder) as running:
        for name, value in {
            "url": running.url,
            "model": "seer-7b",
            "key": "s3cret",
            "most_a_day": "3",
        }.items():
            (folder / name).write_text(f"{value}\n")
        monkeypatch.setenv("VLM_SECRET", str(folder))
        yield running


@pytest.fixture
def describe(model: Model, tmp_path: Path) -> Callable[..., Any]:
    return lambda **data: vlm.Describer(str(tmp_path / "vlm")).describe(
        Incident(make_event(**data))
    )


def test_the_photo_is_described_to_who_cannot_see_it(
    model: Model, secret: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import handler

    secret(provider="twitter", **KEYS)
    with X() as x:
        monkeypatch.setattr(handler, "account", lambda _: x.account())
        text = handler.handler(make_event(), {})["text"]
        (media,) = x.media.values()

    assert (
        f"자동 생성 설명: {KO}" in media["alt"] and f"Automatic description: {EN}" in media["alt"]
    )
    assert "standing" not in text["en"], "the post itself says what the event says"
    ((path, key, asked),) = model.asked
    assert (path, key, asked["model"]) == ("/v1/chat/completions", "Bearer s3cret", "seer-7b")
    image = asked["messages"][0]["content"][1]["image_url"]["url"]
    assert b64decode(image.removeprefix("data:image/jpeg;base64,")) == JPEG
    assert asked["max_tokens"] <= 500


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "A truck is standing in the middle of the road."),
        ("en", "A car stands on the road and a person is injured."),
        ("en", "Three cars are standing on the road."),
        ("en", "2 cars are standing on the road."),
        ("en", "A head-on collision is seen."),
        ("en", "The driver of the car was at fault."),
        ("en", "A car is standing on the road"),
        ("en", "."),
        ("en", "the " * 60 + "."),
        ("en", "See https://example.com."),
        ("ko", "트럭이 도로에 서 있습니다."),
        ("ko", "승용차가 불타고 있습니다."),
        ("ko", "승용차 세 대가 도로에 서 있습니다."),
        ("ko", "정면 충돌 사고가 보입니다."),
        ("ko", "운전자가 도로에 있습니다."),
        ("ko", "Cars."),
    ],
)
def test_words_that_the_event_does_not_bear_out_are_left_out(
    model: Model, describe: Callable[..., Any], language: str, text: str
) -> None:
    model.says = json.dumps({"ko": KO, "en": EN} | {language: text})

    assert describe() is None
    assert len(model.asked) == 1


def test_kinds_and_collisions_of_the_event_may_be_named(
    model: Model, describe: Callable[..., Any]
) -> None:
    texts = {
        "ko": "트럭과 승용차의 정면 충돌 사고 모습이 보입니다.",
        "en": "A head-on collision of a truck and a car is seen.",
    }
    model.says = json.dumps(texts)

    assert describe(what="head_on", objects=[seen("truck", 1), seen("car", 2)]) == texts
    assert (
        describe(what="head_on", objects=[seen("truck", 1), seen("car", 2, involved=False)]) is None
    )


@pytest.mark.parametrize(
    "says", [None, "", "[]", "A car.", '{"ko": 5, "en": "A car."}', '{"en": "A car is seen."}']
)
def test_an_answer_of_another_kind_is_none(
    model: Model, describe: Callable[..., Any], says: Any
) -> None:
    model.says = says

    assert describe() is None


def test_a_model_that_refuses_or_is_away_costs_the_description_alone(
    model: Model, describe: Callable[..., Any], kept: StateDouble, tmp_path: Path
) -> None:
    model.status = 500
    assert describe() is None
    model.status = 200
    kept.down = True
    assert describe() is None, "what can't be counted is not asked"
    kept.down = False
    (tmp_path / "vlm/url").write_text("https://127.0.0.1:9")
    assert describe() is None


def test_a_day_has_a_limit(model: Model, describe: Callable[..., Any]) -> None:
    assert [describe() is not None for _ in range(5)] == [True, True, True, False, False]
    assert len(model.asked) == 3


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("url", "", "must have files url and model"), ("url", "http://x", "must be like https"),
     ("most_a_day", "-1", "whole number")],
)  # fmt: skip
def test_what_the_secret_lacks_is_named_and_the_post_is_made(
    model: Model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    message: str,
) -> None:
    import handler

    (tmp_path / "vlm" / name).write_text(value)

    incident = Incident(make_event())

    assert handler.described(str(tmp_path / "vlm"), incident)() is None
    assert message in capsys.readouterr().out
    assert model.asked == []
