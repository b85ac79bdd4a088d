"""Engines that fail: the request at fault is told so, the service goes on."""

import asyncio
import time

import httpx
import pytest

from quartzite.engines.fake import FakeEngine
from serving import CLASSIC, CUTTABLE, fake_service

FAULT = b'{"code":50507,"message":"Request failed: Unknown error","data":"request"}'


async def _post(client: httpx.AsyncClient, tokens: list[int]) -> httpx.Response:
    return await client.post("/v1/embeddings", json={"model": CLASSIC, "input": tokens})


@pytest.mark.parametrize("provocation", ["fail_on", "nan_on", "misshape_on"])
async def test_a_failing_engine_is_a_500_and_the_next_request_is_answered(
    provocation: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception, NaN or a missing vector fails its request without a word of the inside; the log has its id."""
    async with fake_service(FakeEngine(**{provocation: 7})) as service, service.client() as client:
        failed = [await _post(client, tokens) for tokens in ([5, 7], [5, 6], [7, 5], [6, 5])]
    assert [answer.status_code for answer in failed] == [500, 200, 500, 200]
    assert failed[0].content == failed[2].content == FAULT
    faults = [record.fields for record in caplog.records if record.message == "engine fault"]
    assert [fault["trace_id"] for fault in faults] == [failed[at].headers["x-siliconcloud-trace-id"] for at in (0, 2)]
    assert all(str(fault["cause"]) for fault in faults)


class _Clock:
    """The real clock, which can be put forward."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


async def test_a_service_whose_engine_hangs_is_not_ready_until_it_answers_again() -> None:
    """While a micro-batch is in the engine for longer than its request was given, /ready is red and names the model."""
    clock = _Clock()
    async with fake_service(clock=clock) as service, service.client() as client:
        service.engine.hold()
        held = asyncio.create_task(_post(client, [5]))
        await service.engine.entered.wait()
        assert (await client.get("/ready")).status_code == 200
        clock.ahead_s = 61
        ready = await client.get("/ready")
        assert ready.status_code == 503
        assert ready.json() == {"status": "unavailable", "models": {CLASSIC: False, CUTTABLE: False}}
        health = await client.get("/health")
        assert health.status_code == 503
        lost = {"state": "lost", "streams": 1, "lost_streams": 1}
        assert health.json() == {"status": "failing", "models": {CLASSIC: lost, CUTTABLE: lost}}
        service.engine.release()
        assert (await held).status_code == 200
        assert (await client.get("/ready")).status_code == 200
        assert (await client.get("/health")).json()["status"] == "ok"


async def test_a_model_that_has_stopped_is_refused_as_overloaded() -> None:
    """Requests that come while a model goes away are told to come again, and /ready is red."""
    async with fake_service() as service, service.client() as client:
        await service.batcher.stop()
        assert (await _post(client, [5])).status_code == 503
        assert (await client.get("/ready")).status_code == 503
