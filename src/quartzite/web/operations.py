"""GET /health, /ready and /metrics, for whoever runs the service."""

from collections.abc import Mapping

import orjson
from starlette.requests import Request
from starlette.responses import Response

from quartzite.domain import ModelHealth, ModelState
from quartzite.pipeline import Pipeline
from quartzite.telemetry.metrics import CONTENT_TYPE, Metrics
from quartzite.web.failures import JsonResponse


class Operations:
    """The endpoints that tell how the service is; models that are `changing` are told and make no difference."""

    def __init__(self, pipeline: Pipeline, metrics: Metrics, changing: Mapping[str, ModelState]) -> None:
        self._pipeline = pipeline
        self._metrics = metrics
        self._changing = changing

    async def health(self, _http: Request) -> JsonResponse:
        """Answer 200 when every model answers requests, be it with fewer streams, else 503; tell how each model is."""
        healths = {name: served.batcher.health for name, served in self._pipeline.models.items()}
        usable = all(health.usable for health in healths.values())
        whole = all(health.state == "healthy" for health in healths.values())
        status = "ok" if whole else "degraded" if usable else "failing"
        changing = {name: ModelHealth(state, 0, 0) for name, state in self._changing.items()}
        return JsonResponse(orjson.dumps({"status": status, "models": healths | changing}), 200 if usable else 503)

    async def ready(self, _http: Request) -> JsonResponse:
        """Answer 200 when every model can be used and the service is not about to end, else 503; name each model.

        Without any model there is nothing to be ready for.
        """
        models = {name: served.batcher.healthy for name, served in self._pipeline.models.items()}
        usable = "ready" if models and all(models.values()) else "unavailable"
        status = "stopping" if self._pipeline.draining else usable
        return JsonResponse(
            orjson.dumps({"status": status, "models": models | dict.fromkeys(self._changing, False)}),
            200 if status == "ready" else 503,
        )

    async def metrics(self, _http: Request) -> Response:
        """Answer with all metrics in Prometheus' text format."""
        for name, state in self._changing.items():
            self._metrics.health(name, state)
        engines = set()
        for name, served in self._pipeline.models.items():
            health = served.batcher.health
            self._metrics.health(name, health.state)
            if served.batcher not in engines:  # names that share an engine are counted under the first of them
                engines.add(served.batcher)
                self._metrics.look(name, served.batcher.depth, health)
        return Response(await self._metrics.exposition(), media_type=CONTENT_TYPE)
