"""The HTTP server around the application: connections, signals, graceful end. Knows nothing of embeddings."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import socket
from types import FrameType
from typing import cast

import typer
import uvicorn
from starlette.types import ASGIApp

from quartzite.cli.connections import KEEP_ALIVE_S, Connections

REFUSALS_S = 1
"""How long requests that came during the drain have to end after it; all of them are being refused."""
LAST_CALL_S = 10.0
"""How long after the grace what has been cancelled may take to end, before the process does, in seconds."""


class Server(uvicorn.Server):
    """Serves `app` until a first SIGINT or SIGTERM, then lets running requests end for `grace_s` seconds.

    `announce` is called when connections are accepted, `drain` at the signal: until the last of the requests that
    ran at that moment has ended, connections are accepted and kept so that `app` can refuse new requests. A second
    signal ends the process at once; so does, after LAST_CALL_S more, anything that hangs.
    """

    def __init__(
        self,
        app: ASGIApp,
        connections: Connections,
        grace_s: int,
        announce: Callable[[], None],
        drain: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=cast(type[asyncio.Protocol], connections.protocol),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=REFUSALS_S,
            )
        )
        self._connections = connections
        self._grace_s = grace_s
        self._announce = announce
        self._drain = drain
        self._running: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Begin to accept connections and say so."""
        await super().startup(sockets)
        self._announce()

    async def on_tick(self, counter: int) -> bool:
        """Do what is to be done ten times a second; return whether to end."""
        self._connections.sweep()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Let the requests that ran at the signal end, then close all connections and cancel what is left."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=self._grace_s)
            for task in late:
                task.cancel()
        await super().shutdown(sockets)
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=LAST_CALL_S)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals while serving; uvicorn would raise them again at the end and spoil the exit code."""
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        yield

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        self._drain()
        self._running = set(self.server_state.tasks)
        self._loop.call_soon_threadsafe(self._tell_running)
        watch = threading.Timer(self._grace_s + LAST_CALL_S, _give_up)
        watch.daemon = True
        watch.start()
        self.should_exit = True

    def _tell_running(self) -> None:
        """Say how many requests are waited for: not the one in whose last step the signal came, whose answer is out."""
        self._running = {task for task in self._running if not task.done()}
        if running := len(self._running):
            requests = "1 running request" if running == 1 else f"{running} running requests"
            typer.echo(f"Stopping: {requests} may end within {self._grace_s} s. A second signal stops at once.")


def _give_up() -> None:
    """End the process although something hangs that cannot be cancelled, such as a computation in native code."""
    typer.echo("Something hangs that cannot be cancelled; ending without it.", err=True)
    os._exit(1)
