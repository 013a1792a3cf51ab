import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import bluesky
import handler
import https
import pytest
from conftest import JPEG, Event, make_event
from doubles.gateway import StateDouble
from doubles.tls import Front
from social_server import Account, SocialServer

from koren_runtime import Reject

CONTEXT = {"function-name": "handler", "timeout": "60", "runtime": "python3.11"}

pytestmark = pytest.mark.usefixtures("on_bluesky")


def report(event: Event) -> dict[str, Any]:
    return handler.handler(event, CONTEXT)


def test_an_accident_is_posted_with_its_photo(social_server: SocialServer, seoul: Account) -> None:
    result = report(make_event(subject="photo"))

    (post,) = social_server.posts(seoul, "photo")
    assert (result["uri"], result["cid"], result["created"]) == (post["uri"], post["cid"], True)
    value = post["value"]
    assert value["text"] == result["text"]["ko"] + "\n\n" + result["text"]["en"]
    assert result["text"]["ko"].startswith("[교통사고] 강남대로(신논현역 방면)에서 추돌 사고가")
    assert result["text"]["en"].startswith("[Accident] Rear-end collision on Gangnam-daero")
    assert value["langs"] == ["ko", "en"]
    assert value["createdAt"] == "2026-11-24T11:16:05.123Z"
    text = value["text"].encode()
    words = {
        text[f["index"]["byteStart"] : f["index"]["byteEnd"]].decode(): f["features"][0]["tag"]
        for f in value["facets"]
    }
    assert words == {
        "#교통사고": "교통사고",
        "#서울": "서울",
        "#TrafficAccident": "TrafficAccident",
        "#Seoul": "Seoul",
    }
    (image,) = value["embed"]["images"]
    assert image["aspectRatio"] == {"width": 1280, "height": 720}
    assert "강남역 사거리" in image["alt"] and "Gangnam Station Junction" in image["alt"]
    cid = image["image"]["ref"]["$link"]
    assert social_server.read("com.atproto.sync.getBlob", did=seoul.did, cid=cid) == JPEG


def test_the_result_names_a_page_that_shows_the_post(
    social_server: SocialServer, front: Front
) -> None:
    result = report(make_event(subject="page"))

    method, _, query = result["url"].removeprefix(front.url + "/xrpc/").partition("?")
    shown = social_server.get(method, **dict(parse_qsl(query)))
    assert shown["cid"] == result["cid"]


def test_an_event_without_an_image_is_posted_as_text(
    social_server: SocialServer, seoul: Account
) -> None:
    report(make_event(subject="text", jpeg=None))

    (post,) = social_server.posts(seoul, "text")
    assert "embed" not in post["value"]


def test_the_longest_names_make_a_post_that_the_server_takes(
    social_server: SocialServer, seoul: Account
) -> None:
    event = make_event(subject="long")
    long = {"ko": "가" * 200, "en": "W" * 200}
    event["data"]["camera"] |= {"name": long, "road": long, "direction": long}

    report(event)

    (post,) = social_server.posts(seoul, "long")
    assert "#서울" in post["value"]["text"] and "#Seoul" in post["value"]["text"]


def test_a_repeated_event_changes_nothing(social_server: SocialServer, seoul: Account) -> None:
    first = report(make_event(subject="twice"))
    second = report(make_event(subject="twice"))

    assert second == first | {"created": False}
    assert len(social_server.posts(seoul, "twice")) == 1


def test_of_four_racing_tries_one_posts(social_server: SocialServer, seoul: Account) -> None:
    start = threading.Barrier(4)

    def race(_: int) -> dict[str, Any]:
        start.wait()
        return report(make_event(subject="race"))

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(race, range(4)))

    assert [r["created"] for r in results].count(True) == 1
    (post,) = social_server.posts(seoul, "race")
    assert {r["cid"] for r in results} == {post["cid"]}


