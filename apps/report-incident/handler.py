"""Reports an incident on the region's social account: one post an incident, with its photo.

Later events are replies to it or edits, as the network's users expect; a repeated or an older event
changes nothing. The account is described by the files of a secret, one value a file:

    provider    bluesky, mastodon or twitter
    bluesky:    url (https://…), handle, password, and ca.crt if the server's authority is private
    mastodon:   url (https://…), access_token, and ca.crt if the server's authority is private
    twitter:    consumer_key, consumer_secret, access_token, access_token_secret

With a second secret, which vlm.py tells of, a vision language model adds to the text that stands
for the photo.
"""

import contextlib
import os

from post_text.incident import Incident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol

    class Account(Protocol):
        """Where incidents are reported."""

        def report(self, incident: Incident) -> dict[str, Any]:
            """Reports the event: {uri, cid, text: {ko, en}, created, url}.

            `text` is the newest that is posted of the incident; `created` says whether this call
            made the incident's first post. Where replies follow the first post, uri, cid and url
            are the first post's, except on twitter: there they are the newest one's.
            """


SECRET = "/run/secrets/sns"
VLM_SECRET = "/run/secrets/vlm"


class Misconfigured(Exception):
    """The secret lacks something; the message says what."""


def handler(event: "Mapping[str, Any]", context: "Mapping[str, Any]") -> "dict[str, Any]":
    """The function: reports the event's incident and returns what is posted.

    Raises Reject when the event can't be posted however often it is tried, RetryAfter when the
    network's rate limit says how long to wait. Whatever else it raises is for the gateway to try
    again: each step may be repeated.
    """
    incident = Incident(event)
    vlm_secret = os.environ.get("VLM_SECRET", VLM_SECRET)
    if os.path.isdir(vlm_secret):
        incident.describe = described(vlm_secret, incident)
    result = account(os.environ.get("SNS_SECRET", SECRET)).report(incident)
    done = "posted" if result["created"] else "the post is"
    print(f"{incident.subject} {incident.sequence} {incident.kind}: {done} {result['uri']}")
    return result


def described(folder: str, incident: Incident) -> "Callable[[], dict[str, str] | None]":
    """What the model that the files of `folder` describe says of the incident's picture: it is
    asked when that is needed, and only once."""
    said: list[dict[str, str] | None] = []

    def describe() -> "dict[str, str] | None":
        if not said:
            import vlm

            try:
                said.append(vlm.Describer(folder).describe(incident))
            except ValueError as error:
                print(f"no description of the picture: {error}")
                said.append(None)
        return said[0]

    return describe


def account(folder: str) -> "Account":
    """The account that the files of `folder` describe. Raises Misconfigured."""
    provider = _read(folder, "provider")
    # Each provider's imports are for its own users to wait for.
    if provider == "bluesky":
        import bluesky

        return bluesky.Account(
            url=_read(folder, "url"),
            handle=_read(folder, "handle"),
            password=_read(folder, "password"),
            authority=_path_if_there(folder, "ca.crt"),
        )
    if provider == "mastodon":
        import mastodon

        return mastodon.Account(
            url=_read(folder, "url"),
            token=_read(folder, "access_token"),
            authority=_path_if_there(folder, "ca.crt"),
        )
    if provider == "twitter":
        import twitter

        return twitter.Account(
            consumer_key=_read(folder, "consumer_key"),
            consumer_secret=_read(folder, "consumer_secret"),
            access_token=_read(folder, "access_token"),
            access_token_secret=_read(folder, "access_token_secret"),
        )
    raise Misconfigured(
        f"the file provider of the secret says {provider!r}; it must be bluesky, mastodon or"
        " twitter"
    )


def _read(folder: str, name: str) -> str:
    try:
        with open(f"{folder}/{name}", encoding="utf-8") as file:
            value = file.read().strip()
    except FileNotFoundError:
        raise Misconfigured(
            f"{folder} has no file {name}; give the function's secret a key of that name"
        ) from None
    if not value:
        raise Misconfigured(f"{folder}/{name} is empty; set that key of the function's secret")
    return value


def _path_if_there(folder: str, name: str) -> str | None:
    path = f"{folder}/{name}"
    return path if os.path.exists(path) else None


with contextlib.suppress(Misconfigured):  # it is told when there is an event to report
    # Loads what the provider needs while the pod still waits for its event.
    account(os.environ.get("SNS_SECRET", SECRET))
