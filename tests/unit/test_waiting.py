"""The waiting room: whole requests or none, and each of them ends."""

import asyncio

import numpy as np
import pytest

from quartzite.batching.waiting import Ticket, WaitingRoom
from quartzite.config import QueueSettings
from quartzite.domain import Vectors
from quartzite.errors import DeadlineExceeded, EngineFault, Overloaded
from simulation import SHAPE, in_virtual_time, items, now


def room(max_tokens: int = 1000, max_requests: int = 10) -> WaitingRoom:
    limits = QueueSettings(max_tokens=max_tokens, max_requests=max_requests)
    return WaitingRoom(SHAPE, limits, asyncio.get_running_loop().time)


def vectors(*first: float) -> Vectors:
    return np.array([[value, 0.0] for value in first], dtype=np.float32)


@in_virtual_time
async def test_a_request_waits_with_all_its_items_or_none() -> None:
    """What would go over the bound of tokens is refused whole, and leaves no trace."""
    waiting = room(max_tokens=100)
    waiting.admit(items(40, 40), deadline=1)
    with pytest.raises(Overloaded):
        waiting.admit(items(5, 16), deadline=1)
    assert (waiting.tokens, waiting.requests) == (80, 1)
    waiting.admit(items(5, 15), deadline=1)
    assert (waiting.tokens, waiting.requests) == (100, 2)


@in_virtual_time
async def test_requests_are_bounded_too() -> None:
    """One request more than the bound is refused, however small."""
    waiting = room(max_requests=2)
    waiting.admit(items(1), deadline=1)
    waiting.admit(items(1), deadline=1)
    with pytest.raises(Overloaded):
        waiting.admit(items(1), deadline=1)


@in_virtual_time
async def test_no_request_is_too_large_for_ever() -> None:
    """A request over the whole bound comes into an empty room, and then the room is full."""
    waiting = room(max_tokens=100)
    waiting.admit(items(200, 200), deadline=1)
    with pytest.raises(Overloaded):
        waiting.admit(items(1), deadline=1)


@in_virtual_time
async def test_items_in_the_engine_take_no_room() -> None:
    """What has been given out no longer counts as waiting."""
    waiting = room(max_tokens=100)
    waiting.admit(items(100), deadline=1)
    waiting.take(1, long=True)
    assert (waiting.tokens, waiting.requests) == (0, 0)
    waiting.admit(items(100), deadline=1)


async def _working(max_wait_ms: int) -> WaitingRoom:
    """Return a room with 900 tokens in it, whose engine has been seen to do 100 tokens a second."""
    limits = QueueSettings(max_wait_ms=max_wait_ms)
    waiting = WaitingRoom(SHAPE, limits, asyncio.get_running_loop().time)
    waiting.admit(items(*[100] * 10), deadline=1000)
    for _ in range(2):
        waiting.came_out(100)
        await asyncio.sleep(1)
    waiting.take(1, long=True)
    return waiting


@in_virtual_time
async def test_who_would_wait_too_long_is_refused_at_once() -> None:
    """By the speed that was measured; a small request, which goes before the large one, need not wait and comes in."""
    waiting = await _working(max_wait_ms=2000)
    waiting.admit(items(10), deadline=1000)
    with pytest.raises(Overloaded):
        waiting.admit(items(*[100] * 20), deadline=1000)
    (await _working(max_wait_ms=20_000)).admit(items(*[100] * 20), deadline=1000)


@in_virtual_time
async def test_who_has_less_time_than_it_takes_is_refused_at_once() -> None:
    """A deadline that would be missed costs nothing: what comes before the request and its own work are counted."""
    waiting = await _working(max_wait_ms=60_000)
    with pytest.raises(Overloaded):
        waiting.admit(items(*[100] * 20), deadline=now() + 25)
    waiting.admit(items(*[100] * 20), deadline=now() + 30)


@in_virtual_time
async def test_an_empty_room_refuses_nobody_for_being_slow() -> None:
    """A request that needs longer than the longest wait still comes in when it need not wait."""
    waiting = await _working(max_wait_ms=1)
    while waiting.take(1, long=True):
        pass
    waiting.admit(items(*[100] * 100), deadline=1000)


@in_virtual_time
async def test_a_request_ends_at_its_deadline_though_nothing_is_scheduled() -> None:
    """The timer alone ends it, and its items are gone."""
    waiting = room()
    ticket = waiting.admit(items(10, 20), deadline=1.5)
    with pytest.raises(DeadlineExceeded, match=r"after 1\.5 s"):
        await ticket.ended
    assert now() == 1.5
    assert waiting.tokens == 0
    assert waiting.take(1, long=True) == []


