import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unicodedata import normalize

import handler
import pytest
import requests
import tweepy  # type: ignore[import-untyped]
import twitter
from conftest import JPEG, make_event
from doubles.gateway import StateDouble
from doubles.x import KEYS, X
from post_text.incident import Incident
from post_text.x_length import weight

from koren_runtime import Reject, RetryAfter, state


@pytest.fixture
def x(kept: StateDouble) -> Iterator[X]:
    with X() as double:
        yield double


def report(x: X, *args: Any, **data: Any) -> dict[str, Any]:
    return x.account().report(Incident(make_event(*args, **data)))


def test_an_accident_is_posted_with_its_photo(x: X) -> None:
    result = report(x)

    ((post_id, post),) = x.posts.items()
    assert result["uri"] == result["url"] == f"https://x.com/i/web/status/{post_id}"
    assert result["created"] and result["cid"] is None
    assert post["text"] == result["text"]["ko"] + "\n\n" + result["text"]["en"]
    assert "추돌 사고" in post["text"] and "Rear-end collision" in post["text"]
    (media_id,) = post["media"]
    assert x.media[media_id]["jpeg"] == JPEG
    assert "강남대로" in x.media[media_id]["alt"] and "Gangnam-daero" in x.media[media_id]["alt"]


def test_an_event_without_an_image_is_posted_as_text(x: X) -> None:
    report(x, jpeg=None)

    ((_, post),) = x.posts.items()
    assert post["media"] == [] and x.media == {}


def test_the_longest_names_make_a_post_that_x_takes(x: X) -> None:
    event = make_event()
    long = {"ko": "가" * 200, "en": "W" * 200}
    event["data"]["camera"] |= {"name": long, "road": long, "direction": long}

    assert x.account().report(Incident(event))["created"]


def test_repeats_and_updates_post_nothing(x: X) -> None:
    first = report(x)
    repeated = report(x)
    updated = report(x, "updated", 2, severity="minor")

    assert repeated == updated == first | {"created": False}
    assert len(x.posts) == 1


def test_the_end_is_a_reply_once(x: X) -> None:
    report(x)
    end = report(x, "cleared", 2, jpeg=None)
    again = report(x, "cleared", 2, jpeg=None)
    late = report(x, "detected", 1)

    assert end == again and not end["created"] and not late["created"]
    (post_id, _), (reply_id, reply) = x.posts.items()
    assert reply["reply_to"] == post_id
    assert reply["text"].startswith("[상황 종료]")
    assert end["uri"].endswith(reply_id) and late["uri"].endswith(post_id)


def test_an_accident_that_comes_after_its_end_posts_nothing(x: X) -> None:
    report(x, "cleared", 2, jpeg=None)
    report(x, "detected", 1)

    ((_, post),) = x.posts.items()
    assert post["text"].startswith("[상황 종료]") and post["reply_to"] is None


def test_racing_tries_post_once(x: X) -> None:
    start = threading.Barrier(4)

    def race(_: int) -> str:
        start.wait()
        uri: str = report(x)["uri"]
        return uri

    with ThreadPoolExecutor(4) as pool:
        uris = set(pool.map(race, range(4)))

    assert len(x.posts) == len(uris) == 1


def test_a_post_whose_answer_was_lost_is_found_again(x: X) -> None:
    x.silent = True
    with pytest.raises(requests.ConnectionError):
        report(x)
    result = report(x)

    ((post_id, _),) = x.posts.items()
    assert result["uri"].endswith(post_id)
    assert report(x, "cleared", 2, jpeg=None)["uri"] != result["uri"]


@pytest.mark.parametrize(
    ("status", "error"),
    [(429, tweepy.TooManyRequests), (503, tweepy.TwitterServerError), (400, tweepy.BadRequest)],
)
def test_a_refusal_is_raised_and_the_next_try_posts(
    x: X, status: int, error: type[Exception]
) -> None:
    x.refuse = [status]
    with pytest.raises(error):
        report(x, jpeg=None)

    assert report(x, jpeg=None)["created"]


def reset_in(seconds: float) -> str:
    return str(int(time.time() + seconds))


