"""Clients that send slowly, too much or nothing, and clients that do not read: each costs bounded time and memory."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from starlette.responses import Response

from quartzite.config import RequestSettings
from quartzite.web.protocol import MOST_PIPELINED, Bounds
from serving import CLASSIC, RequestLog, fake_service, listening

HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: service\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: service\r\n\r\n"
BODY = json.dumps({"model": CLASSIC, "input": "text"}).encode()
WITHOUT = HEAD + b"Content-Length: 0\r\n\r\n"
SOON = 0.05

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Connection]]


@asynccontextmanager
async def served(bounds: Bounds, keep_alive_s: float = 60, **requests: int) -> AsyncIterator[Connect]:
    """Run a service within `bounds` and yield what connects to it; the test ends within seconds, or fails."""
    async with (
        fake_service(requests=RequestSettings(**requests)) as service,
        listening(service.app, bounds, timeout_graceful_shutdown=1, timeout_keep_alive=keep_alive_s) as url,
        asyncio.timeout(10),
    ):
        open_connections: list[asyncio.StreamWriter] = []

        async def connect() -> Connection:
            reader, writer = await asyncio.open_connection(url.host, url.port)
            open_connections.append(writer)
            return reader, writer

        try:
            yield connect
        finally:
            for writer in open_connections:
                writer.close()


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """Return all that comes until the server ends the connection; a reset instead of an end fails the test."""
    return await reader.read()


async def _send_for_ever(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send `data` again and again; ends by the ConnectionError of a connection that is no more."""
    while True:
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(0)


def _told(answer: bytes) -> tuple[int, object]:
    """Return status and body of an answer that was the last one of its connection, and had a trace id."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nx-siliconcloud-trace-id: ti_" in head
    assert b"\r\nconnection: close" in head
    assert b"\r\ncontent-type: application/json; charset=utf-8" in head
    assert b"\r\ncontent-length: %d" % len(body) in head
    return int(head.split()[1]), json.loads(body)


BODIES_THAT_STOP = {
    "nothing of it": [HEAD + b"Content-Length: 100\r\n\r\n"],
    "half of it": [HEAD + b"Content-Length: 100\r\n\r\n" + BODY[:20]],
    "half a chunk": [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"20\r\n" + BODY[:20]],
    "all but the last chunk": [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n%b\r\n" % (len(BODY), BODY)],
    "all but the end of the trailer": [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0\r\nx: "],
}


@pytest.mark.parametrize("parts", BODIES_THAT_STOP.values(), ids=BODIES_THAT_STOP.keys())
async def test_a_body_that_does_not_arrive_is_a_408(parts: list[bytes], request_log: RequestLog) -> None:
    """When the time for the body is over the client is told, in the log too, and the connection is closed."""
    async with served(Bounds(), body_timeout_ms=50) as connect:
        reader, writer = await connect()
        for part in parts:
            writer.write(part)
            await writer.drain()
        told = _told(await _rest(reader))
    assert told == (408, "Request timed out: its body had not arrived after 0.05 s.")
    assert (await request_log.next())["status"] == 408


async def test_a_body_that_dribbles_has_no_more_time_than_one_that_stops() -> None:
    """A byte now and then does not prolong the time: it is that of the whole body. No reset takes the answer away."""
    async with served(Bounds(), body_timeout_ms=100) as connect:
        reader, writer = await connect()
        writer.write(HEAD + b"Content-Length: 1000000\r\n\r\n")
        answer = asyncio.create_task(_rest(reader))
        while not answer.done():
            writer.write(b" ")
            await asyncio.wait([answer], timeout=0.005)
    assert _told(await answer)[0] == 408


HEADS_THAT_STOP = [b"P", b"POST /v1/embeddings HTTP/1.1\r\nHost: ser", HEAD, HEALTH[:-1]]


@pytest.mark.parametrize("head", HEADS_THAT_STOP)
async def test_a_head_that_does_not_arrive_is_a_408(head: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A request that does not become one in time is told so, with a trace id that stands in the log."""
    caplog.set_level("INFO", "quartzite.web")
    async with served(Bounds(head_s=SOON)) as connect:
        reader, writer = await connect()
        writer.write(head)
        answer = await _rest(reader)
    assert _told(answer) == (408, "Request timed out: its headers had not arrived after 0.05 s.")
    (line,) = [record.fields for record in caplog.records if record.getMessage() == "no request"]
    assert line["status"] == 408
    assert line["trace_id"].encode() in answer


async def test_a_head_that_dribbles_has_no_more_time_than_one_that_stops() -> None:
    """A header now and then does not prolong the time."""
    async with served(Bounds(head_s=0.1)) as connect:
        reader, writer = await connect()
        writer.write(HEAD)
        answer = asyncio.create_task(_rest(reader))
        while not answer.done():
            writer.write(b"x: y\r\n")
            await asyncio.wait([answer], timeout=0.005)
    assert _told(await answer)[0] == 408


