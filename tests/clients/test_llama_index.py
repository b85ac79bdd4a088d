"""LlamaIndex's SiliconFlowEmbedding against a real server."""

import asyncio
from typing import Any

import aiohttp
import httpx
import pytest
from calling import KEY, TEXTS, exact, named, raw, refusing, run_python
from llama_index.embeddings.siliconflow import SiliconFlowEmbedding

from quartzite.errors import WIRE, DeadlineExceeded, InvalidKey, InvalidParameter, Overloaded, RateLimited
from serving import CLASSIC

MANY = [f"text {number}" for number in range(70)]


def embedding(url: httpx.URL, **settings: Any) -> SiliconFlowEmbedding:
    """The client as docs/clients.md has it, but for `settings`."""
    made: dict[str, Any] = {"model": CLASSIC, "api_key": "any", "max_retries": 0, **settings}
    return SiliconFlowEmbedding(base_url=f"{url}/v1/embeddings", **made)


async def test_the_documented_snippet_gets_the_vectors_of_plain_http(url: httpx.URL) -> None:
    """What docs/clients.md shows works as it stands."""
    assert exact(await run_python("LlamaIndex", url)) == await raw(url)


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_both_ways_of_calling_give_the_vectors_of_plain_http(url: httpx.URL, encoding: str) -> None:
    """Synchronous and asynchronous, queries and texts; lists go in batches of ten and come back in order."""
    client = embedding(url, encoding_format=encoding)
    expected = await raw(url, MANY)
    assert exact(await asyncio.to_thread(client.get_text_embedding_batch, MANY)) == expected
    assert exact(await client.aget_text_embedding_batch(MANY)) == expected
    assert exact([await client.aget_query_embedding("text 0")]) == await raw(url, ["text 0"])
    assert exact([await asyncio.to_thread(client.get_query_embedding, "text 0")]) == await raw(url, ["text 0"])


@pytest.mark.parametrize("failure", [InvalidKey(), DeadlineExceeded(60)], ids=named)
async def test_a_failure_that_is_a_bare_string_is_told(failure: Any) -> None:
    """Called synchronously the client raises RuntimeError with our words."""
    async with refusing(failure) as (url, _):
        with pytest.raises(RuntimeError, match=failure.message):
            await asyncio.to_thread(embedding(url).get_text_embedding_batch, TEXTS)


@pytest.mark.parametrize(
    "failure", [InvalidParameter("`input[3]` is an empty string.", "input[3]"), RateLimited("TPM", 1), Overloaded()]
)
async def test_a_failure_that_is_an_object_never_passes_for_an_empty_answer(failure: Any) -> None:
    """The synchronous client takes the `data` of a failure for the vectors: that it has characters makes it fail."""
    assert WIRE[type(failure)].shape != "string"
    async with refusing(failure) as (url, _):
        with pytest.raises(TypeError):
            await asyncio.to_thread(embedding(url).get_text_embedding_batch, TEXTS)


async def test_asynchronously_a_failure_is_told_by_its_status() -> None:
    """The asynchronous client raises for the status; our words are lost."""
    async with refusing(Overloaded()) as (url, _):
        with pytest.raises(aiohttp.ClientResponseError, match="503"):
            await embedding(url).aget_text_embedding_batch(TEXTS)


async def test_the_retries_that_it_comes_with_get_over_a_refusal() -> None:
    """It tries again after every failure, whatever it was, after a second or more."""
    async with refusing(Overloaded()) as (url, gate):
        client = SiliconFlowEmbedding(base_url=f"{url}/v1/embeddings", model=CLASSIC, api_key="any")
        assert len(await asyncio.to_thread(client.get_text_embedding_batch, TEXTS)) == 2
    assert len(gate.asked_at) == 2


async def test_the_key_opens_the_service(keyed_url: httpx.URL) -> None:
    """The key travels as the client sends it, and another one is refused."""
    assert await embedding(keyed_url, api_key=KEY).aget_query_embedding("one")
    with pytest.raises(RuntimeError, match="Api key is invalid"):
        await asyncio.to_thread(embedding(keyed_url, api_key="sk-wrong").get_query_embedding, "one")
