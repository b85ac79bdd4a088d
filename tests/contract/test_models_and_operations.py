"""GET /v1/models, /health and /ready."""

import httpx
import pytest

from serving import CLASSIC, CUTTABLE

ENTRIES = [{"id": name, "object": "model", "created": 0, "owned_by": ""} for name in (CLASSIC, CUTTABLE)]


@pytest.mark.parametrize("query", ["", "?type=text", "?sub_type=embedding", "?type=text&sub_type=embedding"])
async def test_models_that_match_are_listed(client: httpx.AsyncClient, query: str) -> None:
    """All served models are of type text and sub-type embedding; each filter works without the other."""
    answer = await client.get(f"/v1/models{query}")
    assert answer.json() == {"object": "list", "data": ENTRIES}
    assert list(answer.json()["data"][0]) == ["id", "object", "created", "owned_by"]


@pytest.mark.parametrize("query", ["?type=image", "?sub_type=chat", "?type=text&sub_type=reranker", "?type="])
async def test_other_filters_leave_nothing(client: httpx.AsyncClient, query: str) -> None:
    """A type that is not served gives an empty list, not an error."""
    answer = await client.get(f"/v1/models{query}")
    assert answer.status_code == 200
    assert answer.json() == {"object": "list", "data": []}


@pytest.mark.parametrize("path", [CLASSIC, CLASSIC.replace("/", "%2F")])
async def test_one_model_can_be_asked_for(client: httpx.AsyncClient, path: str) -> None:
    """A model's name is the rest of the path, its slash written as such or escaped."""
    answer = await client.get(f"/v1/models/{path}")
    assert answer.json() == ENTRIES[0]


async def test_a_model_that_is_not_served_has_no_path(client: httpx.AsyncClient) -> None:
    """Asking for it is a 404, as for every path that is not there."""
    answer = await client.get("/v1/models/no/such")
    assert (answer.status_code, answer.content) == (404, b'"404 page not found"')


async def test_health_and_readiness_are_told(client: httpx.AsyncClient) -> None:
    """A service that runs is alive and ready, model by model."""
    whole = {"state": "healthy", "streams": 1, "lost_streams": 0}
    assert (await client.get("/health")).json() == {"status": "ok", "models": {CLASSIC: whole, CUTTABLE: whole}}
    ready = await client.get("/ready")
    assert ready.status_code == 200
    assert ready.json() == {"status": "ready", "models": {CLASSIC: True, CUTTABLE: True}}


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", f"/v1/models/{CLASSIC}"])
async def test_head_is_get_without_the_body(url: httpx.URL, path: str) -> None:
    """HEAD answers with the headers of GET, the length of its body too, and no body."""
    async with httpx.AsyncClient(base_url=url) as client:
        get, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(get.content))
