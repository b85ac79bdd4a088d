"""A client that leaves while its request is worked on, as its connection tells it."""

import asyncio

import pytest
from starlette.requests import Request

from quartzite.errors import ClientGone
from quartzite.web.connection import DEPARTURE, Departure, while_connected


def _request(departure: Departure) -> Request:
    return Request({"type": "http", "headers": [], "extensions": {DEPARTURE: departure}})


async def _work(begun: asyncio.Event) -> None:
    begun.set()
    await asyncio.Event().wait()


async def test_what_a_client_asked_for_is_given_up_when_it_leaves() -> None:
    """The work is cancelled, and what asked for it hears that nobody is there."""
    departure, begun = Departure(), asyncio.Event()
    asked = asyncio.create_task(while_connected(_request(departure), _work(begun)))
    await begun.wait()
    departure.happen()
    with pytest.raises(ClientGone):
        await asked
    assert departure.calls == set()


async def test_a_client_that_left_before_the_work_began_is_gone() -> None:
    """Nothing is worked on for a client that leaves between its body and the work."""
    departure = Departure()
    departure.happen()
    async with asyncio.timeout(5):
        with pytest.raises(ClientGone):
            await while_connected(_request(departure), _work(asyncio.Event()))


async def test_a_client_that_leaves_after_its_answer_disturbs_nobody() -> None:
    """Work that has ended is forgotten by the connection, which may have a next request under way."""
    departure = Departure()
    assert await while_connected(_request(departure), asyncio.sleep(0, "done")) == "done"
    departure.happen()
    await asyncio.sleep(0)
