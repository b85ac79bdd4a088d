"""What every request gets whatever becomes of it: a trace id, and one line in the log."""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quartzite.domain import Timings
from quartzite.errors import RateLimited, wire_row
from quartzite.telemetry.logs import fields
from quartzite.telemetry.metrics import Metrics
from quartzite.telemetry.trace import Ending, Trace, new_trace_id, w3c_trace_id
from quartzite.web.limits import limit_headers
from quartzite.web.withdrawal import withdrawal_headers

if TYPE_CHECKING:
    from quartzite.telemetry.spans import Spans

logger = logging.getLogger(__name__)
TRACE_ID = "x-siliconcloud-trace-id"
_TRACE_ID = TRACE_ID.encode("ascii")
_SHOWN_CHARACTERS = 200


class Traced:
    """The outermost layer of the service, plain ASGI; counts all answers and gives each its trace id.

    While `closing` says so, connections are closed after their answer. Every request is told to `spans` as well,
    unless nobody wants them.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        closing: Callable[[], bool] = lambda: False,
        spans: "Spans | None" = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._closing = closing
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what is not HTTP passes through untouched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = _Visit(scope, send, self._closing)
        try:
            await self._app(scope, receive, visit.send)
        finally:
            visit.end(self._metrics, self._spans)


def trace_of(request: Request) -> Trace:
    """Return the trace of `request`, to be filled in."""
    trace: Trace = request.scope["state"]["trace"]
    return trace


class _Visit:
    """One request under way: its trace, and what has been sent of its answer."""

    def __init__(self, scope: Scope, send: Send, closing: Callable[[], bool]) -> None:
        self.trace = Trace(new_trace_id())
        self._started = time.perf_counter()
        self._scope, self._send, self._closing = scope, send, closing
        scope.setdefault("state", {})["trace"] = self.trace

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on, the trace id added to its headers."""
        if message["type"] == "http.response.start":
            self.trace.status = message["status"]
            trace_id = (_TRACE_ID, self.trace.id.encode("ascii"))
            message["headers"] = [*message["headers"], trace_id, *limit_headers(self.trace.allowances)]
            if self.trace.withdrawal:
                message["headers"] += withdrawal_headers(self.trace.withdrawal)
            if self._closing():
                message["headers"].append((b"connection", b"close"))
        await self._send(message)

    def end(self, metrics: Metrics, spans: "Spans | None") -> None:
        """Count this request, record its spans, and write its one line of the log."""
        ended_s = time.perf_counter()
        seconds = ended_s - self._started
        route = self._scope.get("route")
        path: str = route.path if route else ""
        metrics.request(path, self.trace.status or 0, seconds, self.trace)
        if isinstance(self.trace.failure, RateLimited):
            metrics.limit_hit(self.trace.model or "", self.trace.failure.metric)
        headers: dict[bytes, bytes] = dict(self._scope.get("headers", ()))
        if spans:
            w3c = spans.request(self.trace, self._ending(path, ended_s), headers)
        else:
            w3c = w3c_trace_id(headers.get(b"traceparent", b""))
        self._log(seconds, w3c)
        self.trace.failure = None  # its traceback holds what holds it: all of the request, until garbage is looked for

    def _ending(self, route: str, ended_s: float) -> Ending:
        failure = type(self.trace.failure).__name__ if self.trace.failure else None
        method, path = self._scope["method"], self._scope["path"]
        return Ending(method, path, route, self.trace.status, failure, self._started, ended_s)

    def _log(self, seconds: float, w3c: str | None) -> None:
        """Write counts and times, no content."""
        trace = self.trace
        said = fields(
            trace_id=trace.id,
            w3c_trace_id=w3c,
            method=self._scope["method"],
            path=self._scope["path"][:_SHOWN_CHARACTERS],
            status=trace.status,
            code=trace.failure and wire_row(trace.failure).code,
            model=trace.model and trace.model[:_SHOWN_CHARACTERS],
            items=trace.items,
            images=trace.images or None,
            tokens=trace.tokens,
            ms=_ms(seconds),
            **_stages(trace.timings, trace.images),
        )
        logger.info("request", extra=said)


def _stages(timings: Timings | None, images: int | None) -> dict[str, float]:
    if timings is None:
        return {}
    return {
        **({"pictures_ms": _ms(timings.pictures_s)} if images else {}),
        "tokenise_ms": _ms(timings.tokenise_s),
        "queue_ms": _ms(timings.queue_s),
        "engine_ms": _ms(timings.engine_s),
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
