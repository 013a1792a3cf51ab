# SPDX-License-Identifier: Apache-2.0
def test_a_message_is_given_back(call, event):
    assert call(event.read("event.json")) == {"topic": "common", "said": {"success": "ok"}}


def test_a_message_may_be_any_text(call, event):
    assert call(event.read("event.json", data="켜짐"))["said"] == "켜짐"
