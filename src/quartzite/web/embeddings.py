"""POST /v1/embeddings. Knows HTTP and the pipeline; the wire names stand in `schemas.py`."""

import time

from starlette.requests import Request

from quartzite.admission.gate import Caller
from quartzite.config import RequestSettings
from quartzite.errors import Stopping
from quartzite.pipeline import Pipeline
from quartzite.web.connection import read_body, while_connected
from quartzite.web.failures import JsonResponse
from quartzite.web.headers import read_timeout_s
from quartzite.web.schemas import read_request, write_answer
from quartzite.web.tracing import trace_of


class Embeddings:
    """The endpoint of embeddings; the body is read as JSON whatever its content type says."""

    def __init__(self, pipeline: Pipeline, settings: RequestSettings) -> None:
        self._pipeline = pipeline
        self._settings = settings

    async def create(self, http: Request) -> JsonResponse:
        """Answer one request; what it asks for is dropped when its client leaves, and no body is read for strangers."""
        trace, too_late = trace_of(http), self._pipeline.draining
        caller = Caller(http.headers.get("authorization"), trace.id, http.client.host if http.client else None)
        async with self._pipeline.visit(caller, trace) as permit:
            timeout_s = read_timeout_s(http.headers)
            body = await read_body(http.headers, http.receive, self._settings.max_body_bytes)
            request = read_request(body, self._settings)
            trace.model, trace.user, trace.items = request.model, request.user, len(request.items)
            if too_late:  # told now: a connection closed within a body would take the answer with it
                raise Stopping
            answer = await while_connected(http.receive, self._pipeline.embed(request, permit, timeout_s))
            trace.tokens, trace.timings, trace.ready_s = answer.tokens, answer.timings, time.perf_counter()
            return JsonResponse(write_answer(answer))
