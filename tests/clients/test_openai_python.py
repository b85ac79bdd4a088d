"""The official OpenAI client for Python against a real server."""

import asyncio

import httpx
import numpy as np
import openai
import pytest
from calling import KEY, TEXTS, exact, named, raw, refusing, run_python

from quartzite.errors import (
    DeadlineExceeded,
    EngineFault,
    InvalidKey,
    InvalidParameter,
    LevelTooLow,
    Overloaded,
    RateLimited,
    RequestFailure,
    UnknownModel,
)
from serving import CLASSIC, CUTTABLE, FakeService


def client(url: httpx.URL, key: str = "any", retries: int = 0) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=retries)


def _call(url: httpx.URL, encoding: str | openai.Omit) -> openai.types.CreateEmbeddingResponse:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as calling:
        return calling.embeddings.create(model=CLASSIC, input=TEXTS, encoding_format=encoding)


@pytest.mark.parametrize("heading", ["openai for Python", "openai for Python, asynchronous"])
async def test_the_documented_snippet_gets_the_vectors_of_plain_http(url: httpx.URL, heading: str) -> None:
    """What docs/clients.md shows works as it stands; the client asks for base64 and decodes it."""
    assert exact(await run_python(heading, url)) == await raw(url)


async def test_the_synchronous_client_gets_the_same_vectors_in_both_encodings(url: httpx.URL) -> None:
    """By default the client asks for base64 and decodes it; asked for floats it gets the same numbers, in order."""
    by_default = await asyncio.to_thread(_call, url, openai.omit)
    floats = await asyncio.to_thread(_call, url, "float")
    assert exact(item.embedding for item in by_default.data) == exact(item.embedding for item in floats.data)
    assert exact(item.embedding for item in floats.data) == await raw(url)
    assert [item.index for item in by_default.data] == [0, 1]
    assert by_default.usage == floats.usage


async def test_the_asynchronous_client_gets_vectors_of_the_size_asked_for(url: httpx.URL) -> None:
    """`dimensions` and `user` pass through; the vector comes back with unit length."""
    async with client(url) as calling:
        answer = await calling.embeddings.create(model=CUTTABLE, input="one", dimensions=4, user="someone")
    assert exact([answer.data[0].embedding]) == await raw(url, ["one"], model=CUTTABLE, dimensions=4)
    assert np.isclose(np.linalg.norm(answer.data[0].embedding), 1)


async def test_token_arrays_are_taken_one_or_many(url: httpx.URL) -> None:
    """A list of ids is one item, a list of lists several."""
    async with client(url) as calling:
        one = await calling.embeddings.create(model=CLASSIC, input=[5, 6])
        many = await calling.embeddings.create(model=CLASSIC, input=[[5, 6], [7]])
    assert exact(item.embedding for item in many.data) == await raw(url, [[5, 6], [7]])
    assert one.data[0].embedding == many.data[0].embedding
    assert len(one.data) == 1


async def test_the_services_own_fields_pass_as_extra_ones(url: httpx.URL) -> None:
    """`truncate` and a null `encoding_format`, as some clients send it, go through `extra_body`."""
    async with client(url) as calling:
        answer = await calling.embeddings.create(
            model=CLASSIC, input="word " * 500, extra_body={"truncate": "right", "encoding_format": None}
        )
    assert exact([answer.data[0].embedding]) == await raw(url, ["word " * 500], truncate="right")


FAILURES = {
    InvalidParameter("`input[3]` is an empty string.", "input[3]"): (openai.BadRequestError, 20015),
    UnknownModel("no/such"): (openai.BadRequestError, 20012),
    InvalidKey(): (openai.AuthenticationError, None),
    LevelTooLow("a/model", 2, 0): (openai.PermissionDeniedError, None),
    RateLimited("TPM", 7): (openai.RateLimitError, None),
    Overloaded(): (openai.InternalServerError, 50505),
    DeadlineExceeded(60): (openai.InternalServerError, None),
    EngineFault(): (openai.InternalServerError, 50507),
}


