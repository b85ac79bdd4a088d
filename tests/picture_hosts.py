"""Hosts of pictures on this machine: servers that answer with prepared bytes, and names for them."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from quartzite.config import ImageSettings
from quartzite.preprocess.addresses import AllowedHosts
from quartzite.preprocess.fetch import Fetcher
from quartzite.preprocess.sources import BadPicture

UNREACHABLE = "is on a host that pictures are not fetched from: there is none of that name, or it is not public"
NO_CONNECTION = "could not be fetched: no connection, or no valid certificate"
NO_HTTP = "could not be fetched: the connection broke, or the answer was not HTTP"
PUBLIC = "93.184.216.34"

Respond = Callable[["Visit"], Awaitable[None]]


@dataclass
class Visit:
    """One request as it came: its first line and its headers; `send` writes a part of the answer."""

    line: str
    headers: dict[str, str]
    writer: asyncio.StreamWriter

    async def send(self, part: bytes) -> None:
        """Write and wait until the other side takes it."""
        self.writer.write(part)
        await self.writer.drain()


@dataclass
class PictureHost:
    """A running server: its `port`, and the visits it has had."""

    port: int
    visits: list[Visit] = field(default_factory=list)
    connections: int = 0

    def url(self, name: str = "pictures.test", path: str = "/a.png", scheme: str = "http") -> str:
        """The URL of a path under `name`."""
        return f"{scheme}://{name}:{self.port}{path}"


@dataclass
class Names:
    """A look-up that answers each name with the next of its answers, the last one for ever, and counts."""

    answers: dict[str, list[Sequence[str]]]
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str) -> Sequence[str]:
        """Return the next answer for `host`."""
        self.asked.append(host)
        if host not in self.answers:
            raise OSError(f"no address for {host}")
        answers = self.answers[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


def answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """A whole answer; underscores in the names of headers stand for hyphens."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(body)}", *lines])
    return head.encode() + b"\r\n\r\n" + body


def redirect(to: str, **headers: str) -> bytes:
    """An answer that leads elsewhere."""
    return answer(b"", "302 Found", location=to, **headers)


@asynccontextmanager
async def picture_host(
    respond: bytes | Respond, address: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[PictureHost]:
    """Run a server that answers every request with `respond`, for the length of the `async with`."""
    host = PictureHost(0)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            visit = Visit(line, dict(entry.lower().split(": ", 1) for entry in lines if entry), writer)
            host.visits.append(visit)
            await (visit.send(respond) if isinstance(respond, bytes) else respond(visit))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host.connections += 1
        task = asyncio.ensure_future(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, address, port, ssl=tls)
    host.port = server.sockets[0].getsockname()[1]
    try:
        yield host
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def fetcher(
    *allowed: str, names: Any = None, tls: ssl.SSLContext | None = None, **settings: Any
) -> AsyncIterator[Fetcher]:
    """A fetcher to which `allowed` hosts are open, with names of its own."""
    look_up = names or Names({"pictures.test": [["127.0.0.1"]]})
    running = Fetcher(ImageSettings(**settings), AllowedHosts(allowed), look_up, tls)
    try:
        yield running
    finally:
        await running.close()


async def refusal(fetching: Fetcher, url: str) -> str:
    """Why `url` could not be fetched, told within seconds."""
    async with asyncio.timeout(5):
        with pytest.raises(BadPicture) as caught:
            await fetching.fetch(url)
    return str(caught.value)
