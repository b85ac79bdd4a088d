"""GET /v1/models and GET /v1/models/{name}: what is served. Knows names only."""

import orjson
from starlette.requests import Request

from quartzite.errors import PathNotFound
from quartzite.pipeline import Pipeline
from quartzite.web.failures import JsonResponse
from quartzite.web.headers import read_caller
from quartzite.web.schemas import write_model
from quartzite.web.tracing import trace_of


class Models:
    """The endpoints that list the served models, for whom may use them; all of them make embeddings of text."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def list(self, http: Request) -> JsonResponse:
        """Answer with every model that the filters `type` and `sub_type` leave."""
        await self._pipeline.admit(read_caller(http, http.headers))
        query = http.query_params
        wanted = query.get("type", "text") == "text" and query.get("sub_type", "embedding") == "embedding"
        data = [write_model(name) for name in self._pipeline.models] if wanted else []
        return JsonResponse(orjson.dumps({"object": "list", "data": data}))

    async def retrieve(self, http: Request) -> JsonResponse:
        """Answer with the one model whose name, slashes and all, is the rest of the path."""
        await self._pipeline.admit(read_caller(http, http.headers))
        name = http.path_params["name"]
        if name not in self._pipeline.models:
            raise PathNotFound
        trace_of(http).withdrawal = self._pipeline.withdrawal_of(name)
        return JsonResponse(orjson.dumps(write_model(name)))
