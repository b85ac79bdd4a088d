"""`quartzite serve`: the service, from the first bound port to the last answered request."""

import errno
import gc
import json
import logging
import os
import shlex
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from quartzite import __version__
from quartzite.cli.options import (
    AdminToken,
    ApiKeys,
    CacheFolder,
    ConfigFile,
    DataFolder,
    Device,
    Host,
    LogFormatFlag,
    MaxVectorBytes,
    Models,
    NoAuth,
    PortFlag,
    PrecisionFlag,
    Spans,
    StorageUrl,
    Streams,
    Threads,
    settings_of,
)
from quartzite.cli.table import table
from quartzite.config import ServerSettings, Settings
from quartzite.errors import StartFailure
from quartzite.telemetry.logs import set_up_logging

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from starlette.types import ASGIApp

    from quartzite.bootstrap import Service
    from quartzite.cli.server import Server

logger = logging.getLogger(__name__)

ShowSettings = Annotated[
    bool, typer.Option("--show-settings", help="Print the settings in force as a settings file, and stop.")
]


def serve(
    models: Models = None,
    host: Host = None,
    port: PortFlag = None,
    no_auth: NoAuth = None,
    api_keys: ApiKeys = None,
    admin_token: AdminToken = None,
    precision: PrecisionFlag = None,
    streams: Streams = None,
    threads: Threads = None,
    device: Device = None,
    cache: CacheFolder = None,
    max_vector_bytes: MaxVectorBytes = None,
    storage_url: StorageUrl = None,
    data_folder: DataFolder = None,
    log_format: LogFormatFlag = None,
    spans: Spans = None,
    config: ConfigFile = None,
    show_settings: ShowSettings = False,
) -> None:
    """Answer POST /v1/embeddings until stopped by Ctrl-C or SIGTERM."""
    flags = {
        "server.host": host,
        "server.port": port,
        "server.no_auth": no_auth,
        "access.api_keys": api_keys or None,
        "admin.token": admin_token,
        "server.log_format": log_format,
        "telemetry.spans": spans,
        "engine.precision": precision,
        "engine.streams": streams,
        "engine.threads": threads,
        "engine.device": device,
        "cache.folder": cache,
        "cache.max_vector_bytes": max_vector_bytes,
        "storage.url": storage_url,
        "storage.data_folder": data_folder,
    }
    settings = settings_of(config, models or [], flags)
    if show_settings:
        from quartzite.cli.settings import as_toml

        typer.echo(as_toml(settings))
    else:
        _start(settings)


def _start(settings: Settings) -> None:
    set_up_logging(settings.server.log_format)
    # What a start makes stays; looking for garbage in it would take a tenth of a second.
    gc.disable()
    # Until requests are taken there is nothing to end with care, so a signal ends the process at once.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with _bound(settings.server) as listener:
        _run(settings, listener)


def _run(settings: Settings, listener: socket.socket) -> None:
    import asyncio

    with asyncio.Runner(loop_factory=_event_loop()) as runner:
        runner.run(_serve(settings, listener))
    typer.echo("Stopped.")


def _event_loop() -> "Callable[[], AbstractEventLoop] | None":
    """Return what makes uvloop's event loop, or None for the standard one on systems that uvloop does not support."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(settings: Settings, listener: socket.socket) -> None:
    from asyncio import create_task, to_thread

    from quartzite.bootstrap import running, web_app

    importing = create_task(to_thread(_import_web))
    async with running(settings, guarded=True) as service:
        await importing
        _look_for_garbage_seldom()
        server = _server(service, settings.server, web_app(service, settings), listener)
        with _port_failures(settings.server):
            await server.serve([listener])


def _look_for_garbage_seldom() -> None:
    """Have the collector pass over all that the start has made, and come once for hundreds of requests.

    Requests leave no garbage in cycles; by the standard thresholds, all that waits under overload is looked through
    again and again, which took more of the event loop than the requests themselves.
    """
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


def _import_web() -> None:
    """Import what only serving needs: on a thread, for it takes as long as loading a small model does."""
    import quartzite.cli.server
    import quartzite.web.app  # noqa: F401


def _server(service: "Service", settings: ServerSettings, app: "ASGIApp", listener: socket.socket) -> "Server":
    from quartzite.bootstrap import refusing_app
    from quartzite.cli.connections import Connections, allowed
    from quartzite.cli.server import Server
    from quartzite.web.protocol import bounds_of

    limit = allowed(settings.max_connections)
    if limit < settings.max_connections:
        logger.warning("at most %d connections: the system's limit of open files allows no more", limit)
    connections = Connections(limit, refusing_app(service), service.metrics, bounds=bounds_of(settings))
    service.metrics.watch_connections(lambda: len(connections))
    return Server(
        app,
        connections,
        settings.shutdown_grace_s,
        announce=lambda: typer.echo(greeting(service, listener)),
        drain=service.pipeline.drain,
    )


@contextmanager
def _bound(server: ServerSettings) -> Iterator[socket.socket]:
    """Take the port, so that a port in use is known before any weights are read; nothing is accepted yet."""
    with _port_failures(server):
        family, kind, _, _, address = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    with listener:
        with _port_failures(server):
            if os.name == "posix":  # elsewhere the option would let two servers share a port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        yield listener


@contextmanager
def _port_failures(server: ServerSettings) -> Iterator[None]:
    where = f"port {server.port} on {server.host}"
    try:
        yield
    except socket.gaierror as error:
        raise StartFailure(f"cannot listen on {server.host}: {error.strerror}; choose another --host") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = f"{where} is in use; stop what listens there or choose another --port (0 takes a free one)"
        elif error.errno == errno.EACCES:
            message = f"{where} may not be used by this user; choose a --port above 1023"
        else:
            message = f"cannot listen on {where}: {error.strerror}"
        raise StartFailure(message) from error


def greeting(service: "Service", listener: socket.socket) -> str:
    """Return what is printed when requests are accepted: the address, the models, and a command that tries them."""
    url = url_of(listener)
    rows = [
        (
            loaded.card.name,
            str(loaded.card.dimensions),
            str(loaded.card.max_tokens),
            loaded.arithmetic,
            f"{loaded.load_s:.2f} s",
        )
        for loaded in service.models.loaded.values()
    ]
    key = "-H 'Authorization: Bearer YOUR_KEY' " if service.asks_for_keys else ""
    example = json.dumps({"model": next(iter(service.models.served)), "input": "Hello, world!"}, ensure_ascii=False)
    return "\n".join(
        [
            f"Quartzite {__version__} listens on {url}",
            "",
            table(("model", "dimensions", "max tokens", "precision", "loaded in"), rows),
            "",
            "Try it:",
            f"curl {url}/v1/embeddings {key}-H 'Content-Type: application/json' -d {shlex.quote(example)}",
            "",
        ]
    )


def url_of(listener: socket.socket) -> str:
    """Return where this machine reaches `listener`: an address that stands for all of them is no place to call."""
    from ipaddress import ip_address

    host, port = listener.getsockname()[:2]
    is_v6 = listener.family == socket.AF_INET6
    if ip_address(host).is_unspecified:
        host = "::1" if is_v6 else "127.0.0.1"
    return f"http://[{host}]:{port}" if is_v6 else f"http://{host}:{port}"
