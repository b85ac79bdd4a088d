"""Bodies that are made to hurt, over a real socket: each is refused by name, and costs little memory."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from serving import CLASSIC, exchange

HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
MODEL = json.dumps(CLASSIC).encode()
MILLION = 1_000_000


def _fields(**said: bytes) -> bytes:
    fields = {"model": MODEL, "input": b'"text"'} | said
    return b"{" + b",".join(b'"%b": %b' % (name.encode(), value) for name, value in fields.items()) + b"}"


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "NaN": (lambda: _fields(dimensions=b"NaN"), "body"),
    "infinity": (lambda: _fields(dimensions=b"-Infinity"), "body"),
    "a float beyond all ranges": (lambda: _fields(dimensions=b"1e999"), "body"),
    "an integer of a million digits": (lambda: _fields(dimensions=b"9" * MILLION), "body"),
    "token ids beyond all ranges": (lambda: _fields(input=b"[5, 99999999999999999999999999]"), "input"),
    "a token id of a million digits": (lambda: _fields(input=b"[[%b]]" % (b"1" * MILLION)), "body"),
    "bytes that are no UTF-8": (lambda: _fields(input=b'"%b"' % (b"\xff\xfe" * MILLION)), "body"),
    "UTF-8 of a surrogate": (lambda: _fields(input=b'"\xed\xa0\x80"'), "body"),
    "UTF-8 longer than need be": (lambda: _fields(input=b'"\xc0\x80"'), "body"),
    "half a surrogate pair as text": (lambda: _fields(input=rb'["a", "\udc00"]'), "body"),
    "half a surrogate pair as model": (lambda: _fields(model=rb'"\ud83d"'), "body"),
    "half a surrogate pair as user": (lambda: _fields(user=rb'"\ud83d\ud83d"'), "body"),
    "a tower of arrays": (lambda: _fields(input=b"[" * 10 * MILLION), "body"),
    "a low tower of arrays": (lambda: _fields(input=b"[" * 100_000), "body"),
    "a tower of objects in a field nobody reads": (lambda: _fields(extra=b'{"a":' * MILLION), "body"),
    "a million items": (lambda: _fields(input=b'["a"' + b',"a"' * MILLION + b"]"), "body"),
    "a million fields": (lambda: b"{" + b'"a":1,' * MILLION + b'"b":2}', "body"),
    "nothing but zeros": (lambda: b"\x00" * MILLION, "body"),
    "30 MB of space": (lambda: b" " * 30 * MILLION, "body"),
    "a text of 20 MB": (lambda: _fields(input=b'"%b"' % (b"word " * 4 * MILLION)), "input"),
}


@contextmanager
def costs_at_most(bytes_more: int, seconds: float) -> Iterator[None]:
    """Fail when the process held so many bytes more at any moment within the `with`, or when it took so long."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    before, begun = _peak_bytes(), time.perf_counter()
    yield
    assert _peak_bytes() - before < bytes_more
    assert time.perf_counter() - begun < seconds


def _peak_bytes() -> int:
    return int(Path("/proc/self/status").read_text(encoding="ascii").split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.parametrize(("make", "pointer"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_body_is_refused_by_name(url: httpx.URL, make: Callable[[], bytes], pointer: str) -> None:
    """It is 400 / 20015 with the field at fault, within seconds, and in a few times its own size of memory."""
    body = make()
    with costs_at_most(8 * len(body) + 30 * MILLION, seconds=20):
        head, answer = await exchange(url, HEAD % len(body) + body)
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nx-siliconcloud-trace-id: ti_" in head
    told = json.loads(answer)
    assert (told["code"], told["data"]) == (20015, pointer)
    assert len(told["message"]) < 500


async def test_hostile_bodies_leave_the_service_as_it_was(url: httpx.URL) -> None:
    """All of them at once, and a good request among them is answered; so is one after them on the same connection."""
    bodies = [make() for make, _ in HOSTILE.values()]
    good = _fields()
    answers = await asyncio.gather(*[exchange(url, HEAD % len(body) + body) for body in [*bodies, good]])
    assert [head[9:12] for head, _ in answers] == [b"400"] * len(bodies) + [b"200"]
    reader, writer = await asyncio.open_connection(url.host, url.port)
    for body in (bodies[0], bodies[-3], good):
        writer.write(HEAD % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
    assert head.startswith(b"HTTP/1.1 200 ")
    writer.close()
    await writer.wait_closed()
