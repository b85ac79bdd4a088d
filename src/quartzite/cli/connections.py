"""The connections of clients: how many there may be, and how long one may go without a request. Knows no requests."""

import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from starlette.types import ASGIApp

from quartzite.telemetry.metrics import Metrics
from quartzite.web.protocol import Bounds, Protocol

KEEP_ALIVE_S = 75
"""Longer than clients keep idle connections, so that it is never the server that closes one just being used."""
SILENCE_S = KEEP_ALIVE_S + 15.0
"""How long a connection may be without a request whose head is whole, or leave its last answer unread, in seconds."""
DESCRIPTORS = 100
"""File descriptors that are not for connections: database, models, logs."""


class Connections:
    """Bounds the connections of one server to `limit`, and closes those that are silent for SILENCE_S.

    One connection too many takes the place of the one that has been silent longest; where none is, whatever it asks
    is answered by `refuse`. Each of them stays within `bounds`; `metrics` hear of what is refused
    and closed. `clock` gives seconds.
    """

    def __init__(
        self,
        limit: int,
        refuse: ASGIApp,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        bounds: Bounds = Bounds(),  # noqa: B008  frozen
    ) -> None:
        self._limit = limit
        self._bounds = bounds
        self._metrics = metrics
        self._refuse = refuse
        self._clock = clock
        self._open: set[Connection] = set()
        self._silent: OrderedDict[Connection, float] = OrderedDict()

    def __len__(self) -> int:
        """Return how many connections there are."""
        return len(self._open)

    def protocol(self, **settings: Any) -> "Connection":
        """Return the protocol of one connection; uvicorn's `settings` are passed on."""
        return Connection(self, bounds=self._bounds, on_refusal=self._metrics.refused, **settings)

    def sweep(self) -> None:
        """Close what has been silent for too long; to be called every now and then."""
        before = self._clock() - SILENCE_S
        while self._silent and next(iter(self._silent.values())) <= before:
            self._close_longest_silent()

    def came(self, connection: "Connection") -> None:
        """Take note of a connection that was just made."""
        self._open.add(connection)
        if len(self) > self._limit and self._silent:
            self._metrics.connection_displaced()
            self._close_longest_silent()
        if len(self) > self._limit:
            connection.app = self._refuse
        self.fell_silent(connection)

    def fell_silent(self, connection: "Connection") -> None:
        """Take note that a connection waits for its client."""
        self._silent[connection] = self._clock()

    def spoke(self, connection: "Connection") -> None:
        """Take note of a request on a connection, or of the end of it; one that is refused stays dispensable."""
        if connection.app is not self._refuse:
            self._silent.pop(connection, None)

    def went(self, connection: "Connection") -> None:
        """Forget a connection."""
        self._open.discard(connection)
        self._silent.pop(connection, None)

    def _close_longest_silent(self) -> None:
        connection = next(iter(self._silent))
        self.went(connection)
        connection.transport.abort()


class Connection(Protocol):
    """One connection, which tells `connections` when it has a request and when it waits for one."""

    def __init__(self, connections: Connections, **settings: Any) -> None:
        super().__init__(**settings)
        self._among = connections

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        super().connection_made(transport)
        self._among.came(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        self._among.went(self)

    def on_headers_complete(self) -> None:
        """Begin to answer a request."""
        self._among.spoke(self)
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it is there already."""
        waits = not self.pipeline
        super().on_response_complete()
        if waits and not self.transport.is_closing():
            self._among.fell_silent(self)


def allowed(wanted: int) -> int:
    """Return how many of `wanted` connections this process may have open, after raising its limit as far as it may."""
    try:
        import resource
    except ImportError:  # only POSIX has such a limit
        return wanted
    needed = wanted + DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < needed:
        with suppress(ValueError, OSError):  # some systems have a lower limit than the one they tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard) if hard >= 0 else needed, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft < 0 else min(wanted, max(1, soft - DESCRIPTORS))
