"""The load generator: one process, keep-alive connections, requests laid out as bytes before the clock starts.

It shares the processor with the server it loads, so it does as little as it can: a request is one write, an answer is
parsed in C and looked into only when asked for. `Load.client_cpu_s` says what it cost all the same.
"""

import asyncio
import itertools
import json
import math
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httptools

Result = TypeVar("Result")

LOST = 0
"""The status of an answer that never came: the connection could not be made or was lost."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One exchange; times are seconds of `time.perf_counter`."""

    status: int
    begun: float
    ended: float
    body: bytes

    @property
    def seconds(self) -> float:
        """Return how long the client waited."""
        return self.ended - self.begun


@dataclass
class Load:
    """What a load came to: the answers by the place of their request, in the order they came."""

    answers: list[tuple[int, Answer]] = field(default_factory=list)
    wall_s: float = 0.0
    client_cpu_s: float = 0.0

    def latencies(self) -> list[float]:
        """Return the seconds of every request that was answered 200, shortest first."""
        return sorted(answer.seconds for _, answer in self.answers if answer.status == 200)

    def statuses(self) -> dict[int, int]:
        """Return how many answers had which status."""
        found: dict[int, int] = {}
        for _, answer in self.answers:
            found[answer.status] = found.get(answer.status, 0) + 1
        return found

    def rate(self, worth: Sequence[float] | None = None) -> float:
        """Return what was answered 200 a second: requests, or the sum of `worth` of each request's place."""
        done = [place for place, answer in self.answers if answer.status == 200]
        total = len(done) if worth is None else sum(worth[place] for place in done)
        return total / self.wall_s if self.wall_s else 0.0


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of the ordered values lie; the nearest that occurred."""
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def post(path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> bytes:
    """Return a whole HTTP/1.1 request with `body` as JSON."""
    content = json.dumps(body, ensure_ascii=False).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(content)}", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    return "\r\n".join([*lines, "", ""]).encode() + content


class Connection(asyncio.Protocol):
    """One connection that carries one request at a time, and is made anew when the server has closed it."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._place = (host, port)
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[tuple[int, bytes]] | None = None

    async def send(self, request: bytes, due: float | None = None) -> Answer:
        """Send a request and return its answer; the wait counts from `due` if that is earlier than now."""
        begun = time.perf_counter() if due is None else due
        loop = asyncio.get_running_loop()
        try:
            if self._transport is None:
                self._reset()
                await loop.create_connection(lambda: self, *self._place)
            assert self._transport
            self._waiting = loop.create_future()
            self._transport.write(request)
            status, body = await self._waiting
        except OSError:
            status, body = LOST, b""
        return Answer(status, begun, time.perf_counter(), body)

    def close(self) -> None:
        """Close the connection, whatever it waits for."""
        if self._transport is not None:
            self._transport.abort()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []

    def connection_made(self, transport: Any) -> None:  # noqa: D102
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._transport = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(exc or ConnectionResetError())

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:  # noqa: D102
        self._parts.append(body)

    def on_message_complete(self) -> None:  # noqa: D102
        status, body = self._parser.get_status_code(), b"".join(self._parts)
        if not self._parser.should_keep_alive():
            self.close()
            self._transport = None
        self._reset()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result((status, body))


async def closed(
    port: int, requests: Sequence[bytes], clients: int, seconds: float = float("inf"), keep_bodies: bool = False
) -> Load:
    """Have `clients` connections work off `requests`, each sending its next as soon as it is answered.

    No request is begun after `seconds`; those begun are waited for, and `wall_s` reaches to the last answer.
    """
    places = iter(range(len(requests)))
    end = time.perf_counter() + seconds

    async def client(load: Load) -> None:
        async with _connected(port) as connection:
            for place in places:
                answer = await connection.send(requests[place])
                load.answers.append((place, answer if keep_bodies else _without_body(answer)))
                if time.perf_counter() >= end:
                    return

    async with _measured() as load:
        await asyncio.gather(*(client(load) for _ in range(clients)))
    return load


async def paced(
    port: int, requests: Sequence[bytes], per_second: float, seconds: float, until: asyncio.Event | None = None
) -> Load:
    """Send a request every 1/`per_second` s whatever was answered, over as many connections as that takes.

    It ends after `seconds`, or when `until` is set; what has been sent is waited for.

    A wait counts from the moment the request was due, so that a slow server cannot hide behind requests not sent.
    """
    idle: list[Connection] = []
    opened: list[Connection] = []
    begun = time.perf_counter()

    async def one(load: Load, place: int, due: float) -> None:
        if not idle:
            opened.append(Connection(port))
            idle.append(opened[-1])
        connection = idle.pop()
        load.answers.append((place, _without_body(await connection.send(requests[place], due))))
        idle.append(connection)

    async with _measured() as load, asyncio.TaskGroup() as tasks:
        for turn in itertools.count():
            due = begun + turn / per_second
            await asyncio.sleep(due - time.perf_counter())
            if due >= begun + seconds or (until is not None and until.is_set()):
                break
            tasks.create_task(one(load, turn % len(requests), due))
    for connection in opened:
        connection.close()
    return load


def _without_body(answer: Answer) -> Answer:
    return Answer(answer.status, answer.begun, answer.ended, b"") if answer.body else answer


@asynccontextmanager
async def _connected(port: int) -> AsyncIterator[Connection]:
    connection = Connection(port)
    try:
        yield connection
    finally:
        connection.close()


@asynccontextmanager
async def _measured() -> AsyncIterator[Load]:
    load, begun, cpu = Load(), time.perf_counter(), time.process_time()
    yield load
    load.wall_s, load.client_cpu_s = time.perf_counter() - begun, time.process_time() - cpu


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a load to its end, on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
