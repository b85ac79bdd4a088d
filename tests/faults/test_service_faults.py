"""Faults around the engine: bugs of our own, time running out, no room, the end of the service."""

import asyncio
import gc
import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from quartzite.admission.gate import Caller, OpenGate, Permit
from quartzite.config import ImageSettings, QueueSettings, RequestSettings
from quartzite.domain import EmbeddingRequest, TextItem
from quartzite.errors import DeadlineExceeded
from quartzite.pipeline import SHORT_CHARACTERS, Pipeline
from quartzite.preprocess.pictures import Pictures
from quartzite.preprocess.tokenise import Tokeniser
from quartzite.telemetry.metrics import Metrics
from quartzite.web.answering import Answering
from quartzite.web.tracing import Traced
from serving import CLASSIC, FakeService, RequestLog, fake_service, listening

REQUEST = EmbeddingRequest(CLASSIC, (TextItem("text"),))
PERMIT = Permit(Caller(None, "ti_1"))


def _body(tokens: int = 1, token: int = 5) -> dict[str, object]:
    return {"model": CLASSIC, "input": [token] * tokens}


class _Broken(OpenGate):
    async def admit(self, caller: Caller) -> Permit:
        raise KeyError("a secret of the inside")


async def test_a_bug_is_a_500_that_tells_nothing_and_a_stack_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """What nobody foresaw is answered as 500 / 50507; exception and trace id are in the log alone."""
    async with fake_service(gate=_Broken()) as service, service.client() as client:
        answer = await client.post("/v1/embeddings", json=_body())
    assert answer.status_code == 500
    assert answer.content == b'{"code":50507,"message":"Request failed: Unknown error","data":"request"}'
    (logged,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "a secret of the inside" in caplog.text
    assert logged.fields == {"trace_id": answer.headers["x-siliconcloud-trace-id"]}


async def test_a_request_that_takes_too_long_is_a_504() -> None:
    """When its time is over while the engine still works, the client is told; the service goes on."""
    async with fake_service(requests=RequestSettings(timeout_ms=20)) as service, service.client() as client:
        service.engine.hold()
        answer = await client.post("/v1/embeddings", json=_body())
        assert answer.status_code == 504
        assert answer.content == b'"Request timed out after 0.02 s. Please try again later."'


async def test_a_client_may_give_its_request_less_time(url: httpx.URL, service: FakeService) -> None:
    """With `x-request-timeout-ms` a request is told sooner that it is late, and what still waits of it is dropped."""
    async with httpx.AsyncClient(base_url=url) as client:
        service.engine.hold()
        first = asyncio.create_task(client.post("/v1/embeddings", json=_body(1)))
        await service.engine.entered.wait()
        late = await client.post("/v1/embeddings", json=_body(2), headers={"x-request-timeout-ms": "50"})
        assert late.status_code == 504
        assert late.content == b'"Request timed out after 0.05 s. Please try again later."'
        assert service.batcher.depth.requests == 0
        service.engine.release()
        assert (await first).status_code == 200
    assert service.engine.batches == [(3,)]


@pytest.mark.parametrize("said", ["60000", "9" * 400, "0" * 400 + "60000"])
async def test_a_client_cannot_give_its_request_more_time(said: str) -> None:
    """The setting is the most: longer times are taken, and change nothing."""
    async with fake_service(requests=RequestSettings(timeout_ms=20)) as service, service.client() as client:
        service.engine.hold()
        answer = await client.post("/v1/embeddings", json=_body(), headers={"x-request-timeout-ms": said})
        assert answer.content == b'"Request timed out after 0.02 s. Please try again later."'


async def test_impatient_clients_make_no_stream_a_lost_one(service: FakeService) -> None:
    """A model is as healthy as before when the only request in its engine was given next to no time."""
    async with service.client() as client:
        service.engine.hold()
        answer = await client.post("/v1/embeddings", json=_body(), headers={"x-request-timeout-ms": "20"})
        assert answer.status_code == 504
        assert (await client.get("/health")).json()["status"] == "ok"


@contextmanager
def _no_thread_free(service: FakeService, timeout_ms: int) -> Iterator[Pipeline]:
    """Give a pipeline whose only tokenising thread is busy for the length of the `with`."""
    free = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(free.wait)
        pictures = Pictures(ImageSettings())
        try:
            settings = RequestSettings(timeout_ms=timeout_ms)
            yield Pipeline(service.pipeline.models, OpenGate(), settings, threads, pictures)
        finally:
            free.set()


async def test_waiting_for_a_tokenising_thread_ends_at_the_deadline(service: FakeService) -> None:
    """A request that no thread takes up in time expires, and is not tokenised afterwards."""
    long = EmbeddingRequest(CLASSIC, (TextItem("word " * SHORT_CHARACTERS),), truncate="right")
    with _no_thread_free(service, timeout_ms=20) as pipeline:
        async with asyncio.timeout(5):
            with pytest.raises(DeadlineExceeded, match=r"after 0\.02 s"):
                await pipeline.embed(long, PERMIT)
    assert service.engine.batches == []


async def test_a_short_request_waits_for_no_tokenising_thread(service: FakeService) -> None:
    """While long texts keep all threads busy, a query is tokenised at once and answered."""
    with _no_thread_free(service, timeout_ms=5_000) as pipeline:
        answer = await pipeline.embed(REQUEST, PERMIT)
    assert len(answer.vectors) == len(REQUEST.items)


async def test_with_a_full_room_no_request_is_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be refused afterwards costs nothing first: overload must not be spent on preparing refusals."""
    async with fake_service(queue=QueueSettings(max_requests=1)) as service, service.client() as client:
        service.engine.hold()
        computed = asyncio.create_task(client.post("/v1/embeddings", json=_body()))
        await service.engine.entered.wait()
        waiting = [asyncio.create_task(client.post("/v1/embeddings", json=_body(token=token))) for token in (6, 7)]
        (refused,), _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert refused.result().status_code == 503
        monkeypatch.setattr(Tokeniser, "encode", None)
        assert (await client.post("/v1/embeddings", json=_body())).status_code == 503
        service.engine.release()
        assert {(await task).status_code for task in [computed, *waiting]} == {200, 503}


async def test_a_request_that_ended_leaves_no_garbage() -> None:
    """Answered or refused, all of it goes at once: what waits for the collector makes overload worse."""
    bodies = {200: _body(), 400: {"model": "unknown", "input": "x"}}
    async with fake_service() as service:
        for status, body in bodies.items():
            await _ended(service, body)
            gc.collect()
            gc.disable()
            try:
                for _ in range(5):
                    assert await _ended(service, body) == status
                assert gc.collect() == 0
            finally:
                gc.enable()


async def _ended(service: FakeService, body: dict[str, object]) -> int:
    """Have the application answer one request as a server calls it, with nothing around it that leaves garbage."""
    told: list[Any] = []
    content = json.dumps(body).encode()
    gone: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    coming = iter([{"type": "http.request", "body": content, "more_body": False}])

    async def receive() -> Any:
        return next(coming, None) or await gone

    async def send(message: Any) -> None:
        told.append(message.get("status"))

    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "query_string": b"", "headers": headers}
    await service.app(scope, receive, send)
    gone.cancel()
    await asyncio.sleep(0)
    return int(told[0])


class _Hanging(OpenGate):
    async def charge(self, permit: Permit, request: EmbeddingRequest, tokens: int) -> None:
        await asyncio.Event().wait()


async def test_limits_that_hang_end_at_the_deadline() -> None:
    """A store of the limits that does not answer makes a 504 and no request that waits for ever."""
    hurried = RequestSettings(timeout_ms=20)
    async with fake_service(gate=_Hanging(), requests=hurried) as service, service.client() as client:
        answer = await asyncio.wait_for(client.post("/v1/embeddings", json=_body()), 5)
    assert (answer.status_code, service.engine.batches) == (504, [])


async def test_a_request_out_of_time_is_told_how_long_it_was_given(service: FakeService) -> None:
    """However little of its time was left for the engine, the message names the whole of it."""
    late = RequestSettings(timeout_ms=5_000)
    with ThreadPoolExecutor(1) as threads:
        models, pictures = service.pipeline.models, Pictures(ImageSettings())
        pipeline = Pipeline(models, OpenGate(), late, threads, pictures, lambda: time.monotonic() - 10)
        with pytest.raises(DeadlineExceeded, match="after 5 s"):
            await pipeline.embed(REQUEST, PERMIT)


async def test_no_room_is_a_503_that_says_when_to_come_again() -> None:
    """With the waiting room full a request is refused at once, with a Retry-After header."""
    async with fake_service(queue=QueueSettings(max_tokens=64)) as service, service.client() as client:
        service.engine.hold()
        computed = asyncio.create_task(client.post("/v1/embeddings", json=_body(62)))
        await service.engine.entered.wait()
        waiting = [asyncio.create_task(client.post("/v1/embeddings", json=_body(62, token))) for token in (6, 7)]
        (refused,), _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert refused.result().status_code == 503
        assert refused.result().headers["retry-after"] == "1"
        assert refused.result().content == (
            b'{"code":50505,"message":"Model service overloaded. Please try again later.","data":"request"}'
        )
        service.engine.release()
        answered = {(await task).status_code for task in [computed, *waiting]}
    assert answered == {200, 503}


async def test_a_service_that_stops_answers_what_it_cannot_finish(request_log: RequestLog) -> None:
    """When the grace period is over, a request still in the engine is told 503 instead of losing its connection."""
    async with fake_service() as service, httpx.AsyncClient() as client:
        async with listening(service.app, timeout_graceful_shutdown=0) as url:
            service.engine.hold()
            call = asyncio.create_task(client.post(url.join("/v1/embeddings"), json=_body()))
            await service.engine.entered.wait()
        answer = await call
    assert answer.status_code == 503
    assert answer.json()["code"] == 50505
    assert (await request_log.next())["status"] == 503


async def test_an_answer_that_breaks_off_is_not_followed_by_another(request_log: RequestLog) -> None:
    """When a failure comes after the head of an answer, nothing more is sent: the server closes the connection."""

    async def breaking(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await Traced(Answering(breaking), Metrics())(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert (await request_log.next())["status"] == 200
