"""What becomes of a request that goes wrong: an answer all the same. Knows nothing of trace ids and logs."""

import asyncio
import logging

from starlette.types import ASGIApp, Receive, Scope, Send

from quartzite.errors import DatabaseDown, EngineFault, NotRecorded, RequestFailure, Stopping
from quartzite.telemetry.logs import fields
from quartzite.telemetry.trace import Trace
from quartzite.web.failures import render

logger = logging.getLogger(__name__)

_EVENTS = {
    EngineFault: "engine fault",
    NotRecorded: "a request could not be recorded",
    DatabaseDown: "the database does not answer",
}
"""Failures of our own, whose causes are for the log only."""


class Answering:
    """The layer right above the routes, plain ASGI: turns every failure into an answer, and notes it on the trace.

    It lies below all layers that add headers, so that failures get theirs as successes do.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        trace: Trace = scope["state"]["trace"]
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # noqa: BLE001  whatever it is, the client is answered
            trace.failure = _failure(error, trace)
        except asyncio.CancelledError:  # the service stops and has waited long enough
            trace.failure = Stopping()
        if trace.failure and trace.status is None:
            await render(trace.failure)(scope, receive, send)


def _failure(error: Exception, trace: Trace) -> RequestFailure:
    """Return what the client is told of `error`; what an operator has to know of it goes to the log."""
    if not isinstance(error, RequestFailure):
        logger.error("unexpected failure", exc_info=error, extra=fields(trace_id=trace.id))
        return EngineFault()
    if event := _EVENTS.get(type(error)):
        logger.error(event, extra=fields(trace_id=trace.id, cause=error.__cause__))
    return error
