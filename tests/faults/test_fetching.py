"""Pictures by URL: how they are fetched, and how every way to fail is told."""

import asyncio
import gzip
import ssl
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

from picture_hosts import (
    NO_CONNECTION,
    NO_HTTP,
    PUBLIC,
    Names,
    PictureHost,
    Visit,
    answer,
    fetcher,
    picture_host,
    redirect,
    refusal,
)


async def test_a_picture_is_fetched_from_an_allowed_host() -> None:
    """The connection goes to the address of the name, the request names the host, and nothing personal is sent."""
    async with picture_host(answer(b"a picture")) as host, fetcher(f"pictures.test:{host.port}") as fetching:
        assert await fetching.fetch(host.url(path="/a%20b.png?size=1&x=é#part")) == b"a picture"
    (visit,) = host.visits
    assert visit.line == "GET /a%20b.png?size=1&x=%C3%A9 HTTP/1.1"
    assert visit.headers.pop("user-agent").startswith("quartzite/")
    assert visit.headers == {
        "host": f"pictures.test:{host.port}",
        "accept": "image/*",
        "accept-encoding": "identity",
        "connection": "keep-alive",
    }


async def counting_down(visit: Visit) -> None:
    """Answer /N with a redirect to /N-1, and /0 with a picture."""
    left = int(visit.line.split()[1].strip("/"))
    await visit.send(redirect(f"/{left - 1}", set_cookie="id=1; Path=/") if left else answer(b"a picture"))


async def test_redirects_are_followed_up_to_the_bound_and_without_cookies() -> None:
    """Three are followed, a fourth is one too many; what a server sets on the way is not sent back."""
    async with picture_host(counting_down) as host, fetcher(f"pictures.test:{host.port}") as fetching:
        assert await fetching.fetch(host.url(path="/3")) == b"a picture"
        assert len(host.visits) == 4
        assert [visit.headers.get("cookie") for visit in host.visits] == [None] * 4
        assert (
            await refusal(fetching, host.url(path="/4")) == "could not be fetched: it is redirected more than 3 times"
        )
        assert len(host.visits) == 8


async def endless(visit: Visit) -> None:
    """Send zeros for as long as somebody takes them."""
    while True:
        await visit.send(bytes(100_000))


async def test_the_body_of_a_redirect_is_not_read() -> None:
    """It may be without end."""

    async def respond(visit: Visit) -> None:
        if "/next" in visit.line:
            return await visit.send(answer(b"a picture"))
        await visit.send(b"HTTP/1.1 302 Found\r\nlocation: /next\r\n\r\n")
        return await endless(visit)

    async with picture_host(respond) as host, fetcher(f"pictures.test:{host.port}") as fetching, asyncio.timeout(5):
        assert await fetching.fetch(host.url()) == b"a picture"


