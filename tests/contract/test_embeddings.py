"""Answers of POST /v1/embeddings."""

import asyncio
import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest

from quartzite.batching.worker import Ran
from quartzite.domain import Encoded
from serving import CLASSIC, CUTTABLE, FakeService, fake_service, listening


async def _post(client: httpx.AsyncClient, **fields: object) -> dict[str, object]:
    answer = await client.post("/v1/embeddings", json={"model": CLASSIC, "input": "text", **fields})
    assert answer.status_code == 200, answer.text
    return json.loads(answer.content)


def _vectors(answer: dict[str, object]) -> np.ndarray:
    return np.array([item["embedding"] for item in answer["data"]], dtype=np.float32)


async def test_an_answer_has_the_document_s_keys_in_order(client: httpx.AsyncClient) -> None:
    """Keys, constants, order of items and counts of tokens are those of the document; nothing is added."""
    answer = await client.post("/v1/embeddings", json={"model": CLASSIC, "input": ["one", "two three"]})
    told = json.loads(answer.content)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert b" " not in answer.content
    assert list(told) == ["object", "data", "model", "usage"]
    assert (told["object"], told["model"]) == ("list", CLASSIC)
    assert [list(item) for item in told["data"]] == [["object", "embedding", "index"]] * 2
    assert [(item["object"], item["index"]) for item in told["data"]] == [("embedding", 0), ("embedding", 1)]
    tokens = told["usage"]["prompt_tokens"]
    assert tokens > 4  # two special tokens for each of the two items
    assert told["usage"] == {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
    assert list(told["usage"]) == ["prompt_tokens", "completion_tokens", "total_tokens"]


async def test_vectors_are_the_engine_s_at_unit_length(client: httpx.AsyncClient, service: FakeService) -> None:
    """What a client gets is the engine's vector of those tokens, normalised, in the order of the input."""
    told = _vectors(await _post(client, input=[[5, 6, 7], [9]]))
    ids = [np.array([101, *tokens, 102], dtype=np.int32) for tokens in ([5, 6, 7], [9])]
    pooled = await service.engine.embed([Encoded(item) for item in ids])
    assert np.allclose(told, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), atol=1e-6)


async def test_float_and_base64_hold_the_same_bits(client: httpx.AsyncClient) -> None:
    """Both encodings carry the same float32 values exactly."""
    floats = _vectors(await _post(client, input=["a", "b c"], encoding_format="float"))
    texts = [item["embedding"] for item in (await _post(client, input=["a", "b c"], encoding_format="base64"))["data"]]
    decoded = np.stack([np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4") for text in texts])
    assert np.array_equal(decoded.view(np.uint32), floats.view(np.uint32))


async def test_dimensions_cut_and_normalise_again(client: httpx.AsyncClient) -> None:
    """The first d values of the whole vector, brought back to unit length."""
    whole = _vectors(await _post(client, model=CUTTABLE))
    cut = _vectors(await _post(client, model=CUTTABLE, dimensions=4))
    assert cut.shape == (1, 4)
    assert np.allclose(cut, whole[:, :4] / np.linalg.norm(whole[:, :4]), atol=1e-6)


@pytest.mark.parametrize(("side", "kept"), [("left", "omega"), ("right", "alpha")])
async def test_truncate_keeps_the_other_side(client: httpx.AsyncClient, side: str, kept: str) -> None:
    """With `truncate` an over-long text is cut from that side, and both cuts differ."""
    text = "alpha " + "word " * 100 + "omega"
    shown = _vectors(await _post(client, input=text, truncate=side))
    end = "alpha" if kept == "omega" else "omega"
    assert np.array_equal(shown, _vectors(await _post(client, input=text.replace(end, "beta"), truncate=side)))
    assert not np.array_equal(shown, _vectors(await _post(client, input=text.replace(kept, "beta"), truncate=side)))


async def test_null_counts_as_absent_and_unknown_fields_are_ignored(client: httpx.AsyncClient) -> None:
    """What LiteLLM and RAGFlow send on top changes nothing."""
    plain = await _post(client)
    extra = await _post(
        client, encoding_format=None, dimensions=None, truncate=None, user=None, drop_params=True, metadata={"a": [1]}
    )
    assert extra == plain


async def test_fields_that_nobody_reads_may_stand_twice(client: httpx.AsyncClient) -> None:
    """Unknown fields are ignored, however often they come and whatever is in them."""
    body = b'{"a": 1, "a": {"model": 2, "model": 3}, "model": "%b", "input": {"text": "x"}}'
    assert (await client.post("/v1/embeddings", content=body % CLASSIC.encode())).status_code == 200


JSON_TYPES = [
    None,
    "application/json",
    "application/json; charset=utf-8",
    'Application/JSON;charset="UTF-8"',
    "application/json;",
    "application/json; odata=verbose",
    "application/vnd.api+json",
]


@pytest.mark.parametrize("content_type", JSON_TYPES)
async def test_json_is_taken_under_all_its_names_and_under_none(
    client: httpx.AsyncClient, content_type: str | None
) -> None:
    """What is said to be JSON in UTF-8 is read, and so is a body of which nothing is said."""
    headers = {"content-type": content_type} if content_type else {}
    body = json.dumps({"model": CLASSIC, "input": "a"}).encode()
    assert (await client.post("/v1/embeddings", content=body, headers=headers)).status_code == 200


async def test_every_answer_has_a_trace_id_of_its_own(client: httpx.AsyncClient) -> None:
    """Successes, refusals and unknown paths all carry the header, each with a new id."""
    answers = [
        await client.post("/v1/embeddings", json={"model": CLASSIC, "input": "a"}),
        await client.post("/v1/embeddings", content=b"{"),
        await client.get("/nowhere"),
        await client.get("/v1/embeddings"),
        await client.get("/health"),
    ]
    ids = [answer.headers.get_list("x-siliconcloud-trace-id") for answer in answers]
    assert all(len(found) == 1 and found[0].startswith("ti_") and len(found[0]) == 29 for found in ids)
    assert len({found[0] for found in ids}) == len(ids)


async def test_equal_texts_of_the_same_time_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests on two connections, one while the other is in the engine: equal answers, usage of each its own."""
    async with fake_service() as service, listening(service.app) as url, httpx.AsyncClient(base_url=url) as client:
        embed, asked = service.batcher.embed, asyncio.Semaphore(0)

        async def noted(*request: Any) -> Ran:
            asked.release()
            return await embed(*request)

        monkeypatch.setattr(service.batcher, "embed", noted)
        service.engine.hold()
        body = {"model": CLASSIC, "input": "The same text."}
        calls = []
        for given in ("The same text.", ["The same text."]):
            calls.append(asyncio.create_task(client.post("/v1/embeddings", json=body | {"input": given})))
            await asked.acquire()
            await service.engine.entered.wait()
        service.engine.release()
        answers = [json.loads((await call).content) for call in calls]
        page = (await client.get("/metrics")).text
    assert answers[0] == answers[1]
    assert answers[0]["usage"]["prompt_tokens"] > 2
    assert len(service.engine.batches) == 1
    assert f'quartzite_repeated_items_total{{model="{CLASSIC}"}} 1.0' in page
