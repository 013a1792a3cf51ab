# SPDX-License-Identifier: Apache-2.0
"""Prints each message of the MQTT topic `common` and gives it back."""


def handler(event, context):
    """Give the message back; the event's receipt has it."""
    print(event["extensions"]["mqtttopic"], event["data"])
    return {"topic": event["extensions"]["mqtttopic"], "said": event["data"]}
