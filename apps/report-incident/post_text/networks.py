"""The text of a post on each network, within the length that the network takes."""

from . import wording

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .incident import Incident

BLUESKY_GRAPHEMES = 300
MASTODON_CHARACTERS = 500
X_WEIGHT = 280

_MASTODON_LINK = 23


def on_bluesky(incident: "Incident") -> wording.Texts:
    """The text on Bluesky. Raises ValueError when none is short enough, as the others do."""
    return wording.post(incident, BLUESKY_GRAPHEMES)


def on_mastodon(incident: "Incident") -> wording.Texts:
    """The text on Mastodon."""
    return wording.post(incident, MASTODON_CHARACTERS, _mastodon_length)


def on_x(incident: "Incident") -> wording.Texts:
    """The text on X."""
    from .x_length import weight  # its patterns take time that other networks need not wait for

    return wording.post(incident, X_WEIGHT, weight)


ON = {"bluesky": on_bluesky, "mastodon": on_mastodon, "twitter": on_x}
"""By the account's provider."""


def _mastodon_length(text: str) -> int:
    # At least what the server counts: graphemes, and every link as 23.
    return len(text) + _MASTODON_LINK * text.count("://")
