"""What happens on the connection of one request: its body arrives, its client may leave. Knows nothing of JSON."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from types import TracebackType
from typing import TypeVar

from starlette.requests import Request
from starlette.types import Message, Receive

from quartzite.config import RequestSettings
from quartzite.errors import ClientGone, InvalidParameter, NotArrived, Overloaded

T = TypeVar("T")

DEPARTURE = "quartzite.departure"
"""The extension of a request's scope that holds the `Departure` of its client."""


class Bodies:
    """Reads bodies within the bounds of `settings`: of one, and of all whose requests run at the same time."""

    def __init__(self, settings: RequestSettings) -> None:
        self.settings = settings
        self.held_bytes = 0

    def room(self) -> "BodyRoom":
        """Give room to the body of one request for the length of a `with`."""
        return BodyRoom(self)

    def take(self, size: int) -> None:
        """Make room for so many bytes more; raises Overloaded when there is none."""
        if self.held_bytes + size > self.settings.max_bodies_bytes:
            raise Overloaded
        self.held_bytes += size

    def give_back(self, size: int) -> None:
        """Note that so many bytes are held no more."""
        self.held_bytes -= size


class BodyRoom:
    """The room of one request's body, as much of it as has arrived."""

    def __init__(self, bodies: Bodies) -> None:
        self.held_bytes = 0
        self._bodies = bodies

    def __enter__(self) -> "BodyRoom":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bodies.give_back(self.held_bytes)

    async def read(self, headers: Mapping[str, str], receive: Receive) -> bytearray:
        """Return the whole body, refusing one that is too long before it has arrived, or as soon as it is.

        Raises InvalidParameter for a body too long, NotArrived for one that takes too long, Overloaded for one that
        there is no room for, ClientGone for one that ends early.
        """
        settings = self._bodies.settings
        timeout_s = settings.body_timeout_ms / 1000
        if int(headers.get("content-length", 0)) > settings.max_body_bytes:  # digits: the HTTP parser has seen to it
            raise _too_long(settings.max_body_bytes)
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(timeout_s):
                while more:
                    more = self._add(await receive(), body)
        except TimeoutError:
            raise NotArrived("body", timeout_s) from None
        return body

    def _add(self, message: Message, body: bytearray) -> bool:
        """Add what came to `body`; return whether more comes."""
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        if len(body) + len(chunk) > self._bodies.settings.max_body_bytes:
            raise _too_long(self._bodies.settings.max_body_bytes)
        self._bodies.take(len(chunk))
        self.held_bytes += len(chunk)
        body += chunk
        more: bool = message.get("more_body", False)
        return more


class Departure:
    """Calls those who want to hear of it when the client of a connection leaves."""

    def __init__(self) -> None:
        self.is_past = False
        self.calls: set[Callable[[], None]] = set()

    def happen(self) -> None:
        """Note that the client has left; what it asked for is given up."""
        self.is_past = True
        for call in list(self.calls):
            call()


async def while_connected(http: Request, call: Coroutine[object, object, T]) -> T:
    """Return what `call` returns; cancel it and raise ClientGone when the client leaves before that.

    The request's body must have been read to its end: all that can come after it is the disconnect.
    """
    leaving = _Leaving()
    look_away = _watch(http, leaving.leave)
    try:
        return await call
    except asyncio.CancelledError:
        if leaving.left and not leaving.task.uncancel():
            raise ClientGone from None
        raise
    finally:
        leaving.over = True
        look_away()


def _watch(http: Request, leave: Callable[[], None]) -> Callable[[], object]:
    """Have `leave` called when the client leaves: by the connection where that tells, else by a task that waits.

    Returns what ends the watch.
    """
    departure: Departure | None = http.scope.get("extensions", {}).get(DEPARTURE)
    if departure is None:
        gone = asyncio.ensure_future(http.receive())
        gone.add_done_callback(lambda _: leave())
        return gone.cancel
    if departure.is_past:
        asyncio.get_running_loop().call_soon(leave)
    departure.calls.add(leave)
    return partial(departure.calls.discard, leave)


class _Leaving:
    """Cancels the current task when the client leaves, unless what it waited for is over."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task  # noqa: S101  a coroutine that runs has one
        self.task = task
        self.left = self.over = False

    def leave(self) -> None:
        """Cancel the task."""
        if not self.over:
            self.left = True
            self.task.cancel()


def _too_long(limit_bytes: int) -> InvalidParameter:
    return InvalidParameter(f"the body has more than {limit_bytes} bytes; send fewer items per request.", "body")
