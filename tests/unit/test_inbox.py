"""Flow control: what waits, what is refused and for how long, which lane goes first."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from dispatcher.wire import encode, encode_all
from workers.inbox import Inbox, deliveries_of
from workers.messages import acknowledge, give_back


class FakeBus:
    def __init__(self) -> None:
        self.naks: list[tuple[list[str], float]] = []
        self.acks: list[str] = []

    async def nak(self, replies: Any, delay: float) -> None:
        if replies:
            self.naks.append((list(replies), delay))

    async def ack(self, replies: Any) -> None:
        self.acks += replies


class Rig:
    def __init__(self, limit: int = 4) -> None:
        self.bus, self.limit, self.foreign = FakeBus(), limit, list[str]()
        self.inbox = Inbox(cast(Any, self.bus), self.unreadable, lambda: self.limit)

    async def unreadable(self, message: Any, why: str) -> None:
        self.foreign.append(why)


def message(number: int, attempt: int = 1, delivered: int = 1, body: bytes | None = None) -> Any:
    return SimpleNamespace(
        data=encode(UUID(int=number), attempt, 1) if body is None else body,
        reply=f"$JS.ACK.stream.consumer.{delivered}.{number}.1.1.0",
        subject="t.push",
    )


def numbers(deliveries: Any) -> list[int]:
    return [delivery.task_id.int for delivery in deliveries]


async def test_the_urgent_lane_is_taken_first_whenever_it_was_subscribed() -> None:
    rig = Rig(10)
    low, high = rig.inbox.receiver(30), rig.inbox.receiver(10)
    for number in (1, 2):
        await low(message(number))
    for number in (3, 4):
        await high(message(number))
    assert rig.inbox.arrived.is_set() and len(rig.inbox) == 4
    assert numbers(rig.inbox.take(3)) == [3, 4, 1]
    assert numbers(rig.inbox.take(3)) == [2]
    assert not rig.inbox.arrived.is_set() and len(rig.inbox) == 0


async def test_when_it_is_full_messages_go_back_with_a_growing_delay() -> None:
    rig = Rig(1)
    receive = rig.inbox.receiver(1)
    await receive(message(1))
    for delivered in (1, 2, 4, 20):
        await receive(message(2, delivered=delivered))
    assert rig.inbox.refused == 4 and len(rig.inbox) == 1
    delays = [delay for _, delay in rig.bus.naks]
    for delay, middle in zip(delays, (0.002, 0.004, 0.016, 0.064), strict=True):
        assert middle * 0.75 <= delay <= middle * 1.25


async def test_an_urgent_message_that_finds_it_full_takes_the_place_of_the_newest_less_urgent() -> None:
    rig = Rig(2)
    low, middle, high = (rig.inbox.receiver(priority) for priority in (30, 20, 10))
    await low(message(1))
    await low(message(2, delivered=3))
    await middle(message(3))
    assert [replies for replies, _ in rig.bus.naks] == [[message(2, delivered=3).reply]]
    assert 0.006 <= rig.bus.naks[0][1] <= 0.01
    await high(message(4))
    await low(message(5))
    await middle(message(6))
    await high(message(7))
    await high(message(8))  # among equals, who came first stays
    assert [replies[0].split(".")[5] for replies, _ in rig.bus.naks] == ["2", "1", "5", "6", "3", "8"]
    assert numbers(rig.inbox.take(9)) == [4, 7] and not rig.inbox.arrived.is_set()


async def test_after_a_second_of_saturation_the_delay_may_reach_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("workers.inbox.time.monotonic", lambda: now)
    rig = Rig(0)
    receive = rig.inbox.receiver(1)
    await receive(message(1, delivered=20))
    now = 101.5
    await receive(message(1, delivered=20))
    assert rig.bus.naks[0][1] <= 0.08
    assert 0.75 <= rig.bus.naks[1][1] <= 1.25


async def test_a_second_message_for_the_same_attempt_shares_its_fate() -> None:
    rig = Rig(1)
    receive = rig.inbox.receiver(1)
    await receive(message(1))
    await receive(message(1, delivered=2))
    assert rig.bus.naks == []
    (delivery,) = rig.inbox.take(5)
    assert len(delivery.parcels) == 2


def several(*numbers: int) -> Any:
    return message(numbers[0], body=encode_all([(UUID(int=number), 1, 1) for number in numbers]))


async def test_several_tasks_of_one_message_wait_one_by_one() -> None:
    rig = Rig(3)
    receive = rig.inbox.receiver(1)
    await receive(several(1, 2))
    await receive(several(2, 3, 4))  # the second waits already; a message is taken or refused as a whole
    assert numbers(rig.inbox.take(9)) == [1, 2, 3, 4]
    assert rig.bus.naks == [] and (rig.inbox.messages, rig.inbox.tasks) == (2, 5)
    for number in (5, 6, 7):
        await receive(message(number))
    await receive(several(8, 9))
    assert len(rig.bus.naks) == 1 and numbers(rig.inbox.take(9)) == [5, 6, 7]


async def test_a_message_is_acknowledged_once_all_of_its_tasks_are_decided() -> None:
    rig = Rig(5)
    receive = rig.inbox.receiver(1)
    await receive(several(1, 2, 3))
    one, two, three = rig.inbox.take(3)
    await acknowledge(cast(Any, rig.bus), [one, three])
    assert rig.bus.acks == []
    await acknowledge(cast(Any, rig.bus), [two])
    assert rig.bus.acks == [one.parcels[0].reply]


async def test_a_message_that_was_given_back_is_not_acknowledged_by_its_other_tasks() -> None:
    rig = Rig(5)
    receive = rig.inbox.receiver(1)
    await receive(several(1, 2, 3))
    one, two, three = rig.inbox.take(3)
    await give_back(cast(Any, rig.bus), [one, two], 0.5)
    assert rig.bus.naks == [([one.parcels[0].reply], 0.5)]
    await acknowledge(cast(Any, rig.bus), [three])
    assert rig.bus.acks == []


async def test_urgent_tasks_of_one_message_take_as_many_places() -> None:
    rig = Rig(3)
    low, high = rig.inbox.receiver(30), rig.inbox.receiver(10)
    for number in (1, 2, 3):
        await low(message(number))
    await high(several(7, 8))
    assert numbers(rig.inbox.take(9)) == [7, 8, 1] and len(rig.bus.naks) == 2


async def test_another_attempt_is_another_delivery() -> None:
    rig = Rig(5)
    receive = rig.inbox.receiver(1)
    await receive(message(1, attempt=1))
    await receive(message(1, attempt=2))
    assert [delivery.attempt for delivery in rig.inbox.take(5)] == [1, 2]


async def test_a_closing_inbox_gives_everything_back_for_a_moment_until_nothing_comes() -> None:
    rig = Rig(5)
    receive = rig.inbox.receiver(1)
    await receive(message(1))
    closing = asyncio.ensure_future(rig.inbox.close())
    await asyncio.sleep(0)
    await receive(message(2))  # on its way when we began to leave: the server must not push it into nowhere
    await closing
    assert [delay for _, delay in rig.bus.naks] == [0.25, 0.25]
    assert len(rig.inbox) == 0 and rig.inbox.refused == 1


async def test_a_foreign_message_never_waits_here() -> None:
    rig = Rig()
    await rig.inbox.receiver(1)(message(1, body=b"hello"))
    assert rig.foreign == ["5 bytes instead of 25"] and len(rig.inbox) == 0


@pytest.mark.parametrize(
    ("reply", "delivered"),
    [
        ("$JS.ACK.stream.consumer.3.100.7.1234.0", 3),
        ("$JS.ACK.hub.ACCHASH.stream.consumer.4.100.7.1234.0.random", 4),
        ("", 1),
        ("_INBOX.abc", 1),
        ("$JS.ACK.stream.consumer.x.100.7.1234.0", 1),
    ],
)
def test_the_delivery_count_is_read_from_the_reply_subject(reply: str, delivered: int) -> None:
    assert deliveries_of(reply) == delivered
    assert re.fullmatch(r"\d+", str(deliveries_of(reply)))
