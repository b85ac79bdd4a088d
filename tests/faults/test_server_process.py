"""The server process: a port that is taken, signals while requests run, and the exit codes of each end."""

import errno
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from quartzite.cli.serve import _port_failures, url_of
from quartzite.config import ServerSettings
from quartzite.errors import StartFailure

PROGRAM = """
import asyncio, os, signal, socket, sys
from quartzite.cli.connections import Connections
from quartzite.cli.server import Server
from quartzite.telemetry.metrics import Metrics

listener = socket.create_server(("127.0.0.1", 0))

async def app(scope, receive, send):
    print("request", flush=True)
    while scope["path"] != "/last-step" and not (server.should_exit and scope["path"] == "/until-stopped"):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"done"})
    if scope["path"] == "/last-step":
        os.kill(os.getpid(), signal.SIGTERM)

async def serve():
    global server
    connections = Connections(100, app, Metrics())
    server = Server(app, connections, int(sys.argv[1]), lambda: print(listener.getsockname()[1], flush=True))
    await server.serve([listener])

asyncio.run(serve())
print("ended", flush=True)
"""


@contextmanager
def server(grace_s: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a server whose requests end when it is told to stop (`/until-stopped`) or never; yield it and its port."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(grace_s)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process, int(said(process))
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    """Return the next line that the process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def request(port: int, path: str) -> Iterator[socket.socket]:
    """Send a request and leave the connection open."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        yield connection


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_lets_running_requests_end(number: signal.Signals) -> None:
    """After a first signal a running request is still answered, no new one is taken, and the exit code is 0."""
    with server(grace_s=30) as (process, port), request(port, "/until-stopped") as connection:
        assert said(process) == "request"
        process.send_signal(number)
        assert said(process) == "Stopping: 1 running request may end within 30 s. A second signal stops at once."
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
        assert said(process) == "ended"
        assert process.wait() == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}")


def test_a_request_whose_answer_is_out_is_not_waited_for() -> None:
    """A signal that comes between the answer and the end of its task finds no running request."""
    with server(grace_s=30) as (process, port), request(port, "/last-step"):
        assert said(process) == "request"
        assert said(process) == "ended"
        assert process.wait() == 0


def test_requests_that_outlast_the_grace_are_ended() -> None:
    """When the time is over the server ends with what still runs, and the exit code is 0."""
    with server(grace_s=0) as (process, port), request(port, "/forever"):
        assert said(process) == "request"
        process.send_signal(signal.SIGTERM)
        assert said(process).startswith("Stopping: 1 running request may end within 0 s.")
        assert said(process) == "ended"
        assert process.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_second_signal_ends_the_process_at_once(number: signal.Signals) -> None:
    """With a request that never ends, a second signal does not wait for the grace to be over."""
    with server(grace_s=3600) as (process, port), request(port, "/forever"):
        assert said(process) == "request"
        process.send_signal(number)
        assert said(process).startswith("Stopping: 1 running request")
        process.send_signal(number)
        assert process.wait() == -number


def test_a_port_in_use_is_told_at_once() -> None:
    """A port that another process listens on stops the start before any model is looked for."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "quartzite", "serve", "--port", str(port), "--model", "nobody-knows-it"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        f"quartzite: port {port} on 127.0.0.1 is in use; "
        "stop what listens there or choose another --port (0 takes a free one)\n"
    )


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (OSError(errno.EACCES, "Permission denied"), "port 80 on localhost may not be used by this user"),
        (OSError(errno.EADDRNOTAVAIL, "Cannot assign"), "cannot listen on port 80 on localhost: Cannot assign"),
        (socket.gaierror(-2, "Name or service not known"), "cannot listen on localhost: Name or service not known"),
    ],
)
def test_a_port_that_cannot_be_had_is_told(fault: OSError, told: str) -> None:
    """Each way in which the system refuses a port becomes one message that names it."""
    with pytest.raises(StartFailure, match=told), _port_failures(ServerSettings(host="localhost", port=80)):
        raise fault


@pytest.mark.parametrize(
    ("family", "host", "shown"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0", "127.0.0.1"),
        (socket.AF_INET6, "::1", "[::1]"),
        (socket.AF_INET6, "::", "[::1]"),
    ],
)
def test_the_shown_address_can_be_called(family: socket.AddressFamily, host: str, shown: str) -> None:
    """The printed address has the port that is listened on, and is one at which this machine reaches the server."""

    class Bound(socket.socket):
        def getsockname(self) -> tuple[str, int]:
            return host, 8123

    with Bound(family) as listener:
        assert url_of(listener) == f"http://{shown}:8123"
