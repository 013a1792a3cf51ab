import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import handler
import pytest

FUNCTION = Path(handler.__file__).parent


def test_posting_on_bluesky_starts_without_what_others_need() -> None:
    code = "import sys, handler, bluesky; print(*sys.modules)"
    path = [str(FUNCTION), *(entry for entry in sys.path if entry.endswith("/runtime/src"))]
    run = subprocess.run(
        ["/usr/bin/python3.11", "-I", "-S", "-c", f"import sys; sys.path[:0] = {path}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert not {"tweepy", "requests", "dataclasses", "inspect", "typing", "asyncio"} & set(
        run.stdout.split()
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no file provider; give the function's secret a key of that name"),
        ({"provider": "mastodon"}, "says 'mastodon'; it must be bluesky or twitter"),
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