@pytest.mark.parametrize("jpeg", [JPEG, None], ids=["upload", "post"])
def test_a_rate_limit_is_waited_for_as_long_as_x_says(x: X, jpeg: bytes | None) -> None:
    x.refuse = [429]
    x.headers = {"x-rate-limit-reset": reset_in(700)}
    with pytest.raises(RetryAfter) as raised:
        report(x, jpeg=jpeg)

    assert 690 < raised.value.seconds <= 701
    assert report(x, jpeg=jpeg)["created"]


def test_a_limit_of_a_day_is_waited_for_when_it_is_used_up(x: X) -> None:
    for remaining, least, most in (("0", 49_000, 50_001), ("9", 690, 701)):
        x.refuse = [429]
        x.headers = {
            "x-rate-limit-reset": reset_in(700),
            "x-user-limit-24hour-remaining": remaining,
            "x-user-limit-24hour-reset": reset_in(50_000),
        }
        with pytest.raises(RetryAfter) as raised:
            report(x, jpeg=None)
        assert least < raised.value.seconds <= most


def test_an_image_above_the_limit_is_rejected(x: X) -> None:
    with pytest.raises(Reject, match="5242881 bytes; 5242880 is the most"):
        report(x, jpeg=JPEG + b"\0" * (twitter.IMAGE_MAX_BYTES - len(JPEG) + 1))
    assert x.posts == {}


def test_a_refused_upload_is_raised(x: X) -> None:
    x.refuse = [413]
    with pytest.raises(tweepy.HTTPException, match="as the test wants it"):
        report(x)
    assert x.posts == {}


def test_wrong_keys_are_refused_by_their_signature(x: X) -> None:
    account = x.account(access_token_secret="wrong")

    with pytest.raises(tweepy.Unauthorized):
        account.report(Incident(make_event(jpeg=None)))


def test_a_post_is_not_made_without_the_state_that_would_know_it(x: X, kept: StateDouble) -> None:
    kept.down = True
    with pytest.raises(state.StateError, match="Redis is away"):
        report(x)
    assert x.posts == {}


def test_what_was_posted_is_kept_for_weeks(x: X, kept: StateDouble) -> None:
    report(x)

    ((key, value),) = kept.values.items()
    assert json.loads(value)["id"] in x.posts
    assert kept.expiries_s[key] > 14 * 86400


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("a가·…", 1 + 2 + 1 + 2),
        ("강남", 2 + 2),
        ("cafe\u0301", 4),
        ("👾", 2),
        ("🙋🏽", 2),
        ("👨‍🎤", 2),
        ("👩🏽‍⚕️", 2),
        ("👨‍👩‍👧‍👦", 2),
        ("🏃🏽‍♀️", 2),
        ("❤️", 2),
        ("1️⃣", 2),
        ("🇰🇷🇯🇵", 2 + 2),
        ("©", 1),
        ("©️", 2),
        ("https://example.com", 23),
        ("https://example.com/very/long/path?of=a&page=" + "9" * 40, 23),
        ("koren.kr", 23),
        ("Koren.Kr", 23),
        ("www.an-institute-with-a-very-long-name.kr", 23),
        ("see https://koren.kr.", 4 + 23 + 1),
        ("koren.kr에서", 23 + 2 + 2),
        ("a.kr,b.com", 23 + 1 + 23),
        ("No.1", 4),
        ("37.4979", 7),
    ],
)
def test_x_counts(text: str, length: int) -> None:
    assert (
        weight(normalize("NFC", text)) == weight(normalize("NFD", text)) == length
    )


@pytest.mark.parametrize("text", ["gangnam.zone", "http://강남.kr/", "a.zone.kr.x", "éa.fr"])
def test_what_may_be_a_link_counts_as_one_at_least(text: str) -> None:
    assert weight(text) >= 23


def test_names_full_of_links_make_a_post_that_x_takes(x: X) -> None:
    event = make_event()
    links = {"ko": "a.kr가 " * 30, "en": "b.com " * 33}
    event["data"]["camera"] |= {"name": links, "road": links, "direction": links}

    assert x.account().report(Incident(event))["created"]
    ((_, post),) = x.posts.items()
    assert post["text"].count("a.kr") + post["text"].count("b.com") <= 280 // 23


def test_the_handler_makes_the_account_that_the_secret_describes(
    secret: Callable[..., Path],
) -> None:
    folder = secret(provider="twitter", **KEYS)

    assert isinstance(handler.account(str(folder)), twitter.Account)
