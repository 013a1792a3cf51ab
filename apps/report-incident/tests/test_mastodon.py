import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import handler
import https
import mastodon
import pytest
from conftest import JPEG, make_event
from doubles.gateway import StateDouble
from doubles.mastodon import TOKEN, Mastodon

from koren_runtime import Reject, RetryAfter, state


@pytest.fixture
def server(kept: StateDouble, secret: Any, tmp_path: Path) -> Iterator[Mastodon]:
    folder = tmp_path / "tls"
    folder.mkdir()
    with Mastodon(folder) as double:
        ca = double.authority.read_text()
        secret(provider="mastodon", url=double.url, access_token=TOKEN, ca_crt=ca)
        yield double


def report(*args: Any, **data: Any) -> dict[str, Any]:
    return handler.handler(make_event(*args, **data), {})


def test_an_accident_is_posted_with_its_photo(server: Mastodon) -> None:
    result = report()

    ((status_id, status),) = server.statuses.items()
    assert result["url"] == f"{server.url}/@seoul/{status_id}" and result["created"]
    assert result["uri"] == f"{server.url}/users/seoul/statuses/{status_id}"
    assert status["text"] == result["text"]["ko"] + "\n\n" + result["text"]["en"]
    assert "승용차 여러 대와 버스" in status["text"], "there is room for all that is known"
    (media_id,) = status["media"]
    assert server.media[media_id]["jpeg"] == JPEG
    assert "강남대로" in server.media[media_id]["alt"]


def test_an_image_that_is_still_being_processed_is_waited_for(server: Mastodon) -> None:
    server.slow = 2

    assert report()["created"]
    ((_, status),) = server.statuses.items()
    assert len(status["media"]) == 1


def test_the_post_is_edited_to_the_incidents_end(server: Mastodon) -> None:
    first = report("detected", 1, severity="minor")
    second = report("updated", 2, jpeg=JPEG + b"later")
    last = report("cleared", 3, jpeg=None)

    ((status_id, status),) = server.statuses.items()
    assert [r["created"] for r in (first, second, last)] == [True, False, False]
    assert first["url"] == second["url"] == last["url"]
    assert "경미" in first["text"]["ko"] and "심각(추정" in second["text"]["ko"]
    assert status["text"].startswith("[상황 종료]") and server.edits[status_id] == 2
    (media_id,) = status["media"]
    assert server.media[media_id]["jpeg"] == JPEG + b"later", "the last photo stays"


def test_repeated_and_older_events_change_nothing(server: Mastodon) -> None:
    newer = report("updated", 3)
    again = report("updated", 3)
    older = report("updated", 2, severity="minor")

    assert again == older == newer | {"created": False}
    ((status_id, _),) = server.statuses.items()
    assert server.edits[status_id] == 0


def test_nothing_follows_the_end(server: Mastodon) -> None:
    end = report("cleared", 2, jpeg=None)

    assert report("detected", 1) == report("updated", 3) == end | {"created": False}
    ((status_id, _),) = server.statuses.items()
    assert server.edits[status_id] == 0


def test_racing_events_end_in_one_post_with_the_newest(server: Mastodon) -> None:
    events = [("detected", 1), ("updated", 2), ("updated", 3), ("cleared", 4)]
    report(*events[0], jpeg=None)
    start = threading.Barrier(len(events))

    def race(event: tuple[str, int]) -> None:
        start.wait()
        report(*event, jpeg=None, severity=("minor", "severe")[event[1] % 2])

    with ThreadPoolExecutor(len(events)) as pool:
        list(pool.map(race, events))

    ((_, status),) = server.statuses.items()
    assert status["text"].startswith("[상황 종료]")


def test_a_post_whose_answer_was_lost_is_not_made_twice(server: Mastodon) -> None:
    server.silent = "POST"
    with pytest.raises(https.Unreachable, match="statuses"):
        report(jpeg=None)

    result = report(jpeg=None)
    ((status_id, _),) = server.statuses.items()
    assert result["uri"].endswith(status_id)


