"""Fetches pictures by URL, from public addresses only. Knows HTTP; nothing of what the bytes hold.

The host of every hop is looked up once, and the connection is made to an address that was checked then: what a name
stands for a moment later has no effect.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from quartzite import __version__
from quartzite.config import ImageSettings
from quartzite.preprocess.addresses import AllowedHosts, is_public, normal_host, port_of
from quartzite.preprocess.sources import BadPicture

LookUp = Callable[[str], Awaitable[Sequence[str]]]
"""Returns the addresses of a host, which is a name or an address; raises OSError if there are none."""

# Nothing that was compressed for the way is asked for; some servers send it all the same.
_HEADERS = {"User-Agent": f"quartzite/{__version__}", "Accept": "image/*", "Accept-Encoding": "identity"}

# Whether a name of an inner network exists must not be told from the answer: one sentence for all reasons.
_UNREACHABLE = "is on a host that pictures are not fetched from: there is none of that name, or it is not public"


async def look_up(host: str) -> Sequence[str]:
    """Return the addresses of `host` as the operating system knows them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Fetcher:
    """Fetches pictures within the bounds of `settings`, from public addresses and from `allowed` hosts.

    `tls` says whose certificates count, default: the system's.
    """

    def __init__(
        self,
        settings: ImageSettings,
        allowed: AllowedHosts,
        look_up: LookUp = look_up,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._seconds = settings.fetch_timeout_ms / 1000
        timeout = httpx2.Timeout(self._seconds, connect=settings.connect_timeout_ms / 1000)
        transport = CheckedTransport(allowed, look_up, tls)
        cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        # Redirects are followed here: the library would read their bodies, however long they are.
        self._client = httpx2.AsyncClient(
            transport=transport, timeout=timeout, headers=_HEADERS, cookies=cookies, trust_env=False
        )

    async def fetch(self, url: str) -> bytes:
        """Return what is at `url`, at most `max_image_bytes`; raises BadPicture with the reason."""
        if not self._settings.fetch:
            raise BadPicture("is a URL, and this server does not fetch pictures; send their content in base64")
        try:
            async with asyncio.timeout(self._seconds):
                return await self._follow(url)
        except httpx2.ConnectTimeout:
            raise BadPicture(
                f"could not be fetched: no connection within {self._settings.connect_timeout_ms} ms"
            ) from None
        except (TimeoutError, httpx2.TimeoutException):
            raise BadPicture(f"could not be fetched within {self._seconds:g} s") from None
        except httpx2.InvalidURL:
            raise BadPicture("is no valid URL, or is redirected to none") from None
        except httpx2.ConnectError:
            raise BadPicture("could not be fetched: no connection, or no valid certificate") from None
        except httpx2.HTTPError:
            raise BadPicture("could not be fetched: the connection broke, or the answer was not HTTP") from None

    async def close(self) -> None:
        """Close what is open."""
        await self._client.aclose()

    async def _follow(self, url: str) -> bytes:
        request = self._client.build_request("GET", url)
        for _ in range(self._settings.max_redirects + 1):
            response = await self._client.send(request, stream=True)
            try:
                if response.next_request is None:
                    return await self._content(response)
                request = response.next_request
            finally:
                await response.aclose()
        raise BadPicture(f"could not be fetched: it is redirected more than {self._settings.max_redirects} times")

    async def _content(self, response: httpx2.Response) -> bytes:
        if not response.is_success:
            raise BadPicture(f"could not be fetched: its host answered with status {response.status_code}")
        most = self._settings.max_image_bytes
        content = bytearray()
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > most:
                raise BadPicture(f"has more than {most} bytes, the most that are taken")
        return bytes(content)


class CheckedTransport(httpx2.AsyncBaseTransport):
    """Connects to public addresses and to `allowed` hosts only; makes a connection of its own for every request."""

    def __init__(self, allowed: AllowedHosts, look_up: LookUp, tls: ssl.SSLContext | None) -> None:
        self._allowed = allowed
        self._look_up = look_up
        # A connection to an address that serves many names was checked for the certificate of one of them.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        verify = tls or httpx2.create_ssl_context()
        self._inner = httpx2.AsyncHTTPTransport(verify=verify, trust_env=False, limits=limits)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send `request` to the first address of its host that takes a connection; raises BadPicture if none may."""
        host, addresses = await self._checked(request.url)
        *others, last = addresses
        for address in others:
            try:
                return await self._send(request, host, address)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return await self._send(request, host, last)

    async def aclose(self) -> None:
        """Close what is open."""
        await self._inner.aclose()

    async def _checked(self, url: httpx2.URL) -> tuple[str, Sequence[str]]:
        """Return the host of `url` and those of its addresses that may be connected to."""
        if url.scheme not in ("http", "https"):
            raise BadPicture("leads to a URL that is neither http nor https")
        if url.userinfo:
            raise BadPicture("leads to a URL with a user name or password in it, which are not sent")
        host = normal_host(url.raw_host.decode("ascii"))
        if host is None:
            raise BadPicture(_UNREACHABLE)
        try:
            addresses = await self._look_up(host)
        except OSError:
            raise BadPicture(_UNREACHABLE) from None
        if (host, port_of(url.scheme, url.port)) not in self._allowed:
            addresses = [address for address in addresses if is_public(address) and not _is_own(address)]
        if not addresses:
            raise BadPicture(_UNREACHABLE)
        return host, addresses

    async def _send(self, request: httpx2.Request, host: str, address: str) -> httpx2.Response:
        """Send `request`, which names its host in a header, to `address`; a certificate has to be that of `host`."""
        pinned = httpx2.Request(
            request.method,
            request.url.copy_with(host=address),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": host},
        )
        return await self._inner.handle_async_request(pinned)


def _is_own(address: str) -> bool:
    """Tell whether `address` is one of this machine, behind whatever protects it from outside; sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            return False
        return bool(probe.getsockname()[0] == address)
