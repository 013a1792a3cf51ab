import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import handler
import pytest
import requests
import tweepy  # type: ignore[import-untyped]
import twitter
from conftest import JPEG, make_event
from doubles.gateway import StateDouble
from doubles.x import KEYS, X
from incident import Incident

from koren_runtime import state


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


def test_hangul_counts_twice() -> None:
    assert twitter.weight("a가·…") == 1 + 2 + 1 + 2


def test_the_handler_makes_the_account_that_the_secret_describes(
    secret: Callable[..., Path],
) -> None:
    folder = secret(provider="twitter", **KEYS)

    assert isinstance(handler.account(str(folder)), twitter.Account)