async def test_a_connection_that_sends_nothing_is_closed() -> None:
    """Without a byte there is no request to answer: the connection just ends, in the time that a head has."""
    async with served(Bounds(head_s=SOON)) as connect:
        reader, _ = await connect()
        assert await _rest(reader) == b""


async def test_empty_lines_keep_no_connection_open() -> None:
    """After an answer too, what is no beginning of a request gives a connection no more time than a head has."""
    async with served(Bounds(head_s=SOON)) as connect:
        reader, writer = await connect()
        writer.write(HEALTH)
        assert (await reader.readuntil(b"}}}")).startswith(b"HTTP/1.1 200 ")
        writer.write(b"\r\n")
        assert await _rest(reader) == b""


async def test_the_time_for_a_head_is_each_request_s_own() -> None:
    """A connection may wait between two requests for longer than a head may take."""
    async with served(Bounds(head_s=0.3)) as connect:
        reader, writer = await connect()
        for _ in range(2):
            writer.write(HEALTH[:10])
            await writer.drain()
            writer.write(HEALTH[10:])
            assert (await reader.readuntil(b"}}}")).startswith(b"HTTP/1.1 200 ")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.4):
                    await reader.read(1)


LARGE_HEADS = {
    "a long path": [b"GET /" + b"a" * 300],
    "a long header": [HEAD + b"x: " + b"y" * 300],
    "many headers": [HEAD + b"x: y\r\n" * 60],
    "whole, in one packet": [HEAD + b"x: y\r\n" * 60 + b"\r\n"],
    "with a body behind it": [HEAD + b"x: y\r\n" * 60 + b"Content-Length: 2\r\n\r\n{}"],
    "byte by byte": [bytes([byte]) for byte in HEAD + b"x: y\r\n" * 60],
}


@pytest.mark.parametrize("parts", LARGE_HEADS.values(), ids=LARGE_HEADS.keys())
async def test_a_head_too_large_is_a_431(parts: list[bytes]) -> None:
    """Path and headers are counted together, however they arrive; the client is told how much it may send."""
    async with served(Bounds(head_bytes=256)) as connect:
        reader, writer = await connect()
        for part in parts:
            writer.write(part)
        assert _told(await _rest(reader)) == (431, "431 request header fields too large, use at most 256 bytes")


async def test_a_body_in_the_packet_of_its_head_counts_for_nothing() -> None:
    """A small head is taken, whatever the size of what comes with it."""
    async with served(Bounds(head_bytes=256)) as connect:
        reader, writer = await connect()
        body = BODY + b" " * 1000
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")


AROUND_A_BODY = {
    "trailers": b"0\r\n" + b"x: y\r\n" * 200_000,
    "one trailer": b"0\r\nx: " + b"y" * 1_000_000,
    "an extension of a chunk": b"5;" + b"x" * 1_000_000,
}


@pytest.mark.parametrize("sent", AROUND_A_BODY.values(), ids=AROUND_A_BODY.keys())
async def test_what_stands_around_a_body_is_bounded_like_a_head(sent: bytes) -> None:
    """Trailers and extensions of chunks are read by nobody, and take no more room than headers and a packet do."""
    async with served(Bounds(head_bytes=1024)) as connect:
        reader, writer = await connect()
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + sent)
        assert _told(await _rest(reader))[0] == 431


NO_REQUESTS = {
    "words": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown method": b"FROB /health HTTP/1.1\r\nHost: service\r\n\r\n",
    "no path": b"CONNECT service:80 HTTP/1.1\r\nHost: service\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length and chunks": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "a length beyond all ranges": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "a chunk that is none": HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
}


@pytest.mark.parametrize("sent", NO_REQUESTS.values(), ids=NO_REQUESTS.keys())
async def test_what_is_no_request_is_a_clean_400(sent: bytes) -> None:
    """Bytes that are no HTTP are answered in the service's own form, with a trace id, and end the connection.

    TLS is told as such: its client cannot read that, but the log has it for the operator whose clients say https.
    """
    what = "TLS, as for https://; this port speaks http:// only." if sent[0] == 22 else "no HTTP/1.1 request."
    async with served(Bounds()) as connect:
        reader, writer = await connect()
        writer.write(sent)
        status, body = _told(await _rest(reader))
    assert status == 400
    assert body == {
        "code": 20015,
        "message": f"The parameter is invalid. Please check again. What was sent is {what}",
        "data": "request",
    }


async def test_a_refusal_is_read_by_a_client_that_goes_on_sending() -> None:
    """The server listens for a while after its last answer: a connection closed at once would be reset, and it lost."""
    async with served(Bounds(head_bytes=256)) as connect:
        reader, writer = await connect()
        writer.write(b"GET /" + b"a" * 4_000_000)
        await writer.drain()
        assert _told(await _rest(reader))[0] == 431