@pytest.mark.parametrize(("failure", "kind", "code"), [(f, *told) for f, told in FAILURES.items()], ids=named)
async def test_failures_reach_the_caller_with_code_message_and_trace_id(
    failure: RequestFailure, kind: type[openai.APIStatusError], code: int | None
) -> None:
    """The client raises its own class for the status; the message, the code and the header are where it says."""
    async with refusing(failure) as (url, _), client(url) as calling:
        with pytest.raises(kind) as raised:
            await calling.embeddings.create(model=CLASSIC, input="one")
    body = raised.value.body
    assert (body["message"] if isinstance(body, dict) else body) == failure.message
    assert (body.get("code") if isinstance(body, dict) else None) == code
    assert (failure.message in str(raised.value)) == isinstance(body, dict)
    assert raised.value.response.headers["x-siliconcloud-trace-id"].startswith("ti_")


async def test_an_answer_has_its_trace_id_in_the_raw_response(url: httpx.URL) -> None:
    """Headers of answers are behind `with_raw_response`."""
    async with client(url) as calling:
        answer = await calling.embeddings.with_raw_response.create(model=CLASSIC, input="one")
    assert answer.headers["x-siliconcloud-trace-id"].startswith("ti_")
    assert exact([answer.parse().data[0].embedding]) == await raw(url, ["one"])


@pytest.mark.parametrize("failure", [RateLimited("RPM", 1), Overloaded(1)], ids=named)
async def test_a_refusal_for_now_is_tried_again_after_the_time_told(failure: RequestFailure) -> None:
    """Both clients wait the second that Retry-After says, where their own first wait would be half of one."""

    def call_and_wait(url: httpx.URL) -> None:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="any") as calling:
            assert calling.embeddings.create(model=CLASSIC, input="one").data

    async def wait(url: httpx.URL) -> None:
        async with client(url, retries=1) as calling:
            assert (await calling.embeddings.create(model=CLASSIC, input="one")).data

    async with refusing(failure) as (one, first), refusing(failure) as (other, second):
        await asyncio.gather(asyncio.to_thread(call_and_wait, one), wait(other))
    for gate in (first, second):
        began, ended = gate.asked_at
        assert ended - began >= 1


async def test_a_request_that_can_never_be_answered_is_not_tried_again() -> None:
    """A 429 for a request larger than the whole limit tells the client so."""
    async with refusing(RateLimited("TPM", None)) as (url, gate), client(url, retries=3) as calling:
        with pytest.raises(openai.RateLimitError):
            await calling.embeddings.create(model=CLASSIC, input="one")
    assert len(gate.asked_at) == 1


async def test_the_time_out_of_the_client_and_that_of_the_request_are_told_apart(
    service: FakeService, url: httpx.URL
) -> None:
    """Past its own time-out the client has no answer; `x-request-timeout-ms` makes the service give one, a 504."""
    service.engine.hold()
    async with client(url) as calling:
        with pytest.raises(openai.APITimeoutError):
            await calling.embeddings.create(model=CLASSIC, input="one", timeout=0.1)
        with pytest.raises(openai.InternalServerError, match="504"):
            await calling.embeddings.create(
                model=CLASSIC, input="one", extra_headers={"x-request-timeout-ms": "20"}, timeout=30
            )


async def test_the_key_opens_the_service(keyed_url: httpx.URL) -> None:
    """The key travels as the client sends it, and another one is refused."""
    async with client(keyed_url, KEY) as calling:
        assert (await calling.embeddings.create(model=CLASSIC, input="one")).data
    async with client(keyed_url, "sk-wrong") as calling:
        with pytest.raises(openai.AuthenticationError) as raised:
            await calling.embeddings.create(model=CLASSIC, input="one")
    assert raised.value.body == "Api key is invalid"


async def test_a_base_url_without_v1_is_not_found(url: httpx.URL) -> None:
    """The commonest fault of a configuration is a 404 that says so."""
    async with openai.AsyncOpenAI(base_url=str(url), api_key="any") as calling:
        with pytest.raises(openai.NotFoundError) as raised:
            await calling.embeddings.create(model=CLASSIC, input="one")
    assert raised.value.body == "404 page not found"


async def test_the_models_are_listed_and_found_by_name(url: httpx.URL) -> None:
    """Listing and asking for one model, slash in its name and all, work as with OpenAI's own service."""
    async with client(url) as calling:
        assert [model.id async for model in calling.models.list()] == [CLASSIC, CUTTABLE]
        assert (await calling.models.retrieve(CLASSIC)).id == CLASSIC
        with pytest.raises(openai.NotFoundError):
            await calling.models.retrieve("no/such")
