"""Many large bodies at once: what is held of them is bounded, and nobody waits for room that others hold."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from held_server import MODEL, held_server
from quartzite.config import RequestSettings
from quartzite.web.connection import Bodies
from serving import CLASSIC, RequestLog, exchange, fake_service, listening

HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: service\r\n"
_PACKET = 2**18
ROOM = RequestSettings(max_body_bytes=600, max_bodies_bytes=1000)
BODY = json.dumps({"model": CLASSIC, "input": [[5]]}).encode().ljust(600)
WHOLE = HEAD + b"Content-Length: 600\r\n\r\n" + BODY


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Semaphore]:
    """Released each time that bytes of a body have been taken in."""
    count, take = asyncio.Semaphore(0), Bodies.take

    def counting(self: Bodies, size: int) -> None:
        take(self, size)
        count.release()

    monkeypatch.setattr(Bodies, "take", counting)
    return count


async def test_who_only_says_that_much_will_come_keeps_nobody_out(taken: asyncio.Semaphore) -> None:
    """Announced bytes take no room before they arrive."""
    async with fake_service(requests=ROOM) as service, listening(service.app) as url:
        writers = []
        for _ in range(5):
            writers.append((await asyncio.open_connection(url.host, url.port))[1])
            writers[-1].write(WHOLE[:-590])
            await taken.acquire()
        assert (await exchange(url, WHOLE))[0].startswith(b"HTTP/1.1 200 ")
        for writer in writers:
            writer.close()


async def test_who_leaves_within_a_body_gives_the_room_back(taken: asyncio.Semaphore, request_log: RequestLog) -> None:
    """A connection that ends early, as well as any failure, ends what is held for it."""
    async with fake_service(requests=ROOM) as service, listening(service.app) as url:
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(WHOLE[:-1])
        await taken.acquire()
        writer.close()
        assert (await request_log.next())["status"] == 499
        assert (await exchange(url, WHOLE))[0].startswith(b"HTTP/1.1 200 ")


async def test_many_large_bodies_at_once_do_not_bloat_the_server(tmp_path: Path) -> None:
    """Of 400 MB sent at once 32 MB are held: the others are told 503, those held are answered, memory stays flat."""
    size, clients = 8 * 2**20, 48
    room: dict[str, dict[str, Any]] = {"requests": {"max_body_bytes": 2 * size, "max_bodies_bytes": 4 * size}}
    content = json.dumps({"model": MODEL, "input": "word " * (size // 5 - 100)}).encode().ljust(size)
    with held_server(tmp_path, room) as server:
        url = httpx.URL(server.url)
        before = _peak_mb(server.process.pid)
        all_sent = asyncio.Barrier(clients)
        statuses = await asyncio.gather(*(_send_slowly(url, content, all_sent) for _ in range(clients)))
        grown = _peak_mb(server.process.pid) - before
    assert set(statuses) == {400, 503}  # too long for the model, which is told once it has been read
    assert 1 <= statuses.count(400) <= clients / 4
    assert grown < 150


@pytest.mark.heavy
async def test_two_thousand_bodies_of_32_mb_do_not_bloat_the_server(tmp_path: Path) -> None:
    """Of 64 GB sent at once the server, with its defaults, holds 512 MB; who reads no refusal in 10 s is cut off."""
    size, clients = RequestSettings().max_body_bytes, 2000
    content = json.dumps({"model": MODEL, "input": "word " * (size // 5 - 100)}).encode().ljust(size)
    with held_server(tmp_path, {"requests": {"body_timeout_ms": 600_000}}) as server:
        url = httpx.URL(server.url)
        before = _peak_mb(server.process.pid)
        all_sent = asyncio.Barrier(clients)
        statuses = await asyncio.gather(*(_send_slowly(url, content, all_sent) for _ in range(clients)))
        grown = _peak_mb(server.process.pid) - before
    told = f"{statuses.count(400)} read, {statuses.count(503)} refused, {statuses.count(0)} cut; {grown:.0f} MB more"
    print(told)  # noqa: T201  the figure of the documents
    assert {400, 503} <= set(statuses) <= {400, 503, 0}
    assert grown < 1280, told


async def _send_slowly(url: httpx.URL, content: bytes, all_sent: asyncio.Barrier) -> int:
    """Send all but the last byte, and that when everyone has come so far; return the status of the answer, or 0."""
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(content))
    whole = memoryview(content)[:-1]
    with suppress(ConnectionError):  # who has been refused may go on sending for a while only
        for begin in range(0, len(whole), _PACKET):
            writer.write(whole[begin : begin + _PACKET])
            await writer.drain()
    await all_sent.wait()
    writer.write(content[-1:])
    try:
        return int((await reader.readuntil(b"\r\n\r\n")).split()[1])
    except (ConnectionError, asyncio.IncompleteReadError):
        return 0
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def _peak_mb(pid: int) -> float:
    """Return the most memory that a process has had resident."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
