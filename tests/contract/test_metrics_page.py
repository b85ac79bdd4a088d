"""GET /metrics: what a scraper gets from a service that has worked."""

import asyncio
from collections.abc import Iterable

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from quartzite.admission.gate import OpenGate, Permit
from quartzite.domain import EmbeddingRequest
from quartzite.engines.base import MicroBatchShape
from quartzite.engines.fake import FakeEngine
from quartzite.errors import RateLimited
from serving import CLASSIC, CUTTABLE, fake_service

Labels = frozenset[tuple[str, str]]


async def scraped(client: httpx.AsyncClient) -> dict[tuple[str, Labels], float]:
    """Return every sample of the page by its name and labels."""
    page = await client.get("/metrics")
    assert page.status_code == 200
    samples = [sample for family in text_string_to_metric_families(page.text) for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def key(name: str, **labels: str) -> tuple[str, Labels]:
    return name, frozenset(labels.items())


async def post(client: httpx.AsyncClient, model: str, *items: Iterable[int]) -> httpx.Response:
    return await client.post("/v1/embeddings", json={"model": model, "input": list(items)})


async def test_requests_are_counted_by_route_model_and_status(client: httpx.AsyncClient) -> None:
    """Answers and failures count under their model, what is not served or not there under none."""
    for model in (CLASSIC, CLASSIC, CUTTABLE, "no/such"):
        await post(client, model, [5, 6])
    await client.post("/v1/embeddings", json={"model": CLASSIC, "input": ""})
    await client.get("/no/such")
    samples = await scraped(client)
    counted = {labels: value for (name, labels), value in samples.items() if name == "quartzite_requests_total"}
    assert counted == {
        key("", path="/v1/embeddings", model=CLASSIC, status="200")[1]: 2,
        key("", path="/v1/embeddings", model=CUTTABLE, status="200")[1]: 1,
        key("", path="/v1/embeddings", model="", status="400")[1]: 2,
        key("", path="", model="", status="404")[1]: 1,
    }


async def test_tokens_and_items_are_those_of_the_answers(client: httpx.AsyncClient) -> None:
    """The sums are what the clients were told in `usage`, model by model."""
    used = [(await post(client, CLASSIC, *sizes)).json()["usage"] for sizes in ([[5]], [[5, 6, 7], [8]])]
    samples = await scraped(client)
    assert samples[key("quartzite_tokens_total", model=CLASSIC)] == sum(each["total_tokens"] for each in used)
    assert samples[key("quartzite_items_total", model=CLASSIC)] == 3
    assert samples[key("quartzite_tokens_total", model=CUTTABLE)] == 0
    assert samples[key("quartzite_queue_wait_seconds_count", model=CLASSIC)] == 2
    assert samples[key("quartzite_request_seconds_count", model=CLASSIC)] == 2


async def test_micro_batches_are_counted_with_the_tails_of_their_buckets() -> None:
    """Seven tokens in a bucket of 16 are nine places of padding."""
    engine = FakeEngine(shape=MicroBatchShape(64, 32, (16, 32, 64)))
    async with fake_service(engine) as service, service.client() as client:
        await post(client, CUTTABLE, [5, 6, 7, 8, 9])
        samples = await scraped(client)
    assert engine.batches == [(7,)]  # two special tokens among them
    assert samples[key("quartzite_micro_batch_tokens_sum", model=CLASSIC)] == 7
    assert samples[key("quartzite_micro_batch_items_sum", model=CLASSIC)] == 1
    assert samples[key("quartzite_padding_tokens_total", model=CLASSIC)] == 9
    assert samples[key("quartzite_engine_seconds_count", model=CLASSIC)] == 1
    assert samples[key("quartzite_micro_batch_failures_total", model=CLASSIC)] == 0


@pytest.mark.parametrize("provocation", ["fail_on", "nan_on", "misshape_on"])
async def test_failed_micro_batches_are_counted(provocation: str) -> None:
    """However the engine fails on a micro-batch, it is one more that failed."""
    async with fake_service(FakeEngine(**{provocation: 7})) as service, service.client() as client:
        await post(client, CLASSIC, [7])
        await post(client, CLASSIC, [5])
        samples = await scraped(client)
    assert samples[key("quartzite_micro_batch_failures_total", model=CLASSIC)] == 1
    assert samples[key("quartzite_requests_total", path="/v1/embeddings", model=CLASSIC, status="500")] == 1


async def test_depth_and_state_are_those_of_the_moment() -> None:
    """While one micro-batch is in the engine and a request waits, both are shown, once for names that share it."""
    async with fake_service() as service, service.client() as client:
        service.engine.hold()
        calls = [asyncio.create_task(post(client, CLASSIC, [5]))]
        await service.engine.entered.wait()
        calls.append(asyncio.create_task(post(client, CUTTABLE, [5, 6])))
        while not service.batcher.depth.requests:  # noqa: ASYNC110  tokenising has no event
            await asyncio.sleep(0)
        samples = await scraped(client)
        service.engine.release()
        await asyncio.gather(*calls)
        later = await scraped(client)
    assert samples[key("quartzite_queue_tokens", model=CLASSIC)] == 4
    assert samples[key("quartzite_queue_requests", model=CLASSIC)] == 1
    assert samples[key("quartzite_micro_batches_running", model=CLASSIC)] == 1
    assert samples[key("quartzite_engine_streams", model=CLASSIC)] == 1
    assert key("quartzite_queue_tokens", model=CUTTABLE) not in samples
    assert later[key("quartzite_queue_tokens", model=CLASSIC)] == 0
    for model in (CLASSIC, CUTTABLE):
        assert samples[key("quartzite_model_state", model=model, state="healthy")] == 1
        assert samples[key("quartzite_model_state", model=model, state="lost")] == 0


async def test_facts_about_the_process_are_there(client: httpx.AsyncClient) -> None:
    """Memory, processor time and open files of the process, and the version of Python."""
    names = {name for name, _ in await scraped(client)}
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "python_info"} <= names


