"""The publisher against a real broker."""

import time
from typing import Any

import pytest
from conftest import Broker, Pki, Region, until
from samples import accident

from koren_events import (
    ConfigurationError,
    InvalidEvent,
    Publisher,
    PublishRefused,
    Receipt,
    ReceiptState,
    ReceiptTimeout,
    SpoolFull,
    SpoolInUse,
)


def test_an_event_leaves_the_spool_when_its_region_has_it(
    settings: dict[str, Any], region: Region
) -> None:
    event = accident()
    with Publisher(**settings) as publisher:
        publisher.publish(event)
        receipt = publisher.wait(event, timeout_s=5)
        assert (receipt.state, receipt.id) == (ReceiptState.RECEIVED, event.id)
        assert publisher.flush(timeout_s=5)
    assert region.seen == [event.id]
