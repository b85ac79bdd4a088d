"""Too many connections, silent ones, and clients that do not read: each costs its own client and nobody else."""

import asyncio
import json
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest

from held_server import held_server
from quartzite.cli.connections import DESCRIPTORS, SILENCE_S, Connections, allowed
from quartzite.config import RequestSettings
from quartzite.engines.fake import FakeEngine
from quartzite.telemetry.metrics import Metrics
from quartzite.web.app import build_refusal
from serving import CLASSIC, FakeService, RequestLog, fake_service, listening

ASK = b"GET /ready HTTP/1.1\r\nHost: service\r\n\r\n"

IN_TIME_S = 10
"""How long a test waits for what must come at once."""


def embeddings(items: int = 1) -> bytes:
    """Return a request for the vectors of `items` items."""
    body = json.dumps({"model": CLASSIC, "input": [[5]] * items}).encode()
    return b"POST /v1/embeddings HTTP/1.1\r\nHost: service\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class Client:
    """A connection of its own, used byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, data: bytes) -> None:
        """Send `data`."""
        self._writer.write(data)

    async def ask(self, request: bytes = ASK) -> tuple[bytes, bytes]:
        """Send `request` and return head and body of the answer."""
        self.send(request)
        return await self.answer()

    async def answer(self) -> tuple[bytes, bytes]:
        """Return head and body of the next answer."""
        async with asyncio.timeout(IN_TIME_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
            return head, await self._reader.readexactly(int(length.split(b":")[1]))

    async def rest(self) -> int:
        """Return how many bytes come until the server has closed the connection."""
        total = 0
        async with asyncio.timeout(IN_TIME_S):
            with suppress(ConnectionResetError):
                while chunk := await self._reader.read(2**16):
                    total += len(chunk)
        return total

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


class Site:
    """A service that has room for `limit` connections, a clock for them, and what opens some."""

    def __init__(self, limit: int) -> None:
        self.now = 0.0
        self.metrics = Metrics()
        self.connections = Connections(limit, build_refusal(self.metrics), self.metrics, lambda: self.now)

    @asynccontextmanager
    async def open(self, engine: FakeEngine | None = None) -> AsyncIterator[FakeService]:
        """Run it."""
        async with (
            fake_service(engine, RequestSettings(max_inputs_per_request=2000)) as service,
            self._listening(service) as url,
        ):
            with ExitStack() as self._opened:
                self._url = url
                yield service

    def _listening(self, service: FakeService) -> AbstractAsyncContextManager[httpx.URL]:
        return listening(service.app, http=self.connections.protocol)

    async def client(self, buffer_bytes: int | None = None) -> Client:
        """Open a connection, which holds no more than `buffer_bytes` unread on the client's side."""
        sock = socket.socket()
        if buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (self._url.host, self._url.port))
        client = Client(*await asyncio.open_connection(sock=sock, limit=buffer_bytes or 2**16))
        self._opened.callback(client.close)
        return client

    async def counted(self, series: str) -> float:
        """Return the value of one series of the metrics."""
        lines = (await self.metrics.exposition()).decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(series))


async def test_one_too_many_takes_the_place_of_the_longest_idle() -> None:
    """With all places taken a new connection is answered, and the one that has not been used for longest is closed."""
    site = Site(limit=2)
    async with site.open():
        first, second = await site.client(), await site.client()
        for client in (first, second, first):
            assert (await client.ask())[0].startswith(b"HTTP/1.1 200 ")
        third = await site.client()
        assert (await third.ask())[0].startswith(b"HTTP/1.1 200 ")
        assert await second.rest() == 0
        assert await site.counted("quartzite_connections_displaced_total ") == 1
        for client in (first, third):
            assert (await client.ask())[0].startswith(b"HTTP/1.1 200 ")


async def test_where_none_is_idle_one_too_many_is_told_503() -> None:
    """While every connection has a request running, another one is answered 503 in the service's words and closed."""
    site = Site(limit=1)
    async with site.open() as service:
        service.engine.hold()
        busy = await site.client()
        busy.send(embeddings())
        await service.engine.entered.wait()
        surplus = await site.client()
        head, body = await surplus.ask(embeddings())
        assert await surplus.rest() == 0
        assert await site.counted('quartzite_requests_total{model="",path="",status="503"}') == 1
        service.engine.release()
        assert (await busy.answer())[0].startswith(b"HTTP/1.1 200 ")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert json.loads(body)["code"] == 50505
    lines = head.lower().split(b"\r\n")
    assert {b"retry-after: 1", b"connection: close"} <= set(lines)
    assert any(line.startswith(b"x-siliconcloud-trace-id: ti_") for line in lines)


REFUSED = {
    400: b"what is no request\r\n\r\n",
    431: b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000,
}


