import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import handler
import pytest


def loaded(folder: Path) -> set[str]:
    """The modules of a pod that has loaded the handler, with a secret in `folder`."""
    path = [entry for entry in sys.path if entry != str(Path(__file__).parent)]
    code = f"import sys; sys.path[:0] = {path}; import handler; print(*sys.modules)"
    run = subprocess.run(
        ["/usr/bin/python3.11", "-I", "-S", "-c", code],
        env={"SNS_SECRET": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stdout.split())


def test_posting_on_bluesky_starts_without_what_others_need(secret: Callable[..., Path]) -> None:
    modules = loaded(secret(provider="bluesky", url="https://x", handle="x", password="x"))

    assert "bluesky" in modules
    assert not {"tweepy", "requests", "dataclasses", "inspect", "typing", "asyncio"} & modules


def test_posting_on_twitter_starts_with_tweepy(secret: Callable[..., Path]) -> None:
    keys = dict.fromkeys(
        ("consumer_key", "consumer_secret", "access_token", "access_token_secret"), "x"
    )

    assert "tweepy" in loaded(secret(provider="twitter", **keys))


def test_without_a_secret_the_handler_can_be_loaded(tmp_path: Path) -> None:
    assert "handler" in loaded(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no file provider; give the function's secret a key of that name"),
        ({"provider": "fax"}, "says 'fax'; it must be bluesky, mastodon or twitter"),
        ({"provider": "mastodon", "url": "https://x"}, "no file access_token"),
        ({"provider": "bluesky", "url": "https://x"}, "no file handle"),
        ({"provider": "bluesky", "url": "https://x", "handle": "\n"}, "handle is empty"),
        ({"provider": "twitter"}, "no file consumer_key"),
    ],
)
def test_what_the_secret_lacks_is_named(
    secret: Callable[..., Path], files: dict[str, str], message: str
) -> None:
    folder = secret(**files)

    with pytest.raises(handler.Misconfigured, match=message):
        handler.account(str(folder))
