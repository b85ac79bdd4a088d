"""LiteLLM's library against a real server."""

import base64
from typing import Any

import httpx
import litellm
import numpy as np
import pytest
from calling import KEY, TEXTS, exact, named, raw, refusing, run_python

from quartzite.errors import (
    AllowanceSpent,
    DeadlineExceeded,
    InvalidKey,
    InvalidParameter,
    Overloaded,
    RateLimited,
    RequestFailure,
)
from serving import CLASSIC, CUTTABLE, FakeService


async def embed(url: httpx.URL, **settings: Any) -> list[Any]:
    """Return the embeddings of two texts."""
    call: dict[str, Any] = {"model": f"openai/{CLASSIC}", "input": TEXTS, "api_key": "any", "max_retries": 0}
    answer = await litellm.aembedding(api_base=f"{url}/v1", **call | settings)
    return [row["embedding"] for row in answer.data]


async def test_the_documented_snippet_gets_the_vectors_of_plain_http(url: httpx.URL) -> None:
    """What docs/clients.md shows works as it stands."""
    assert exact(await run_python("LiteLLM", url)) == await raw(url)


@pytest.mark.parametrize("encoding", [None, "float", {"extra_body": {"encoding_format": None}}], ids=repr)
async def test_vectors_are_those_of_plain_http_in_order(url: httpx.URL, encoding: Any) -> None:
    """Without an encoding, with floats, and with the `encoding_format: null` that some of its versions send."""
    settings = encoding if isinstance(encoding, dict) else {"encoding_format": encoding}
    assert exact(await embed(url, **settings)) == await raw(url)


async def test_base64_is_handed_to_the_caller_as_it_is(url: httpx.URL) -> None:
    """LiteLLM decodes nothing: who asks for base64 gets the string."""
    strings = await embed(url, encoding_format="base64")
    assert exact(np.frombuffer(base64.b64decode(text), "<f4") for text in strings) == await raw(url)


async def test_dimensions_have_to_be_allowed(url: httpx.URL) -> None:
    """LiteLLM knows no model of that name and refuses `dimensions` itself, unless told that it is fine."""
    cut: dict[str, Any] = {"model": f"openai/{CUTTABLE}", "dimensions": 4}
    with pytest.raises(litellm.UnsupportedParamsError):
        await embed(url, **cut)
    vectors = await embed(url, allowed_openai_params=["dimensions"], **cut)
    assert exact(vectors) == await raw(url, model=CUTTABLE, dimensions=4)


FAILURES: dict[RequestFailure, tuple[type[Exception], bool]] = {
    InvalidParameter("`input[3]` is an empty string.", "input[3]"): (litellm.BadRequestError, True),
    InvalidKey(): (litellm.AuthenticationError, False),
    AllowanceSpent(10, 8, 4): (litellm.APIError, True),
    RateLimited("TPM", 1): (litellm.RateLimitError, True),
    Overloaded(): (litellm.ServiceUnavailableError, True),
    DeadlineExceeded(60): (litellm.Timeout, False),
}


@pytest.mark.parametrize(("failure", "kind", "told"), [(f, *rest) for f, rest in FAILURES.items()], ids=named)
async def test_failures_are_its_own_with_the_message_of_an_object(
    failure: RequestFailure, kind: type[Exception], told: bool
) -> None:
    """The class says what it was; the message of a bare string is lost on the way."""
    async with refusing(*[failure] * 3) as (url, _):
        with pytest.raises(kind) as raised:
            await embed(url)
    assert (failure.message in str(raised.value)) == told


async def test_the_time_out_of_the_client_is_its_own(service: FakeService, url: httpx.URL) -> None:
    """Past it the client has no answer."""
    service.engine.hold()
    with pytest.raises(litellm.Timeout):
        await embed(url, timeout=0.1)


async def test_the_key_opens_the_service(keyed_url: httpx.URL) -> None:
    """The key travels as the client sends it, and another one is refused."""
    assert len(await embed(keyed_url, api_key=KEY)) == 2
    with pytest.raises(litellm.AuthenticationError):
        await embed(keyed_url, api_key="sk-wrong")
