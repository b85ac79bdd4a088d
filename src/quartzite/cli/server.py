"""The HTTP server around the application: connections, signals, graceful end. Knows nothing of embeddings."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import socket
from types import FrameType

import typer
import uvicorn
from starlette.types import ASGIApp

KEEP_ALIVE_S = 75
"""Longer than clients keep idle connections, so that it is never the server that closes one just being used."""


class Server(uvicorn.Server):
    """Serves `app` until a first SIGINT or SIGTERM, then lets running requests end for `grace_s` seconds.

    `announce` is called when connections are accepted. A second signal ends the process at once.
    """

    def __init__(self, app: ASGIApp, grace_s: int, announce: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=grace_s,
            )
        )
        self._announce = announce

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Begin to accept connections and say so."""
        await super().startup(sockets)
        self._announce()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals while serving; uvicorn would raise them again at the end and spoil the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        yield

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        running = len(self.server_state.tasks)
        if running:
            requests = "1 running request" if running == 1 else f"{running} running requests"
            grace_s = self.config.timeout_graceful_shutdown
            typer.echo(f"Stopping: {requests} may end within {grace_s} s. A second signal stops at once.")
        self.should_exit = True
