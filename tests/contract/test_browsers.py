"""Calls from web pages: who may make them, and what a page's program gets to see."""

from collections.abc import AsyncIterator

import httpx
import pytest

from quartzite.engines.fake import FakeEngine
from quartzite.web.limits import LIMIT_HEADERS
from serving import CLASSIC, fake_service

PAGE, OTHER = "https://page.example", "https://other.example"
ASKED = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os,x-request-timeout-ms",
}
BODY = {"model": CLASSIC, "input": "text"}


@pytest.fixture
async def known() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that one page may call."""
    async with fake_service(cors_origins=[PAGE]) as service, service.client() as client:
        yield client


async def test_a_browser_may_ask_before_it_sends(known: httpx.AsyncClient) -> None:
    """The preflight of a known page allows the method, and all headers that OpenAI's clients send."""
    answer = await known.options("/v1/embeddings", headers={"Origin": PAGE, **ASKED})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == ASKED["Access-Control-Request-Headers"]
    assert answer.headers["x-siliconcloud-trace-id"].startswith("ti_")


@pytest.mark.parametrize(
    ("method", "path", "fields", "status"),
    [
        ("POST", "/v1/embeddings", BODY, 200),
        ("POST", "/v1/embeddings", {"model": "no/such", "input": "a"}, 400),
        ("GET", "/v1/embeddings", None, 405),
        ("GET", "/nowhere", None, 404),
        ("GET", "/v1/models", None, 200),
    ],
)
async def test_a_page_that_may_call_can_read_every_answer(
    known: httpx.AsyncClient, method: str, path: str, fields: object, status: int
) -> None:
    """Failures are as readable as successes; the trace id and what limits leave are among what a program sees."""
    answer = await known.request(method, path, json=fields, headers={"Origin": PAGE})
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == PAGE
    told = answer.headers["access-control-expose-headers"].split(", ")
    ends = {"deprecation", "sunset", "link"}
    assert set(told) == {"x-siliconcloud-trace-id", *LIMIT_HEADERS, "retry-after", "x-should-retry", *ends}
    assert answer.headers["x-siliconcloud-trace-id"]
    assert "access-control-allow-credentials" not in answer.headers


async def test_a_fault_of_the_service_can_be_read_too() -> None:
    """A 500 is no riddle to a page's program."""
    async with fake_service(FakeEngine(fail_on=5), cors_origins=["*"]) as service, service.client() as client:
        answer = await client.post("/v1/embeddings", json=BODY | {"input": [5]}, headers={"Origin": PAGE})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (500, "*")


async def test_other_pages_are_not_let_in(known: httpx.AsyncClient) -> None:
    """The browser of a page that was not named is not allowed to call, and keeps every answer from it."""
    refused = await known.options("/v1/embeddings", headers={"Origin": OTHER, **ASKED})
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers
    answer = await known.post("/v1/embeddings", json=BODY, headers={"Origin": OTHER})
    assert "access-control-allow-origin" not in answer.headers


async def test_no_page_may_call_unless_that_is_set(client: httpx.AsyncClient) -> None:
    """As the service comes, preflights allow nothing, and no answer says that a page may read it."""
    preflight = await client.options("/v1/embeddings", headers={"Origin": PAGE, **ASKED})
    answer = await client.post("/v1/embeddings", json=BODY, headers={"Origin": PAGE})
    assert (preflight.status_code, answer.status_code) == (204, 200)
    assert not [name for name in [*preflight.headers, *answer.headers] if name.startswith("access-control")]
