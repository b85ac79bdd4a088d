"""The load generator of the benchmarks, against a real server on loopback."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import client
from serving import listening


class Echo:
    """Answers with the body it got; holds all requests until `full` of them are in its hands; closes when told to."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.in_hand = self.most_in_hand = 0
        self.full = 1
        self.go = asyncio.Event()
        self.closes = False

    async def answer(self, request: Request) -> Response:
        body = await request.body()
        self.seen.append(body)
        self.in_hand += 1
        self.most_in_hand = max(self.most_in_hand, self.in_hand)
        if self.in_hand == self.full:
            self.go.set()
        await self.go.wait()
        self.in_hand -= 1
        headers = {"connection": "close"} if self.closes else {}
        return Response(body, status_code=503 if b"refuse" in body else 200, headers=headers)


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Echo, int]]:
    echo = Echo()
    async with listening(Starlette(routes=[Route("/echo", echo.answer, methods=["POST"])])) as url:
        assert url.port
        yield echo, url.port


def request(**body: Any) -> bytes:
    return client.post("/echo", body)


async def test_a_closed_load_sends_every_request_once(echo: tuple[Echo, int]) -> None:
    """Each of the requests is sent once, whatever the number of clients, and answers are filed by place."""
    server, port = echo
    load = await client.closed(port, [request(n=n) for n in range(20)], clients=3, keep_bodies=True)
    assert sorted(server.seen) == sorted(b'{"n": %d}' % n for n in range(20))
    assert {place: answer.body for place, answer in load.answers} == {n: b'{"n": %d}' % n for n in range(20)}


async def test_a_client_has_one_request_under_way(echo: tuple[Echo, int]) -> None:
    """Four clients have four requests in the server's hands at most, and all four at some time."""
    server, port = echo
    server.full = 4
    await client.closed(port, [request()] * 12, clients=4)
    assert server.most_in_hand == 4


async def test_a_load_whose_time_is_over_begins_nothing_more(echo: tuple[Echo, int]) -> None:
    """With no time at all, each client ends after the request it has begun."""
    load = await client.closed(echo[1], [request()] * 10, clients=2, seconds=0)
    assert len(load.answers) == 2


async def test_a_rate_counts_only_what_was_answered(echo: tuple[Echo, int]) -> None:
    """Refused requests are counted by status and add nothing to the rate."""
    load = await client.closed(echo[1], [request(), request(refuse=True), request()], clients=1)
    assert load.statuses() == {200: 2, 503: 1}
    assert len(load.latencies()) == 2
    assert load.rate([1, 1000, 5]) == pytest.approx(6 / load.wall_s)


async def test_a_closed_connection_is_made_anew(echo: tuple[Echo, int]) -> None:
    """A server that closes after each answer is answered to with a new connection each time."""
    echo[0].closes = True
    load = await client.closed(echo[1], [request()] * 3, clients=1)
    assert load.statuses() == {200: 3}


async def test_a_server_that_is_not_there_is_told(unused_tcp_port: int) -> None:
    """A request that cannot be sent is an answer of status LOST, not an error."""
    load = await client.closed(unused_tcp_port, [request()], clients=1)
    assert load.statuses() == {client.LOST: 1}
    assert load.rate() == 0


async def test_a_paced_load_does_not_wait_for_answers(echo: tuple[Echo, int]) -> None:
    """All requests of a paced load are sent while the server still holds the first."""
    server, port = echo
    server.full = 5
    load = await client.paced(port, [request()], per_second=1000, seconds=0.005)
    assert load.statuses() == {200: 5}
    assert load.latencies()[-1] >= 0.004  # the first waited from when it was due until after the last was


async def test_a_wait_counts_from_when_the_request_was_due(echo: tuple[Echo, int]) -> None:
    """A request that was due a hundred seconds ago has waited for as long, however quickly it is answered now."""
    connection = client.Connection(echo[1])
    answer = await connection.send(request(), due=time.perf_counter() - 100)
    connection.close()
    assert answer.seconds > 100


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 5), (0.9, 9), (0.99, 10), (1.0, 10)])
def test_a_percentile_is_a_value_that_occurred(share: float, value: int) -> None:
    """Of the values 1 to 10, the share tells which."""
    assert client.percentile(range(1, 11), share) == value