async def test_the_page_is_plain_text_and_head_is_answered(url: httpx.URL) -> None:
    """Scrapers are told the format; HEAD gets the same headers and no body."""
    async with httpx.AsyncClient(base_url=url) as client:
        get, head = await client.get("/metrics"), await client.head("/metrics")
    assert get.headers["content-type"] == head.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert get.headers["x-siliconcloud-trace-id"].startswith("ti_")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0


async def test_nothing_of_a_request_is_on_the_page(client: httpx.AsyncClient) -> None:
    """Neither content, nor user, nor key, nor a name that a client made up."""
    body = {"model": "secret/model", "input": "secret text", "user": "secret user"}
    for model in ("secret/model", CLASSIC):
        await client.post("/v1/embeddings", json={**body, "model": model}, headers={"Authorization": "Bearer secret"})
    await client.get("/secret/path")
    assert "secret" not in (await client.get("/metrics")).text


class _Spent(OpenGate):
    """Has no tokens left for anyone."""

    async def charge(self, permit: Permit, request: EmbeddingRequest, tokens: int) -> None:
        raise RateLimited("TPM", 3)


async def test_a_limit_that_refuses_is_counted_by_its_name() -> None:
    """A request refused by TPM shows in the count of that limit, under the served model."""
    async with fake_service(gate=_Spent()) as service, service.client() as client:
        answer = await client.post("/v1/embeddings", json={"model": CLASSIC, "input": "a"})
        page = (await client.get("/metrics")).text
    assert answer.status_code == 429
    (line,) = [line for line in page.splitlines() if line.startswith("quartzite_limits_hit_total{")]
    assert f'model="{CLASSIC}"' in line
    assert 'limit="TPM"' in line
    assert line.endswith(" 1.0")
