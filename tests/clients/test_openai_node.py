"""The official OpenAI client for JavaScript against a real server, run by Node."""

import json
import os
import shutil
from typing import Any

import httpx
import pytest
from calling import KEY, exact, named, raw, refusing, run_documented_node, run_node

from quartzite.errors import (
    DeadlineExceeded,
    InvalidKey,
    InvalidParameter,
    LevelTooLow,
    Overloaded,
    RateLimited,
    RequestFailure,
)
from serving import CLASSIC, CUTTABLE, FakeService

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None and not os.environ.get("CI"), reason="there is no Node on this machine"
)

CAUGHT = "{kind: caught.constructor.name, status: caught.status, message: caught.message, error: caught.error,"
CAUGHT += " trace: caught.headers?.get('x-siliconcloud-trace-id')}"


async def create(url: httpx.URL, shown: str, **options: Any) -> Any:
    """Ask for an embedding with Node's client; return the value of `shown` of `answer` or of what was `caught`."""
    request = {"model": CLASSIC, "input": ["first text", "second text"]} | options.pop("request", {})
    settings = {"baseURL": f"{url}/v1", "apiKey": "any", "maxRetries": 0} | options
    code = f"""
        import OpenAI from "openai";
        const client = new OpenAI({json.dumps(settings)});
        let answer, caught;
        try {{ answer = await client.embeddings.create({json.dumps(request)}); }} catch (error) {{ caught = error; }}
    """
    return await run_node(code, shown)


async def test_the_documented_snippet_gets_the_vectors_of_plain_http(url: httpx.URL) -> None:
    """What docs/clients.md shows works as it stands; the client asks for base64 and decodes it."""
    assert exact(await run_documented_node("openai for Node", url, "vectors")) == await raw(url)


@pytest.mark.parametrize("request_", [{"encoding_format": "float"}, {"model": CUTTABLE, "dimensions": 4}], ids=str)
async def test_vectors_are_those_of_plain_http_in_order(url: httpx.URL, request_: dict[str, object]) -> None:
    """Floats as well as base64, whole as well as cut."""
    got = await create(url, "answer.data.map((row) => row.embedding)", request=request_)
    assert exact(got) == await raw(url, **request_)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (InvalidParameter("`input[3]` is an empty string.", "input[3]"), "BadRequestError"),
        (InvalidKey(), "AuthenticationError"),
        (LevelTooLow("a/model", 2, 0), "PermissionDeniedError"),
        (RateLimited("TPM", 7), "RateLimitError"),
        (Overloaded(), "InternalServerError"),
        (DeadlineExceeded(60), "InternalServerError"),
    ],
    ids=named,
)
async def test_a_failure_is_told_by_status_and_trace_id_alone(failure: RequestFailure, kind: str) -> None:
    """The client raises its own class and looks for the message where this API has none: it says there was no body."""
    async with refusing(failure) as (url, _):
        caught = await create(url, CAUGHT)
    assert caught["kind"] == kind
    assert caught["message"] == f"{caught['status']} status code (no body)"
    assert "error" not in caught
    assert caught["trace"].startswith("ti_")


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (
            InvalidParameter("`input[3]` is an empty string.", "input[3]"),
            "400 The parameter is invalid. Please check again. `input[3]` is an empty string.",
        ),
        (InvalidKey(), "401 Api key is invalid"),
        (Overloaded(), "503 Model service overloaded. Please try again later."),
    ],
    ids=named,
)
async def test_the_documented_wrapper_makes_the_message_seen(failure: RequestFailure, told: str) -> None:
    """With the `fetch` of docs/clients.md the client shows our message, and the code."""
    async with refusing(failure) as (url, _):
        caught = await run_documented_node(
            "Messages of failures in Node", url, "{message: failure.message, ...failure}"
        )
    assert caught["message"] == told
    assert caught.get("code") == (20015 if caught["status"] == 400 else 50505 if caught["status"] == 503 else None)


async def test_a_refusal_for_now_is_tried_again_after_the_time_told() -> None:
    """The client waits the second that Retry-After says, where its own first wait would be half of one."""
    async with refusing(Overloaded(1)) as (url, gate):
        assert await create(url, "answer.data.length", maxRetries=2) == 2
    began, ended = gate.asked_at
    assert ended - began >= 1


async def test_a_request_that_can_never_be_answered_is_not_tried_again() -> None:
    """A 429 for a request larger than the whole limit tells the client so."""
    async with refusing(RateLimited("TPM", None)) as (url, gate):
        assert (await create(url, CAUGHT, maxRetries=2))["status"] == 429
    assert len(gate.asked_at) == 1


async def test_the_time_out_of_the_client_is_its_own(service: FakeService, url: httpx.URL) -> None:
    """Past it the client has no answer."""
    service.engine.hold()
    assert (await create(url, CAUGHT, timeout=100))["kind"] == "APIConnectionTimeoutError"


async def test_the_key_opens_the_service(keyed_url: httpx.URL) -> None:
    """The key travels as the client sends it, and another one is refused."""
    assert await create(keyed_url, "answer.data.length", apiKey=KEY) == 2
    assert (await create(keyed_url, CAUGHT, apiKey="sk-wrong"))["status"] == 401
