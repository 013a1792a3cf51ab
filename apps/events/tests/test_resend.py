"""When an event is sent again."""

from koren_events.resend import RESEND_AFTER_S, Outbox


def sent_and_acknowledged(now: float = 0.0, region: str = "seoul") -> Outbox:
    outbox = Outbox()
    outbox.add("a", region, "incident")
    assert outbox.take(now, room=20) == ["a"]
    outbox.acknowledged("a", now)
    return outbox


def copies(outbox: Outbox, *, seconds: int, every_s: int, reason: str) -> int:
    """How often the one event goes out while the reason comes again and again."""
    count = 0
    for now in range(1, seconds):
        if now % every_s == 0:
            if reason == "connected":
                outbox.connected(now)
            else:
                outbox.region_returned("seoul", now)
        for key in outbox.take(now, room=20):
            outbox.acknowledged(key, now)
            count += 1
    return count


def test_an_acknowledged_event_is_left_alone_for_ten_minutes() -> None:
    outbox = sent_and_acknowledged()
    assert outbox.take(RESEND_AFTER_S - 0.1, room=20) == []
    assert outbox.next_due_at == RESEND_AFTER_S
    assert outbox.take(RESEND_AFTER_S, room=20) == ["a"]


def test_a_new_connection_sends_it_again_within_two_seconds() -> None:
    outbox = sent_and_acknowledged(now=100)
    outbox.connected(130)
    assert outbox.take(130, room=20) == []  # its receipt may be waiting at the broker
    assert outbox.next_due_at <= 132
    assert outbox.take(132, room=20) == ["a"]


def test_only_events_of_the_region_that_returned_go_again() -> None:
    outbox = sent_and_acknowledged()
    outbox.region_returned("busan", 50)
    assert outbox.take(60, room=20) == []
    outbox.region_returned("seoul", 60)
    assert outbox.take(62, room=20) == ["a"]


def test_a_cut_of_three_hours_is_not_filled_with_copies() -> None:
    hours = 3
    for reason in ("connected", "region_returned"):
        sent = copies(sent_and_acknowledged(), seconds=hours * 3600, every_s=5, reason=reason)
        assert 6 * hours <= sent <= 10 + 6 * hours
    assert copies(sent_and_acknowledged(), seconds=3600, every_s=9999, reason="connected") == 5


def test_reasons_in_a_row_do_not_put_it_off() -> None:
    outbox = sent_and_acknowledged()
    for tenth in range(100, 120):
        outbox.connected(tenth / 10)
    assert outbox.take(12, room=20) == ["a"]


def test_a_receipt_ends_it_in_every_state_and_a_second_one_is_no_news() -> None:
    outbox = Outbox()
    for key in ("a", "b", "c"):
        outbox.add(key, "seoul", key)
    assert outbox.take(0, room=2) == ["a", "b"]
    outbox.acknowledged("a", 0)
    for key in ("a", "b", "c"):
        assert outbox.received(key)
        assert not outbox.received(key)
    assert outbox.take(RESEND_AFTER_S * 2, room=20) == []
    assert outbox.in_flight == 0


def test_what_an_earlier_process_had_acknowledged_waits_its_turn() -> None:
    outbox = Outbox()
    outbox.add("old", "seoul", "old", sends=3, sent_at=1000)
    outbox.add("unsent", "seoul", "unsent")
    outbox.connected(1002)
    assert outbox.take(1002, room=20) == ["unsent"]
    assert outbox.take(1004, room=20) == ["old"]


def test_no_more_than_the_room_is_in_flight() -> None:
    outbox = Outbox()
    for number in range(5):
        outbox.add(str(number), "seoul", str(number))
    assert outbox.take(0, room=3) == ["0", "1", "2"]
    assert outbox.in_flight == 3
    assert outbox.take(0, room=0) == []


def test_a_broker_that_loses_what_it_acknowledged_puts_no_event_before_an_older_one() -> None:
    outbox = Outbox()
    outbox.add("older", "seoul", "incident")
    outbox.add("newer", "seoul", "incident")
    assert outbox.take(0, room=20) == ["older"]
    outbox.acknowledged("older", 0)
    # The edge's broker is killed, and back before anybody has heard of it.
    assert outbox.take(1, room=20) == []
    outbox.region_returned("seoul", 2)
    assert outbox.take(4, room=20) == ["older"]
    outbox.acknowledged("older", 4)
    outbox.received("older")
    assert outbox.take(4, room=20) == ["newer"]
