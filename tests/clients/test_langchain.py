"""LangChain's OpenAIEmbeddings against a real server."""

from typing import Any

import httpx
import openai
import pytest
from calling import KEY, TEXTS, exact, named, raw, refusing, run_python
from langchain_openai import OpenAIEmbeddings

from quartzite.config import RequestSettings
from quartzite.errors import Overloaded, RateLimited, RequestFailure
from serving import CLASSIC, CUTTABLE, FakeService, fake_service, listening

MANY = [f"text {number}" for number in range(70)]


def embeddings(url: httpx.URL, **settings: Any) -> OpenAIEmbeddings:
    """The client as docs/clients.md has it, but for `settings`."""
    documented: dict[str, Any] = {"api_key": "any", "model": CLASSIC, "check_embedding_ctx_length": False}
    return OpenAIEmbeddings(base_url=f"{url}/v1", **documented | {"chunk_size": 32, "max_retries": 0} | settings)


async def test_the_documented_snippet_gets_the_vectors_of_plain_http(url: httpx.URL) -> None:
    """What docs/clients.md shows works as it stands."""
    assert exact(await run_python("LangChain", url)) == await raw(url)


async def test_long_lists_go_in_chunks_and_come_back_in_order(service: FakeService, url: httpx.URL) -> None:
    """70 texts with `chunk_size=32` are three requests, and each vector stands at the place of its text."""
    vectors = await embeddings(url).aembed_documents(MANY)
    assert exact(vectors) == await raw(url, MANY)


async def test_the_chunk_size_that_it_comes_with_is_too_large(url: httpx.URL) -> None:
    """LangChain sends 1,000 texts at once unless told otherwise, and is told both numbers."""
    with pytest.raises(openai.BadRequestError, match="input batch size 70 > maximum allowed batch size 32"):
        await embeddings(url, chunk_size=1000).aembed_documents(MANY)


async def test_a_query_and_dimensions_work(url: httpx.URL) -> None:
    """A single text is a vector of the size asked for."""
    vector = await embeddings(url, model=CUTTABLE, dimensions=4).aembed_query("first text")
    assert exact([vector]) == await raw(url, TEXTS[:1], model=CUTTABLE, dimensions=4)


async def test_a_text_too_long_is_cut_where_the_service_is_told_to(url: httpx.URL) -> None:
    """`truncate` passes through the settings of the client."""
    long = "word " * 500
    vectors = await embeddings(url, model_kwargs={"extra_body": {"truncate": "right"}}).aembed_documents([long])
    assert exact(vectors) == await raw(url, [long], truncate="right")


async def test_by_default_it_sends_the_token_ids_of_another_vocabulary(url: httpx.URL) -> None:
    """Ids beyond the model's vocabulary are refused with the way out; ids within it give wrong vectors in silence."""
    unset = embeddings(url, check_embedding_ctx_length=True)
    with pytest.raises(openai.BadRequestError, match="LangChain's OpenAIEmbeddings set `check_embedding_ctx_length=F"):
        await unset.aembed_documents(["hello world"])
    wrong = exact(await unset.aembed_documents(["a b"]))
    assert wrong == await raw(url, [[64, 293]])
    assert wrong != await raw(url, ["a b"])


async def test_a_server_that_rejects_token_arrays_says_what_to_set() -> None:
    """With `requests.token_arrays = "reject"` the default of LangChain cannot give wrong vectors."""
    async with fake_service(requests=RequestSettings(token_arrays="reject")) as service, listening(service.app) as url:
        with pytest.raises(openai.BadRequestError, match="set `check_embedding_ctx_length=False`"):
            await embeddings(url, check_embedding_ctx_length=True).aembed_documents(["a b"])


async def test_an_empty_text_fails_its_whole_chunk_and_is_named(url: httpx.URL) -> None:
    """LangChain sends empty texts; the failure says which."""
    with pytest.raises(openai.BadRequestError, match=r"`input\[1\]` is an empty string"):
        await embeddings(url).aembed_documents(["a", "", "b"])


@pytest.mark.parametrize(
    ("failure", "kind"),
    [(RateLimited("TPM", 1), openai.RateLimitError), (Overloaded(), openai.InternalServerError)],
    ids=named,
)
async def test_failures_are_those_of_the_openai_client(failure: RequestFailure, kind: type[openai.APIError]) -> None:
    """The message is ours; with the retries that it comes with, the client waits and tries again."""
    async with refusing(failure) as (url, _):
        with pytest.raises(kind, match=failure.message):
            await embeddings(url).aembed_documents(TEXTS)
    async with refusing(failure) as (url, gate):
        assert await embeddings(url, max_retries=2).aembed_documents(TEXTS)
    assert gate.asked_at[1] - gate.asked_at[0] >= 1


async def test_the_key_opens_the_service(keyed_url: httpx.URL) -> None:
    """The key travels as the client sends it, and another one is refused."""
    assert await embeddings(keyed_url, api_key=KEY).aembed_query("one")
    with pytest.raises(openai.AuthenticationError) as raised:
        await embeddings(keyed_url, api_key="sk-wrong").aembed_query("one")
    assert raised.value.body == "Api key is invalid"
