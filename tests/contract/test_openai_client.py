"""The official OpenAI client against a real server."""

import asyncio

import httpx
import numpy as np
import openai
import pytest

from serving import CLASSIC, CUTTABLE


def _call(url: httpx.URL, encoding: str | openai.Omit) -> openai.types.CreateEmbeddingResponse:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        return client.embeddings.create(model=CLASSIC, input=["one", "two three"], encoding_format=encoding)


async def test_the_synchronous_client_gets_the_same_vectors_in_both_encodings(url: httpx.URL) -> None:
    """By default the client asks for base64 and decodes it; asked for floats it gets the same numbers."""
    by_default = await asyncio.to_thread(_call, url, openai.omit)
    floats = await asyncio.to_thread(_call, url, "float")
    assert [item.embedding for item in by_default.data] == [
        np.float32(item.embedding).astype(float).tolist() for item in floats.data
    ]
    assert [item.index for item in by_default.data] == [0, 1]
    assert by_default.usage == floats.usage


async def test_the_asynchronous_client_gets_vectors_of_the_size_asked_for(url: httpx.URL) -> None:
    """`dimensions` and `user` pass through; the vector comes back with unit length."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        answer = await client.embeddings.create(model=CUTTABLE, input="one", dimensions=4, user="someone")
    assert len(answer.data[0].embedding) == 4
    assert np.isclose(np.linalg.norm(answer.data[0].embedding), 1)


async def test_failures_reach_the_caller_with_code_message_and_trace_id(url: httpx.URL) -> None:
    """The client raises its own class for the status, with our body and headers in it."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="Model does not exist") as raised:
            await client.embeddings.create(model="no/such", input="one")
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["code"] == 20012
    assert raised.value.response.headers["x-siliconcloud-trace-id"].startswith("ti_")


async def test_the_models_are_listed_and_found_by_name(url: httpx.URL) -> None:
    """Listing and asking for one model, slash in its name and all, work as with OpenAI's own service."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == [CLASSIC, CUTTABLE]
        assert (await client.models.retrieve(CLASSIC)).id == CLASSIC
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("no/such")
