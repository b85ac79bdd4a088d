"""`quartzite models load` and `unload`: what a running server serves, changed over its admin API."""

import json
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import typer

from quartzite.cli.options import AdminToken, ConfigFile, PrecisionFlag, model_of, settings_of
from quartzite.config import Settings
from quartzite.errors import InvalidConfig, StartFailure

CONNECT_S = 10

ServerUrl = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="QUARTZITE_URL", help="Address of the server. Default: that of the settings, on this machine."
    ),
]


def load(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="NAME, NAME=FOLDER or NAME@REVISION; FOLDER is one of the server's machine."
        ),
    ],
    precision: PrecisionFlag = None,
    level: Annotated[int | None, typer.Option("--level", help="The level that an account needs. Default: 0.")] = None,
    url: ServerUrl = None,
    admin_token: AdminToken = None,
    config: ConfigFile = None,
) -> None:
    """Have a running server serve one more model; what is not given is as the server's settings have it."""
    body: dict[str, Any] = {**model_of(model), "precision": precision, "level": level}
    if "folder" in body:
        body["folder"] = str(Path(body["folder"]).absolute())
    given = {name: value for name, value in body.items() if value is not None}
    told = _ask(settings_of(config, [], {"admin.token": admin_token}), url, "POST", "/admin/models", given)
    typer.echo(f"{told['name']} is served: {told['precision']}, loaded in {told['load_s']:.2f} s")


def unload(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name that clients send.")],
    url: ServerUrl = None,
    admin_token: AdminToken = None,
    config: ConfigFile = None,
) -> None:
    """Have a running server serve a model no more; requests that it has are answered first."""
    settings = settings_of(config, [], {"admin.token": admin_token})
    _ask(settings, url, "DELETE", f"/admin/models/{quote(name)}", None)
    typer.echo(f"{name} is served no more")


def _ask(settings: Settings, url: str | None, method: str, path: str, body: object) -> Any:
    """Return what the server answers; raises StartFailure for a server that is not there or refuses.

    No proxy is asked, for the token is the server's business alone, and an answer is waited for as long as it takes.
    """
    token = settings.admin.token
    if token is None:
        raise InvalidConfig("give the server's admin token: QUARTZITE_ADMIN_TOKEN, --admin-token, or [admin] token")
    url = url or f"http://{_host(settings)}:{settings.server.port}"
    connection = _connection(url)
    content = None if body is None else json.dumps(body)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        connection.connect()
        connection.sock.settimeout(None)
        connection.request(method, urlsplit(url).path.rstrip("/") + path, content, headers)
        response = connection.getresponse()
        status, answer = response.status, response.read()
    except (OSError, HTTPException) as error:
        raise StartFailure(f"the server at {url} does not answer: {error or type(error).__name__}") from error
    finally:
        connection.close()
    return _told(url, status, answer)


def _host(settings: Settings) -> str:
    """Return where this machine reaches a server of these settings."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.server.host, settings.server.host)  # noqa: S104
    return f"[{host}]" if ":" in host else host


def _connection(url: str) -> HTTPConnection:
    parts = urlsplit(url)
    kinds: dict[str, type[HTTPConnection]] = {"http": HTTPConnection, "https": HTTPSConnection}
    try:
        return kinds[parts.scheme](parts.hostname or "", parts.port, timeout=CONNECT_S)
    except (KeyError, ValueError) as error:
        raise InvalidConfig(f"--url {url!r} must be http://HOST:PORT or https://HOST:PORT") from error


def _told(url: str, status: int, answer: bytes) -> Any:
    try:
        told = json.loads(answer)
    except ValueError as error:
        raise StartFailure(f"what answers at {url} is no Quartzite server (status {status})") from error
    if status < 400:
        return told
    message = told.get("message") if isinstance(told, dict) else told
    if status == 404 and not isinstance(told, dict):
        message = "it has no admin API; start it with an admin token"
    raise StartFailure(f"the server at {url} refuses: {message}")