def test_racing_events_of_an_incident_end_with_the_newest(
    social_server: SocialServer, seoul: Account
) -> None:
    events = [
        make_event("detected", 1, "pace"),
        make_event("updated", 2, "pace"),
        make_event("updated", 3, "pace", severity="minor"),
        make_event("cleared", 4, "pace", jpeg=None),
    ]
    start = threading.Barrier(len(events))

    def race(event: Event) -> dict[str, Any]:
        start.wait()
        return report(event)

    with ThreadPoolExecutor(len(events)) as pool:
        results = list(pool.map(race, events))

    assert [r["created"] for r in results].count(True) == 1
    first, *replies = social_server.posts(seoul, "pace")
    assert {r["uri"] for r in results} == {first["uri"]} and "reply" not in first["value"]
    assert all(reply["value"]["reply"]["root"]["uri"] == first["uri"] for reply in replies)
    *_, last = [first, *replies]
    assert last["value"]["kr.koren.incident"]["sequence"] == 4
    assert last["value"]["text"].startswith("[상황 종료]")


def test_what_follows_is_a_reply_to_the_first_post(
    social_server: SocialServer, seoul: Account
) -> None:
    first = report(make_event("detected", 1, "story", severity="minor"))
    second = report(make_event("updated", 2, "story", jpeg=JPEG + b"later"))
    last = report(make_event("cleared", 3, "story", jpeg=None))

    assert [r["created"] for r in (first, second, last)] == [True, False, False]
    assert first | {"created": False, "text": second["text"]} == second
    assert first | {"created": False, "text": last["text"]} == last
    assert "경미" in first["text"]["ko"] and "심각(추정" in second["text"]["ko"]
    posts = social_server.posts(seoul, "story")
    assert [post["value"]["text"] for post in posts] == [
        result["text"]["ko"] + "\n\n" + result["text"]["en"] for result in (first, second, last)
    ]
    assert posts[0]["cid"] == first["cid"], "the first post stays as it was"
    its = {"uri": first["uri"], "cid": first["cid"]}
    assert [post["value"].get("reply") for post in posts] == [
        None,
        {"root": its, "parent": its},
        {"root": its, "parent": its},
    ]
    (image,) = posts[1]["value"]["embed"]["images"]
    cid = image["image"]["ref"]["$link"]
    blob = social_server.read("com.atproto.sync.getBlob", did=seoul.did, cid=cid)
    assert blob == JPEG + b"later"
    assert posts[2]["value"]["text"].startswith("[상황 종료] 강남대로(신논현역 방면) 추돌 사고")


@pytest.mark.parametrize("kind", ["updated", "cleared"])
def test_a_reply_whose_answer_was_lost_is_not_posted_twice(
    social_server: SocialServer, seoul: Account, front: Front, kind: str
) -> None:
    subject = f"lost-{kind}"
    first = report(make_event(subject=subject))
    event = make_event(kind, 2, subject, severity="minor", jpeg=None)
    front.cut = "applyWrites"
    with pytest.raises(https.Unreachable, match="applyWrites"):
        report(event)

    again = report(event)
    _, reply = social_server.posts(seoul, subject)
    assert reply["value"]["text"] == again["text"]["ko"] + "\n\n" + again["text"]["en"]
    assert again["uri"] == first["uri"]


def test_an_update_that_says_nothing_new_is_not_posted(
    social_server: SocialServer, seoul: Account
) -> None:
    first = report(make_event("detected", 1, "same"))
    same = report(make_event("updated", 3, "same"))
    late = report(make_event("updated", 2, "same", severity="minor"))

    assert same == late == first | {"created": False}
    assert len(social_server.posts(seoul, "same")) == 1


def test_that_a_person_confirmed_it_is_news(social_server: SocialServer, seoul: Account) -> None:
    report(make_event("detected", 1, "sure"))
    report(make_event("updated", 2, "sure", released_by="console:kim"))

    _, reply = social_server.posts(seoul, "sure")
    assert "담당자가 확인함" in reply["value"]["text"]


def test_an_older_event_after_a_newer_one_posts_nothing(
    social_server: SocialServer, seoul: Account
) -> None:
    newer = report(make_event("updated", 3, "late"))
    late = report(make_event("updated", 2, "late", severity="minor"))

    (post,) = social_server.posts(seoul, "late")
    assert post["value"]["kr.koren.incident"]["sequence"] == 3
    assert late == newer | {"created": False}, "the result tells what is posted"


def test_an_accident_that_comes_after_its_end_stays_over(
    social_server: SocialServer, seoul: Account
) -> None:
    end = report(make_event("cleared", 2, "over", jpeg=None))
    redriven = report(make_event("detected", 1, "over"))
    stray = report(make_event("updated", 3, "over"))

    assert redriven == stray == end | {"created": False}
    (post,) = social_server.posts(seoul, "over")
    assert post["value"]["text"].startswith("[상황 종료]")


