# SPDX-License-Identifier: Apache-2.0
import base64
import io

import pytest
from PIL import Image

from koren_runtime.testing import CallFailed


def picture(width, height):
    file = io.BytesIO()
    Image.new("RGB", (width, height), "orange").save(file, "JPEG")
    return {"media_type": "image/jpeg", "base64": base64.b64encode(file.getvalue()).decode()}


def test_a_thumbnail_keeps_the_shape_and_is_kept(call, event, state):
    made = call(event({"image": picture(640, 320)}, subject="incident-1"))
    assert made["thumbnail"] == [160, 80]
    kept = state["thumbnail/incident-1"]
    assert len(kept) == made["bytes"]
    assert Image.open(io.BytesIO(kept)).size == (160, 80)


def test_an_event_without_a_picture_makes_none(call, event, state):
    assert call(event({"severity": "minor"}, subject="incident-1")) == {"thumbnail": None}
    assert not state


def test_what_is_no_picture_is_not_tried_again(call, event):
    image = {"media_type": "image/jpeg", "base64": base64.b64encode(b"no picture").decode()}
    with pytest.raises(CallFailed) as failed:
        call(event({"image": image}, subject="incident-1"))
    assert failed.value.outcome.rejected