@pytest.mark.parametrize("kind", ["detected", "updated"])
def test_a_post_whose_answer_was_lost_long_ago_is_found(
    server: Mastodon, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    server.silent = "POST"
    with pytest.raises(https.Unreachable):
        report(jpeg=None)
    server.keys.clear()
    later = time.time() + 7200
    monkeypatch.setattr("time.time", lambda: later)

    report(kind, 2, jpeg=None, severity="minor")
    ((_, status),) = server.statuses.items()
    assert "경미" in status["text"]


def test_a_lost_edit_is_made_up_for(server: Mastodon) -> None:
    report(jpeg=None)
    server.silent = "PUT"
    with pytest.raises(https.Unreachable):
        report("cleared", 2, jpeg=None)
    report("cleared", 2, jpeg=None)

    ((status_id, status),) = server.statuses.items()
    assert status["text"].startswith("[상황 종료]") and server.edits[status_id] == 1


def test_a_refused_edit_is_made_by_the_next_try(server: Mastodon) -> None:
    report(jpeg=None)
    server.refuse = [503]
    with pytest.raises(mastodon.MastodonError, match="503"):
        report("cleared", 2, jpeg=None)
    report("cleared", 2, jpeg=None)

    ((_, status),) = server.statuses.items()
    assert status["text"].startswith("[상황 종료]")


def test_a_post_that_its_owner_deleted_stays_deleted(server: Mastodon) -> None:
    report(jpeg=None)
    server.statuses.clear()

    report("updated", 2, jpeg=None)
    assert report("cleared", 3, jpeg=None)["created"] is False
    assert server.statuses == {}


def test_two_incidents_are_two_posts(server: Mastodon) -> None:
    assert report(subject="left")["uri"] != report(subject="right")["uri"]


@pytest.mark.parametrize("jpeg", [JPEG, None], ids=["upload", "post"])
def test_a_rate_limit_is_waited_for_as_long_as_the_server_says(
    server: Mastodon, jpeg: bytes | None
) -> None:
    reset = datetime.now(UTC) + timedelta(seconds=700)
    server.refuse = [429]
    server.headers = {"X-RateLimit-Reset": reset.isoformat().replace("+00:00", "Z")}
    with pytest.raises(RetryAfter, match="429 Too many requests") as raised:
        report(jpeg=jpeg)

    assert 400 < raised.value.seconds <= 700
    assert report(jpeg=jpeg)["created"]


def test_retry_after_is_read_where_no_reset_is_told(server: Mastodon) -> None:
    server.refuse = [429]
    server.headers = {"Retry-After": "77"}
    with pytest.raises(RetryAfter) as raised:
        report(jpeg=None)
    assert raised.value.seconds == 77


def test_a_wrong_token_is_named(server: Mastodon, tmp_path: Path) -> None:
    (tmp_path / "secret/access_token").write_text("wrong")

    with pytest.raises(mastodon.MastodonError, match="401 The access token is invalid"):
        report(jpeg=None)


def test_the_longest_names_make_a_post_that_mastodon_takes(server: Mastodon) -> None:
    event = make_event(jpeg=None)
    long = {"ko": "http://a.kr " * 16, "en": "https://b.com " * 14}
    event["data"]["camera"] |= {"name": long, "road": long, "direction": long}

    assert handler.handler(event, {})["created"]


def test_an_image_above_the_limit_is_rejected(server: Mastodon) -> None:
    with pytest.raises(Reject, match="16777216 is the most"):
        report(jpeg=JPEG + b"\0" * mastodon.IMAGE_MAX_BYTES)
    assert server.statuses == {}


def test_a_post_is_not_made_without_the_state_that_would_know_it(
    server: Mastodon, kept: StateDouble
) -> None:
    kept.down = True
    with pytest.raises(state.StateError):
        report(jpeg=None)
    assert server.statuses == {}
