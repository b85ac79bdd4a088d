"""POST /v1/embeddings. Knows HTTP and the pipeline; the wire names stand in `schemas.py`."""

import time

from starlette.requests import Request

from quartzite.config import RequestSettings
from quartzite.errors import Stopping
from quartzite.pipeline import Pipeline
from quartzite.web.connection import Bodies, while_connected
from quartzite.web.failures import JsonResponse
from quartzite.web.headers import check_content, read_caller, read_headers, read_timeout_s
from quartzite.web.schemas import read_request, write_answer
from quartzite.web.tracing import trace_of


class Embeddings:
    """The endpoint of embeddings."""

    def __init__(self, pipeline: Pipeline, settings: RequestSettings, bodies: Bodies) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._bodies = bodies

    async def create(self, http: Request) -> JsonResponse:
        """Answer one request; what it asks for is dropped when its client leaves, and no body is read for strangers."""
        trace, too_late = trace_of(http), self._pipeline.draining
        headers = read_headers(http)
        async with self._pipeline.visit(read_caller(http, headers), trace) as permit:
            check_content(headers)
            timeout_s = read_timeout_s(headers)
            with self._bodies.room() as room:
                request = read_request(await room.read(headers, http.receive), self._settings)
                trace.model, trace.user, trace.items = request.model, request.user, len(request.items)
                trace.withdrawal = self._pipeline.withdrawal_of(request.model)
                trace.images = request.images
                if too_late:  # told now, when it is known for which model
                    raise Stopping
                answer = await while_connected(http, self._pipeline.embed(request, permit, timeout_s))
            trace.tokens, trace.timings, trace.ready_s = answer.tokens, answer.timings, time.perf_counter()
            return JsonResponse(write_answer(answer))