@pytest.mark.parametrize("status", REFUSED)
async def test_what_does_not_become_a_request_is_counted(status: int) -> None:
    """Refusals of bytes and of heads are in the metrics as those of requests are."""
    site = Site(limit=2)
    async with site.open():
        client = await site.client()
        assert (await client.ask(REFUSED[status]))[0].startswith(b"HTTP/1.1 %d " % status)
        assert await site.counted(f'quartzite_requests_total{{model="",path="",status="{status}"}}') == 1


async def test_one_too_many_that_says_nothing_makes_room_for_the_next() -> None:
    """Connections over the limit do not pile up: a silent one is closed when another comes."""
    site = Site(limit=1)
    async with site.open() as service:
        service.engine.hold()
        busy = await site.client()
        busy.send(embeddings())
        await service.engine.entered.wait()
        silent = await site.client()
        silent.send(ASK[:5])
        dribbling = await site.client()
        assert await silent.rest() == 0
        dribbling.send(embeddings()[:-5])
        assert (await dribbling.answer())[0].startswith(b"HTTP/1.1 503 ")
        assert await dribbling.rest() == 0
        last = await site.client()
        assert (await last.ask())[0].startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("said", [b"", ASK[:20], ASK, ASK + ASK[:20]], ids=["nothing", "half", "one", "one and half"])
async def test_a_silent_connection_is_closed(said: bytes) -> None:
    """Nothing, half a head or no second request: after a minute and a half the connection ends, however it dribbles."""
    site = Site(limit=10)
    async with site.open():
        client, other = await site.client(), await site.client()
        assert (await other.ask())[0].startswith(b"HTTP/1.1 200 ")
        client.send(said)
        if said.startswith(ASK):
            await client.answer()
        site.now = SILENCE_S / 2
        assert (await other.ask())[0].startswith(b"HTTP/1.1 200 ")
        site.now = SILENCE_S
        site.connections.sweep()
        assert await client.rest() == 0
        assert (await other.ask())[0].startswith(b"HTTP/1.1 200 ")


async def test_a_connection_with_a_running_request_is_not_silent() -> None:
    """However long a request takes, and also when another stands behind it in line, its connection stays."""
    site = Site(limit=10)
    async with site.open() as service:
        service.engine.hold()
        client = await site.client()
        client.send(embeddings() + embeddings())
        for _ in range(2):
            await service.engine.entered.wait()
            site.now += 10 * SILENCE_S
            site.connections.sweep()
            service.engine.release()
            service.engine.hold()
            assert (await client.answer())[0].startswith(b"HTTP/1.1 200 ")


async def test_an_answer_that_nobody_reads_is_dropped(request_log: RequestLog) -> None:
    """A client that takes no answer loses it after a minute and a half, and the memory is free again."""
    site = Site(limit=10)
    async with site.open(FakeEngine(dimensions=1000)):
        client = await site.client(buffer_bytes=4096)
        client.send(embeddings(items=2000))
        assert (await request_log.next())["status"] == 200
        site.now = SILENCE_S
        site.connections.sweep()
        assert 0 < await client.rest() < 20_000_000


def _get(client: HTTPConnection, path: str) -> tuple[int, str]:
    client.request("GET", path)
    answer = client.getresponse()
    return answer.status, answer.read().decode()


def test_running_out_of_files_closes_idle_connections_and_no_busy_one(tmp_path: Path) -> None:
    """With fewer files than connections wanted a server says so, and answers each of many clients that stay open."""
    files = DESCRIPTORS + 20
    with held_server(tmp_path, {}, files=files) as server, ExitStack() as opened:
        for _ in range(3 * files):
            client = HTTPConnection("127.0.0.1", server.port)
            opened.callback(client.close)
            assert _get(client, "/ready")[0] == 200
        _, metrics = _get(client, "/metrics")
        assert "at most 20 connections: the system's limit of open files" in server.logged()
    assert "quartzite_connections 20.0" in metrics


@pytest.mark.parametrize(
    ("limit", "raised_to", "result"),
    [
        ((50, 200), 200, 100),
        ((5000, 5000), 5000, 1000),
        ((50, -1), 1100, 1000),
        ((-1, -1), -1, 1000),
        ((10, 10), 10, 1),
    ],
)
def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be(
    limit: tuple[int, int], raised_to: int, result: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many connections as wanted, or what the hard limit leaves besides the files that the server itself needs."""
    now = [limit]
    monkeypatch.setattr(resource, "getrlimit", lambda _: now[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, to: now.append(to))
    assert allowed(1000) == result
    assert now[-1] == (raised_to, limit[1])


def test_a_limit_that_the_system_does_not_grant_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where raising fails, what there is counts."""

    def refuse(_which: int, _to: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (300, -1))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert allowed(1000) == 300 - DESCRIPTORS
