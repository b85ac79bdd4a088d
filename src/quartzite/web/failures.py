"""Failures as clients see them: rendered by the table of `errors.py`, with nothing of the inside in them."""

from collections.abc import Mapping
from typing import NoReturn

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from quartzite.errors import (
    DatabaseDown,
    MethodRefused,
    NotArrived,
    NotRecorded,
    Overloaded,
    PathNotFound,
    RateLimited,
    RequestFailure,
    Stopping,
    wire_row,
)

_CONTENT_TYPE = (b"content-type", b"application/json; charset=utf-8")


class JsonResponse(Response):
    """An answer whose content is JSON already, labelled as the service labels it."""

    media_type = "application/json; charset=utf-8"

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """Give it its length and its type, all that answers have."""
        if headers is None:
            self.raw_headers = [(b"content-length", b"%d" % len(self.body)), _CONTENT_TYPE]
        else:
            super().init_headers(headers)


def render(failure: RequestFailure) -> JsonResponse:
    """Return the answer that tells `failure`: an object of code, message and data, or a bare string."""
    row = wire_row(failure)
    body: object = failure.message
    if row.shape == "object":
        body = {"code": row.code, "message": failure.message, "data": failure.pointer}
    elif row.shape == "object without code":
        body = {"message": failure.message, "data": failure.pointer}
    return JsonResponse(orjson.dumps(body), row.status, headers=_headers(failure, row.status))


async def refuse_connection(_scope: Scope, _receive: Receive, _send: Send) -> NoReturn:
    """Fail a request on a connection that is to be closed."""
    raise Overloaded


async def refuse_path(_request: Request, _refusal: Exception) -> NoReturn:
    """Fail a request for which the router has no route."""
    raise PathNotFound


async def refuse_method(request: Request, refusal: Exception) -> Response:
    """Fail a request whose route takes other methods only, unless it asks for these; `refusal` is the router's own."""
    allowed: str = refusal.headers["Allow"]  # type: ignore[attr-defined]
    methods = sorted(allowed.split(", "))
    if request.method == "OPTIONS":
        return Response(status_code=204, headers={"Allow": ", ".join(sorted([*methods, "OPTIONS"]))})
    raise MethodRefused(", ".join(methods))


def _headers(failure: RequestFailure, status: int) -> dict[str, str] | None:
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(failure, RateLimited) and failure.retry_after_s is None:
        return {"x-should-retry": "false"}  # OpenAI's clients retry every 429 but for this
    if isinstance(failure, Overloaded | Stopping | NotRecorded | DatabaseDown | RateLimited):
        return {"Retry-After": str(failure.retry_after_s)}
    if isinstance(failure, NotArrived):
        return {"Connection": "close"}
    if isinstance(failure, MethodRefused):
        return {"Allow": failure.allowed}
    return None
