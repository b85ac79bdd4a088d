"""The head of an answer leaves with its body, in one write; where there is no body it leaves all the same."""

import asyncio
import json
from functools import partial
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from quartzite.web.protocol import Bounds, Protocol
from serving import CLASSIC, FakeService, exchange, listening

BODY = json.dumps({"model": CLASSIC, "input": "text"}).encode()
POST = b"POST /v1/embeddings HTTP/1.1\r\nHost: service\r\nContent-Length: %d\r\n" % len(BODY)


class _Wire:
    """Passes everything on to a transport and keeps what was written, call by call."""

    def __init__(self, transport: Any, writes: list[bytes]) -> None:
        self._transport = transport
        self._writes = writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._transport.write(data)

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self._writes.append(b"".join(parts))
        self._transport.writelines(parts)


class _Watched(Protocol):
    def __init__(self, *, writes: list[bytes], **named: Any) -> None:
        super().__init__(bounds=Bounds(), **named)
        self._writes = writes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(_Wire(transport, self._writes))  # type: ignore[arg-type]


def _watched(app: ASGIApp, writes: list[bytes]) -> Any:
    return listening(app, http=partial(_Watched, writes=writes))


async def test_an_answer_leaves_in_one_write(service: FakeService) -> None:
    """Two answers on two connections are two writes, each of them whole."""
    writes: list[bytes] = []
    async with _watched(service.app, writes) as url:
        for _ in range(2):
            head, body = await exchange(url, POST + b"\r\n" + BODY)
            assert writes.pop() == head + body
    assert not writes


async def test_answers_of_pipelined_requests_do_not_run_into_each_other(service: FakeService) -> None:
    """Heads without and with bodies follow each other on one connection as they were asked for."""
    writes: list[bytes] = []
    health, options = (b"%b /health HTTP/1.1\r\nHost: service\r\n\r\n" % method for method in (b"GET", b"OPTIONS"))
    async with _watched(service.app, writes) as url:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(health + options + health)
        for _ in range(2):
            await reader.readuntil(b'{"status":"ok"')
        writer.close()
    assert [write.split(b"\r\n")[0][9:12] for write in writes] == [b"200", b"204", b"200"]


@pytest.mark.parametrize(
    "request_line", [b"HEAD /health HTTP/1.1", b"OPTIONS /health HTTP/1.1"], ids=["HEAD", "no content"]
)
async def test_an_answer_without_a_body_leaves_at_once(url: httpx.URL, request_line: bytes) -> None:
    """There is nothing its head could wait for."""
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(request_line + b"\r\nHost: service\r\n\r\n")
    async with asyncio.timeout(20):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 20")
    writer.close()


async def test_who_asks_before_sending_a_body_is_told_to_go_on(url: httpx.URL) -> None:
    """`100 Continue` is a head of its own, and waits for nothing."""
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(POST + b"Expect: 100-continue\r\n\r\n")
    async with asyncio.timeout(20):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_a_head_whose_body_fails_leaves_before_the_connection_closes() -> None:
    """The client sees an answer cut short, and not a connection closed without a word."""

    async def fails(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        raise RuntimeError("provoked")

    async with listening(fails) as url:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: service\r\n\r\n")
        async with asyncio.timeout(20):
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
