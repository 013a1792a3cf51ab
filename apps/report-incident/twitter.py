"""Posts on an X (Twitter) account, with tweepy.

X knows no edits: an incident is one post, and its end is a reply to it. Which post that is, the
region's state keeps. A try that died after posting and before it could keep that is found out by
X's refusal to post the same text again.
"""

import hashlib
import json

import post_text.x_length  # noqa: F401  # networks needs it once there is an event
import tweepy  # type: ignore[import-untyped]
from post_text import networks, wording
from rate_limit import wait_s
from requests.adapters import HTTPAdapter

from koren_runtime import RetryAfter, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from post_text.incident import Image, Incident
    from requests import PreparedRequest, Response

IMAGE_MAX_BYTES = 5 * 1024 * 1024

_TIMEOUT_S = 20.0
# Longer than an incident's events, dead letters among them, are of any interest.
_KEPT_S = 30 * 86400
_UPLOAD = "https://api.twitter.com/2/media/upload"


class Account:
    """The account that the access token is of; the consumer key names the app that posts."""

    def __init__(
        self,
        *,
        consumer_key: str,
        consumer_secret: str,
        access_token: str,
        access_token_secret: str,
    ) -> None:
        self._keys = (consumer_key, consumer_secret, access_token, access_token_secret)
        self.client = tweepy.Client(None, *self._keys)
        self.client.session.mount("https://", _TimeLimit())
        # An access token begins with its user's id.
        self._user_id = access_token.partition("-")[0]

    def report(self, incident: "Incident") -> "dict[str, Any]":
        """Posts the incident, or that it is over; does nothing for an update, for an event that is
        reported already, and for one that comes after the incident's end.

        Raises tweepy.TweepyException, requests.RequestException or StateError, Reject when no try
        can post it, RetryAfter when X says how long its rate limit lasts.
        """
        try:
            return self._report(incident)
        except tweepy.HTTPException as error:
            later = _later(error)
            if later is None:
                raise
            raise later from error

    def _report(self, incident: "Incident") -> "dict[str, Any]":
        name = f"{incident.region}\n{incident.subject}".encode()
        key = "post-" + hashlib.sha256(name).hexdigest()[:32]
        posted = _posted(key)
        created = posted is None
        if posted is None:
            posted = self._once(key, incident, reply_to=None)
        elif incident.kind == "cleared" and posted["sequence"] < incident.sequence:
            end = f"{key}-cleared"
            posted = _posted(end) or self._once(end, incident, reply_to=posted["id"])
        url = f"https://x.com/i/web/status/{posted['id']}"
        return {
            "uri": url,
            "cid": None,
            "text": posted["text"],
            "created": created,
            "url": url,
        }

    def _once(self, key: str, incident: "Incident", *, reply_to: str | None) -> "dict[str, Any]":
        incident.check_image(IMAGE_MAX_BYTES)
        image = incident.image
        texts = networks.on_x(incident)
        media = [self._upload(image, wording.alt(incident))] if image else None
        posted = {
            "id": self._post(texts.joined(), media, reply_to),
            "sequence": incident.sequence,
            "text": texts.as_dict(),
        }
        state.put(key, json.dumps(posted, ensure_ascii=False).encode(), expires_s=_KEPT_S)
        return posted

    def _post(self, text: str, media: list[str] | None, reply_to: str | None) -> str:
        try:
            answer = self.client.create_tweet(
                text=text, media_ids=media, in_reply_to_tweet_id=reply_to
            )
        except tweepy.Forbidden as error:
            if not any("duplicate" in message for message in error.api_messages):
                raise
            found = self._find(text)
            if found is None:
                raise
            return found
        return str(answer.data["id"])

    def _upload(self, image: "Image", alt: str) -> str:
        # tweepy knows only the retired upload of version 1.1: its session and signature do this.
        response = self.client.session.post(
            _UPLOAD,
            data={"media_category": "tweet_image", "media_type": "image/jpeg"},
            files={"media": ("accident.jpg", image.jpeg, "image/jpeg")},
            auth=tweepy.OAuth1UserHandler(*self._keys).apply_auth(),
        )
        if response.status_code >= 400:
            raise tweepy.HTTPException(response)
        media_id = str(response.json()["data"]["id"])
        self.client.request(
            "POST",
            "/2/media/metadata",
            json={"id": media_id, "metadata": {"alt_text": {"text": alt}}},
            user_auth=True,
        )
        return media_id

    def _find(self, text: str) -> str | None:
        answer = self.client.get_users_tweets(self._user_id, max_results=20, user_auth=True)
        for tweet in answer.data or ():
            # X adds a picture's link to the text.
            if tweet.text == text or tweet.text.startswith(f"{text} https://t.co/"):
                return str(tweet.id)
        return None


def _later(error: "tweepy.HTTPException") -> RetryAfter | None:
    if error.response.status_code != 429:
        return None
    headers = error.response.headers
    # Beside the limit of each call there are those of a day, which last longer.
    resets = [headers.get("x-rate-limit-reset")]
    for limit in ("x-app-limit-24hour", "x-user-limit-24hour"):
        if headers.get(f"{limit}-remaining") == "0":
            resets.append(headers.get(f"{limit}-reset"))
    seconds = wait_s(resets, headers.get("retry-after"))
    return None if seconds is None else RetryAfter(seconds, str(error))


def _posted(key: str) -> "dict[str, Any] | None":
    entry = state.get(key)
    found: dict[str, Any] | None = json.loads(entry.value) if entry else None
    return found


class _TimeLimit(HTTPAdapter):
    """tweepy's Client would wait for ever."""

    def send(self, request: "PreparedRequest", *args: "Any", **options: "Any") -> "Response":
        return super().send(request, *args, **(options | {"timeout": _TIMEOUT_S}))
