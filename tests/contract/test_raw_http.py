"""What happens below the level of clients: bodies in pieces, too long, unfinished; connections that end."""

import asyncio
import json

import httpx
import pytest

from quartzite.admission.gate import OpenGate, Permit
from quartzite.config import RequestSettings
from quartzite.domain import EmbeddingRequest
from serving import CLASSIC, RequestLog, exchange, fake_service, listening

HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: service\r\n"
BODY = json.dumps({"model": CLASSIC, "input": "text"}).encode()


def _length(size: int) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % size


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_a_body_may_arrive_byte_by_byte(url: httpx.URL) -> None:
    """However a body is cut into packets, it is read whole."""
    packets = [bytes([byte]) for byte in BODY]
    head, body = await exchange(url, _length(len(BODY)), *packets)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body)["model"] == CLASSIC


async def test_a_body_may_come_in_chunks_without_a_length(url: httpx.URL) -> None:
    """Chunked transfer works as a length does."""
    head, _ = await exchange(
        url, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", _chunk(BODY[:5]), _chunk(BODY[5:]), b"0\r\n\r\n"
    )
    assert head.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "parts",
    [
        [_length(200)],
        [HEAD + b"Expect: 100-continue\r\nContent-Length: 200\r\n\r\n"],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", _chunk(b" " * 60), _chunk(b" " * 60)],
    ],
    ids=["announced", "announced and asked first", "not announced"],
)
async def test_a_body_too_long_is_refused_before_it_has_arrived(parts: list[bytes]) -> None:
    """With a length the head is enough, without one the first byte too many; nobody waits for the rest."""
    settings = RequestSettings(max_body_bytes=100)
    async with fake_service(requests=settings) as service, listening(service.app) as url:
        head, body = await exchange(url, *parts)
    assert head.startswith(b"HTTP/1.1 400 ")
    told = json.loads(body)
    assert (told["code"], told["data"]) == (20015, "body")
    assert "more than 100 bytes" in told["message"]


async def test_a_body_of_just_the_allowed_length_is_taken() -> None:
    """The limit itself is allowed."""
    settings = RequestSettings(max_body_bytes=len(BODY))
    async with fake_service(requests=settings) as service, service.client() as client:
        assert (await client.post("/v1/embeddings", content=BODY)).status_code == 200
        assert (await client.post("/v1/embeddings", content=BODY + b" ")).status_code == 400


async def test_the_connection_stays_usable_after_a_refusal() -> None:
    """The rest of a refused body is passed over, and the next request on the connection is answered."""
    settings = RequestSettings(max_body_bytes=100)
    async with fake_service(requests=settings) as service, listening(service.app) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(_length(200))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        writer.write(b" " * 200 + b"GET /health HTTP/1.1\r\nHost: service\r\n\r\n")
        rest = await reader.readuntil(b'{"status":"ok"')
        assert b"HTTP/1.1 200 " in rest
        writer.close()
        await writer.wait_closed()


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
OFFERS = {
    "in one packet": [HEAD + UPGRADE + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY],
    "body apart": [HEAD + UPGRADE + b"Content-Length: %d\r\n\r\n" % len(BODY), BODY[:5], BODY[5:]],
    "in chunks": [
        HEAD + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n" + _chunk(BODY[:5]),
        _chunk(BODY[5:]) + b"0\r\n\r\n",
    ],
}


@pytest.mark.parametrize("parts", OFFERS.values(), ids=OFFERS.keys())
async def test_a_client_that_offers_http_2_is_answered_in_http_1(url: httpx.URL, parts: list[bytes]) -> None:
    """Java's client offers it with every request: the offer is passed over, the body read, and the connection kept."""
    reader, writer = await asyncio.open_connection(url.host, url.port)
    for _ in range(2):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert CLASSIC.encode() in await reader.readuntil(b'"usage":')
        await reader.readuntil(b"}}")
    writer.write(b"GET /health HTTP/1.1\r\n" + UPGRADE + b"\r\nGET /ready HTTP/1.1\r\n" + UPGRADE + b"\r\n")
    await reader.readuntil(b'"status":"ok"')
    await reader.readuntil(b'"status":"ready"')
    writer.close()
    await writer.wait_closed()


class _Counting(OpenGate):
    """Tells when a request has been charged: next, and in the same step, it is put into the waiting room."""

    def __init__(self) -> None:
        self.charged = asyncio.Semaphore(0)

    async def charge(self, permit: Permit, request: EmbeddingRequest, tokens: int) -> None:
        self.charged.release()


async def test_the_work_of_a_client_who_leaves_is_dropped(request_log: RequestLog) -> None:
    """A request that waits when its connection closes never reaches the engine; those of others do."""
    gate = _Counting()
    async with fake_service(gate=gate) as service, listening(service.app) as url, httpx.AsyncClient() as client:
        service.engine.hold()
        first = asyncio.create_task(client.post(url.join("/v1/embeddings"), json={"model": CLASSIC, "input": [[5]]}))
        await service.engine.entered.wait()
        body = json.dumps({"model": CLASSIC, "input": [[5, 5, 5, 5]]}).encode()
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(_length(len(body)) + body)
        await asyncio.gather(gate.charged.acquire(), gate.charged.acquire())
        last = asyncio.create_task(client.post(url.join("/v1/embeddings"), json={"model": CLASSIC, "input": [[5, 5]]}))
        await gate.charged.acquire()
        writer.close()
        left = await request_log.next()
        service.engine.release()
        assert (await first).status_code == (await last).status_code == 200
    assert (left["status"], left["items"], left.get("tokens")) == (499, 1, None)
    assert sorted(tokens for batch in service.engine.batches for tokens in batch) == [3, 4]


async def test_a_client_who_leaves_within_the_body_is_noted(request_log: RequestLog, url: httpx.URL) -> None:
    """Half a body is no request: nothing is parsed, and the log says that the client went."""
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(_length(len(BODY)) + BODY[:5])
    await writer.drain()
    writer.close()
    line = await request_log.next()
    assert (line["status"], line.get("model")) == (499, None)