def test_to_a_first_post_that_its_owner_deleted_nothing_is_added(
    social_server: SocialServer, seoul: Account
) -> None:
    first = report(make_event("detected", 1, "deleted"))
    social_server.delete(seoul, first["uri"])
    again = report(make_event("detected", 1, "deleted"))
    report(make_event("updated", 2, "deleted", severity="minor"))
    report(make_event("cleared", 3, "deleted", jpeg=None))

    assert social_server.posts(seoul, "deleted") == []
    assert (again["uri"], again["cid"], again["created"]) == (first["uri"], None, False)


def test_two_accidents_of_one_moment_are_two_posts(
    social_server: SocialServer, seoul: Account
) -> None:
    assert report(make_event(subject="left"))["uri"] != report(make_event(subject="right"))["uri"]


def test_a_server_that_was_killed_keeps_the_post(
    social_server: SocialServer, seoul: Account
) -> None:
    first = report(make_event(subject="killed"))
    social_server.kill()
    with pytest.raises(https.Unreachable, match=r"no answer from https://127\.0\.0\.1"):
        report(make_event("updated", 2, "killed"))
    social_server.start()

    assert report(make_event(subject="killed")) == first | {"created": False}
    report(make_event("updated", 2, "killed", severity="minor"))
    assert len(social_server.posts(seoul, "killed")) == 2


def test_a_try_whose_answer_was_lost_is_not_posted_twice(
    social_server: SocialServer, seoul: Account, front: Front
) -> None:
    front.cut = "applyWrites"
    with pytest.raises(https.Unreachable, match="applyWrites"):
        report(make_event(subject="lost"))

    assert report(make_event(subject="lost"))["created"] is False
    assert len(social_server.posts(seoul, "lost")) == 1


def test_a_session_is_kept_for_the_next_pod(front: Front, kept: StateDouble) -> None:
    report(make_event(subject="session-1"))
    report(make_event(subject="session-2"))

    assert front.requests.count("createSession") == 1
    (life_s,) = kept.expiries_s.values()
    assert 3600 < life_s < 7200, "forgotten before the server forgets it"


def test_a_session_that_the_server_refuses_is_replaced(front: Front, kept: StateDouble) -> None:
    report(make_event(subject="refused-1"))
    (key,) = kept.values
    claims, _, signature = kept.values[key].rpartition(b".")
    kept.values[key] = claims + b"." + signature[::-1]

    assert report(make_event(subject="refused-2"))["created"]
    assert front.requests.count("createSession") == 2


def test_without_its_state_the_function_still_posts(kept: StateDouble) -> None:
    kept.down = True

    assert report(make_event(subject="stateless"))["created"]


def test_a_wrong_password_is_named(on_bluesky: Path) -> None:
    (on_bluesky / "password").write_text("wrong")

    with pytest.raises(bluesky.XrpcError, match="createSession: 401 AuthenticationRequired"):
        report(make_event(subject="stranger"))


def test_a_server_of_another_authority_is_not_talked_to(on_bluesky: Path, front: Front) -> None:
    (on_bluesky / "ca.crt").unlink()

    with pytest.raises(https.Unreachable, match="certificate"):
        report(make_event(subject="impostor"))
    assert front.requests == []


def test_an_address_without_tls_is_refused(on_bluesky: Path, front: Front) -> None:
    (on_bluesky / "url").write_text(front.url.replace("https", "http"))

    with pytest.raises(ValueError, match="must be like https://"):
        report(make_event(subject="clear"))


def test_an_image_above_the_limit_is_refused_before_it_is_sent(front: Front) -> None:
    too_large = JPEG + b"\0" * (bluesky.IMAGE_MAX_BYTES - len(JPEG) + 1)

    with pytest.raises(Reject, match="2000001 bytes; 2000000 is the most"):
        report(make_event(subject="large", jpeg=too_large))
    assert front.requests == []


def test_the_largest_image_is_taken() -> None:
    largest = JPEG + b"\0" * (bluesky.IMAGE_MAX_BYTES - len(JPEG))

    assert report(make_event(subject="largest", jpeg=largest))["created"]
