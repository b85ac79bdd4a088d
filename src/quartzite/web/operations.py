"""GET /health and GET /ready, for whoever runs the service."""

import orjson
from starlette.requests import Request

from quartzite.pipeline import Pipeline
from quartzite.web.failures import JsonResponse


class Operations:
    """The endpoints that tell how the service is."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def health(self, _http: Request) -> JsonResponse:
        """Answer 200 as long as the process answers at all."""
        return JsonResponse(b'{"status":"ok"}')

    async def ready(self, _http: Request) -> JsonResponse:
        """Answer 200 when every model can be used, else 503; each model is named with its state."""
        models = {name: served.batcher.healthy for name, served in self._pipeline.models.items()}
        ready = all(models.values())
        body = {"status": "ready" if ready else "unavailable", "models": models}
        return JsonResponse(orjson.dumps(body), 200 if ready else 503)