async def test_a_client_that_never_stops_sending_is_cut_off() -> None:
    """The while after the last answer is bounded."""
    async with served(Bounds(linger_s=SOON)) as connect:
        reader, writer = await connect()
        writer.write(b"hello\r\n\r\n")
        assert _told(await _rest(reader))[0] == 400
        with pytest.raises(ConnectionError):
            await _send_for_ever(writer, b" ")


async def test_the_rest_of_a_refused_body_is_bounded_in_bytes() -> None:
    """A body is passed over up to a bound, then the connection ends."""
    chunk = b"2710\r\n" + b" " * 10_000 + b"\r\n"
    async with served(Bounds(drain_bytes=1_000_000), max_body_bytes=100) as connect:
        reader, writer = await connect()
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400 ")
        with pytest.raises(ConnectionError):
            await _send_for_ever(writer, chunk)


async def test_the_rest_of_a_refused_body_is_bounded_in_time() -> None:
    """A rest that dribbles in holds the connection no longer than a head may."""
    async with served(Bounds(head_s=SOON), max_body_bytes=100) as connect:
        reader, writer = await connect()
        writer.write(HEAD + b"Content-Length: 100000000\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400 ")
        with pytest.raises(ConnectionError):
            await _send_for_ever(writer, b" ")


async def test_a_connection_idles_after_a_refused_body_as_after_any_other() -> None:
    """When the rest of the body has been passed over, the time between two requests begins."""
    async with served(Bounds(head_s=60), keep_alive_s=SOON, max_body_bytes=100) as connect:
        reader, writer = await connect()
        writer.write(HEAD + b"Content-Length: 200\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400 ")
        writer.write(b" " * 200)
        assert (await _rest(reader)).endswith(b'"data":"body"}')


LARGE = Response(b" " * 10_000_000)


@pytest.mark.parametrize("connection", [b"close", b"keep-alive"])
async def test_an_answer_that_is_not_read_in_time_is_given_up(connection: bytes) -> None:
    """Its connection is cut off within the answer, so that it is not held for ever."""
    async with listening(LARGE, Bounds(send_s=0)) as url, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(HEALTH.replace(b"Host", b"Connection: %b\r\nHost" % connection))
        assert len(await _rest(reader)) < 10_000_000
        writer.close()


async def test_an_answer_that_is_read_in_time_comes_whole() -> None:
    """Its connection can be used again, also when that time is over."""
    async with listening(LARGE, Bounds(send_s=1.5)) as url, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(HEALTH)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(10_000_000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.6):
                await reader.read(1)
        writer.close()


async def test_too_many_requests_sent_ahead_end_the_connection() -> None:
    """Pipelined requests are answered in turn up to a bound; one that sends more at once loses its connection."""
    async with served(Bounds()) as connect:
        reader, writer = await connect()
        writer.write(HEALTH * MOST_PIPELINED)
        for _ in range(MOST_PIPELINED):
            assert (await reader.readuntil(b"}}}")).startswith(b"HTTP/1.1 200 ")
        writer.write(HEALTH * 10_000)
        rest = await _rest(reader)
        assert rest.count(b"HTTP/1.1 200 ") <= MOST_PIPELINED


async def test_bodies_together_are_bounded() -> None:
    """What all running requests have sent counts; beyond the bound they get 503, and the room is given back."""
    settings = RequestSettings(max_bodies_bytes=len(BODY) + 20)
    async with fake_service(requests=settings) as service, service.client() as client:
        service.engine.hold()
        first = asyncio.create_task(client.post("/v1/embeddings", content=BODY))
        await service.engine.entered.wait()
        refused = await client.post("/v1/embeddings", content=BODY)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        service.engine.release()
        assert (await first).status_code == 200
        assert (await client.post("/v1/embeddings", content=BODY)).status_code == 200


@contextmanager
def grows_at_most(bytes_more: int) -> Iterator[None]:
    """Fail when the process held so many bytes more at any moment within the `with` than before it."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    before = _peak_bytes()
    yield
    assert _peak_bytes() - before < bytes_more


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


MILLION = b" " * 1_000_000
HUGE = {
    "announced": (HEAD + b"Content-Length: 100000000\r\n\r\n", MILLION, b""),
    "not announced": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"f4240\r\n" + MILLION + b"\r\n", b"0\r\n\r\n"),
}


@pytest.mark.parametrize(("head", "part", "end"), HUGE.values(), ids=HUGE.keys())
async def test_a_body_of_100_mb_costs_next_to_no_memory(head: bytes, part: bytes, end: bytes) -> None:
    """It is refused at once and passed over by the time it has been sent; the connection can be used again."""
    async with served(Bounds(), max_body_bytes=5_000_000) as connect:
        reader, writer = await connect()
        with grows_at_most(50_000_000):  # the client is in this process too, and its heap may have holes of other tests
            writer.write(head)
            for _ in range(100):
                writer.write(part)
                await writer.drain()
            writer.write(end + HEALTH)
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400 ")
            await reader.readuntil(b'{"status":"ok"')