@in_virtual_time
async def test_expired_items_are_not_given_out_even_if_the_timer_is_late() -> None:
    """When the event loop has been held up past a deadline, the items still cost nothing."""
    clock = 0.0
    waiting = WaitingRoom(SHAPE, QueueSettings(), lambda: clock)
    late = waiting.admit(items(10), deadline=1)
    alive = waiting.admit(items(20), deadline=2)
    clock = 1.0
    assert waiting.take(1, long=True) == [[(alive, 0)]]
    assert isinstance(late.ended.exception(), DeadlineExceeded)


@in_virtual_time
async def test_a_micro_batch_of_expired_items_only_makes_way_for_the_next() -> None:
    """Nothing expired stands in the way of what is alive, though it would have filled a micro-batch alone."""
    clock = 0.0
    waiting = WaitingRoom(SHAPE, QueueSettings(), lambda: clock)
    waiting.admit(items(128, 128), deadline=1)
    alive = waiting.admit(items(200, 200), deadline=2)
    clock = 1.0
    assert [equals[0][0] for equals in waiting.take(1, long=True)] == [alive]


@in_virtual_time
async def test_a_passed_deadline_is_refused_at_the_door() -> None:
    """A request without time left costs nothing."""
    waiting = room()
    with pytest.raises(DeadlineExceeded):
        waiting.admit(items(1), deadline=0)
    assert waiting.tokens == 0


@in_virtual_time
async def test_who_leaves_takes_the_waiting_items_along() -> None:
    """After leaving, nothing of a request is given out and its timer is off."""
    waiting = room()
    ticket = waiting.admit(items(200, 200), deadline=1)
    assert len(waiting.take(1, long=True)) == 1
    waiting.leave(ticket)
    assert (waiting.tokens, waiting.take(1, long=True), waiting.endings) == (0, [], [])
    await asyncio.sleep(2)
    assert not ticket.ended.done()


@in_virtual_time
async def test_a_failed_request_drops_what_still_waits() -> None:
    """The first failure counts; the items not yet given out are dropped."""
    waiting = room()
    ticket = waiting.admit(items(200, 200), deadline=1)
    waiting.take(1, long=True)
    waiting.fail(ticket, EngineFault())
    waiting.fail(ticket, Overloaded())
    assert waiting.tokens == 0
    with pytest.raises(EngineFault):
        await ticket.ended


@in_virtual_time
async def test_failing_all_ends_every_request_with_a_failure_of_its_own() -> None:
    """Waiting or in the engine, each request is told, and the room is empty."""
    waiting = room()
    tickets = [waiting.admit(items(200), deadline=1) for _ in range(3)]
    waiting.take(1, long=True)
    waiting.fail_all(EngineFault)
    failures = [ticket.ended.exception() for ticket in tickets]
    assert all(isinstance(failure, EngineFault) for failure in failures)
    assert len({id(failure) for failure in failures}) == 3
    assert (waiting.tokens, waiting.requests) == (0, 0)
    for ticket in tickets:
        waiting.leave(ticket)


def ticket_of(*sizes: int) -> Ticket:
    return Ticket(items(*sizes), joined=0, deadline=9, ended=asyncio.get_running_loop().create_future())


@in_virtual_time
async def test_vectors_go_to_their_items_in_whatever_order_they_come() -> None:
    """The request ends with the last vector, and has them in the order of its items, as copies."""
    ticket = ticket_of(5, 6, 7)
    rows = vectors(10, 11, 12)
    for index in (2, 0):
        ticket.receive(index, rows[index])
    assert not ticket.ended.done()
    ticket.receive(1, rows[1])
    rows[:] = 0
    assert np.array_equal(ticket.ended.result(), vectors(10, 11, 12))


@in_virtual_time
async def test_vectors_that_come_after_the_end_change_nothing() -> None:
    """A request that has failed stays failed."""
    ticket = ticket_of(5)
    ticket.ended.set_exception(EngineFault())
    ticket.receive(0, vectors(1)[0])
    assert isinstance(ticket.ended.exception(), EngineFault)


@in_virtual_time
async def test_time_is_either_in_the_queue_or_in_the_engine() -> None:
    """Overlapping items count once; between two micro-batches the request is in the queue again."""
    ticket = ticket_of(5, 6, 7)
    ticket.enter(2)
    ticket.enter(3)
    ticket.come_out(5)
    ticket.come_out(6)
    ticket.enter(10)
    ticket.come_out(11)
    assert (ticket.queue_s, ticket.engine_s) == (2 + 4, 4 + 1)
