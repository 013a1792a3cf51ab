# SPDX-License-Identifier: Apache-2.0
"""Makes a small picture of an accident's picture and keeps it for a day."""

import base64
import io

from PIL import Image, UnidentifiedImageError

from koren_runtime import Reject, state

WIDTH = HEIGHT = 160
DAY_S = 86400


def handler(event, context):
    """Keep the incident's thumbnail, and give its size."""
    image = event["data"].get("image")
    if image is None:
        return {"thumbnail": None}
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(image["base64"])))
        picture.thumbnail((WIDTH, HEIGHT))
    except (UnidentifiedImageError, OSError) as error:
        # No other attempt would find another picture.
        raise Reject(f"the picture can't be read: {error}") from error
    small = io.BytesIO()
    picture.save(small, "JPEG", quality=80)
    state.put(f"thumbnail/{event['extensions']['subject']}", small.getvalue(), expires_s=DAY_S)
    return {"thumbnail": list(picture.size), "bytes": small.tell()}