async def chunked(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        await visit.send(b"186a0\r\n" + bytes(100_000) + b"\r\n")


async def open_ended(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\n\r\n")
    await endless(visit)


@pytest.mark.parametrize("respond", [chunked, open_ended, answer(bytes(2_000_001))], ids=["chunked", "open", "whole"])
async def test_a_file_too_large_is_given_up(respond: Any) -> None:
    """Whether or not its length was told beforehand."""
    allowed = {"max_image_bytes": 2_000_000}
    async with picture_host(respond) as host, fetcher(f"pictures.test:{host.port}", **allowed) as fetching:
        assert await refusal(fetching, host.url()) == "has more than 2000000 bytes, the most that are taken"


async def test_the_largest_file_is_taken() -> None:
    """Exactly the bound is allowed."""
    async with (
        picture_host(answer(bytes(2_000))) as host,
        fetcher(f"pictures.test:{host.port}", max_image_bytes=2_000) as fetching,
    ):
        assert await fetching.fetch(host.url()) == bytes(2_000)


async def test_a_file_that_comes_compressed_is_bounded_in_what_it_becomes() -> None:
    """Nothing compressed is asked for; where it is sent all the same, it is decompressed as far as the bound."""
    small, bomb = gzip.compress(b"a picture"), zlib.compress(bytes(30_000_000))
    async with (
        picture_host(answer(small, content_encoding="gzip")) as host,
        fetcher(f"pictures.test:{host.port}") as fetching,
    ):
        assert await fetching.fetch(host.url()) == b"a picture"
    async with (
        picture_host(answer(bomb, content_encoding="deflate")) as host,
        fetcher(f"pictures.test:{host.port}") as fetching,
    ):
        assert await refusal(fetching, host.url()) == "has more than 20971520 bytes, the most that are taken"


@pytest.mark.parametrize(
    ("respond", "says"),
    [
        (answer(b"inner secret", "404 Not Found"), "could not be fetched: its host answered with status 404"),
        (answer(b"inner secret", "500 Oops"), "could not be fetched: its host answered with status 500"),
        (answer(b"", "304 Not Modified"), "could not be fetched: its host answered with status 304"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", NO_HTTP),
        (b"", NO_HTTP),
        (answer(b"whole")[:-2], NO_HTTP),
        (answer(b"no gzip", content_encoding="gzip"), NO_HTTP),
        (
            b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 50_000,
            NO_HTTP,
        ),
    ],
)
async def test_failures_are_told_by_their_kind(respond: bytes, says: str) -> None:
    """Nothing of what the host answered is repeated but its status."""
    async with picture_host(respond) as host, fetcher(f"pictures.test:{host.port}") as fetching:
        said = await refusal(fetching, host.url())
    assert said.startswith(says)
    assert "secret" not in said


async def silent(visit: Visit) -> None:
    await asyncio.Event().wait()


async def dribbling(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\na")
    await asyncio.Event().wait()


@pytest.mark.parametrize("respond", [silent, dribbling])
async def test_a_host_that_takes_too_long_is_given_up(respond: Any) -> None:
    """The time is for all of one picture, redirects and all, however often something arrives."""
    async with (
        picture_host(respond) as host,
        fetcher(f"pictures.test:{host.port}", fetch_timeout_ms=50) as fetching,
    ):
        assert await refusal(fetching, host.url()) == "could not be fetched within 0.05 s"


async def test_a_connection_that_is_not_taken_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting has a time of its own, shorter than that of the whole."""

    async def connect(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(anyio, "connect_tcp", connect)
    async with fetcher(names=Names({"pictures.test": [[PUBLIC]]}), connect_timeout_ms=20) as fetching:
        assert await refusal(fetching, "http://pictures.test/") == "could not be fetched: no connection within 20 ms"


async def test_a_host_without_a_server_is_told_as_such() -> None:
    """A refused connection is no time-out."""
    async with picture_host(b"") as host:
        pass
    async with fetcher(f"pictures.test:{host.port}") as fetching:
        assert await refusal(fetching, host.url()) == NO_CONNECTION


async def test_nothing_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither proxies, nor passwords of a netrc file."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine pictures.test login me password secret", encoding="utf-8")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with picture_host(answer(b"by a proxy")) as proxy, picture_host(answer(b"a picture")) as host:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with fetcher(f"pictures.test:{host.port}") as fetching:
            assert await fetching.fetch(host.url()) == b"a picture"
    assert proxy.connections == 0
    assert "authorization" not in host.visits[0].headers


async def test_urls_are_refused_where_fetching_is_off() -> None:
    """The refusal says what to send instead."""
    async with (
        picture_host(answer(b"a picture")) as host,
        fetcher(f"pictures.test:{host.port}", fetch=False) as fetching,
    ):
        assert await refusal(fetching, host.url()) == (
            "is a URL, and this server does not fetch pictures; send their content in base64"
        )
    assert host.connections == 0


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs the certificates of the hosts."""
    return trustme.CA()


@asynccontextmanager
async def tls_host(authority: trustme.CA, *names: str) -> AsyncIterator[tuple[PictureHost, list[str | None]]]:
    """A host with a certificate for `names`, and the names that clients ask it for."""
    context, asked = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), []
    authority.issue_cert(*names).configure_cert(context)
    context.sni_callback = lambda _, name, __: asked.append(name)
    async with picture_host(answer(b"a picture"), tls=context) as host:
        yield host, asked


@pytest.mark.parametrize(("certified", "taken"), [("pictures.test", True), ("other.test", False), ("127.0.0.1", False)])
async def test_a_certificate_has_to_be_that_of_the_name(authority: trustme.CA, certified: str, taken: bool) -> None:
    """The connection goes to a checked address, and asks there for the name of the URL."""
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with (
        tls_host(authority, certified) as (host, asked),
        fetcher(f"pictures.test:{host.port}", tls=trusting) as fetching,
    ):
        url = host.url("Pictures.test.", scheme="https")
        if taken:
            assert await fetching.fetch(url) == b"a picture"
        else:
            assert await refusal(fetching, url) == NO_CONNECTION
    assert asked == ["pictures.test"]


async def test_a_certificate_that_nobody_trusts_is_refused(authority: trustme.CA) -> None:
    """Without a setting of its own the fetcher goes by the certificates of the system."""
    async with tls_host(authority, "pictures.test") as (host, _), fetcher(f"pictures.test:{host.port}") as fetching:
        said = await refusal(fetching, host.url(scheme="https"))
    assert said == NO_CONNECTION
    assert host.visits == []
