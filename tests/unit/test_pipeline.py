"""The order of the steps of one request, and the line it leaves in the log."""

import asyncio

import httpx
import pytest

from quartzite.admission.gate import Caller, OpenGate, Permit
from quartzite.domain import EmbeddingRequest, Outcome, TextItem
from quartzite.errors import InvalidParameter, Overloaded, RequestFailure, UnknownModel
from quartzite.telemetry.trace import Trace
from serving import CLASSIC, CUTTABLE, FakeService, RequestLog, fake_service

CALLER = Caller("Bearer key", "ti_1")
PERMIT = Permit(CALLER)
REQUEST = EmbeddingRequest(CLASSIC, (TextItem("one"), TextItem("two", "input[1]")))


class _Noting(OpenGate):
    """Notes what it is asked, and refuses at the step named."""

    def __init__(self, refuse_at: str | None = None) -> None:
        self.asked: list[tuple[object, ...]] = []
        self._refuse_at = refuse_at

    def _note(self, step: str, *said: object) -> None:
        self.asked.append((step, *said))
        if step == self._refuse_at:
            raise Overloaded

    async def admit(self, caller: Caller) -> Permit:
        self._note("admit", caller)
        return await super().admit(caller)

    async def count(self, permit: Permit, request: EmbeddingRequest) -> None:
        self._note("count", permit.caller, request.model)

    async def charge(self, permit: Permit, request: EmbeddingRequest, tokens: int) -> None:
        self._note("charge", permit.caller, request.model, tokens)

    async def record(self, permit: Permit, outcome: Outcome) -> None:
        self._note("record", permit.caller, outcome.status, outcome.tokens)


async def test_the_gate_is_asked_first_before_the_engine_and_before_the_answer() -> None:
    """Admitted, counted, charged for all tokens of the request, recorded with the same: in this order, once each."""
    gate, trace = _Noting(), Trace("ti_1")
    async with fake_service(gate=gate) as service:
        async with service.pipeline.visit(CALLER, trace) as permit:
            answer = await service.pipeline.embed(REQUEST, permit)
            trace.tokens = answer.tokens
        tokens = sum(sum(batch) for batch in service.engine.batches)
    assert answer.tokens == tokens
    assert gate.asked == [
        ("admit", CALLER),
        ("count", CALLER, CLASSIC),
        ("charge", CALLER, CLASSIC, tokens),
        ("record", CALLER, 200, tokens),
    ]


@pytest.mark.parametrize("authorization", ["Bearer key", None])
async def test_the_gate_gets_the_header_and_the_trace_id_of_the_request(authorization: str | None) -> None:
    """What a caller says of itself reaches the gate as it was sent."""
    gate = _Noting()
    headers = {"Authorization": authorization} if authorization else {}
    async with fake_service(gate=gate) as service, service.client() as client:
        answer = await client.post("/v1/embeddings", json={"model": CLASSIC, "input": "a"}, headers=headers)
    assert gate.asked[0] == ("admit", Caller(authorization, answer.headers["x-siliconcloud-trace-id"], "127.0.0.1"))


@pytest.mark.parametrize("step", ["admit", "count", "charge"])
async def test_a_refusal_at_the_gate_costs_the_engine_nothing(step: str) -> None:
    """Who is not let in, or cannot pay, is told before any vector is computed, and that is recorded."""
    gate = _Noting(refuse_at=step)
    async with fake_service(gate=gate) as service, service.client() as client:
        answer = await client.post("/v1/embeddings", json={"model": CLASSIC, "input": "a"})
        assert answer.status_code == 503
        assert service.engine.batches == []
    assert [asked[0] for asked in gate.asked][-2:] == [step, "record"]
    assert gate.asked[-1][2:] == (503, 0)


async def test_an_answer_that_cannot_be_recorded_does_not_leave() -> None:
    """What is not written down was not given."""
    async with fake_service(gate=_Noting(refuse_at="record")) as service, service.client() as client:
        answer = await client.post("/v1/embeddings", json={"model": CLASSIC, "input": "a"})
        assert answer.status_code == 503
        assert answer.json()["data"] == "request"
        assert len(service.engine.batches) == 1


async def test_a_failure_that_cannot_be_recorded_stays_the_failure_that_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client is told what was wrong with its request; that it was not recorded is in the log, with the stack."""
    async with fake_service(gate=_Noting(refuse_at="record")) as service, service.client() as client:
        answer = await client.post("/v1/embeddings", json={"model": "no/such", "input": "a"})
    assert answer.json()["code"] == 20012
    assert "could not be recorded" in caplog.text
    assert "Overloaded" in caplog.text


@pytest.mark.parametrize(
    ("request_", "failure", "asked"),
    [
        (EmbeddingRequest("no/such", REQUEST.items), UnknownModel, []),
        (EmbeddingRequest(CLASSIC, REQUEST.items, dimensions=4), InvalidParameter, ["count"]),
        (EmbeddingRequest(CUTTABLE, REQUEST.items, dimensions=3), InvalidParameter, ["count"]),
    ],
)
async def test_what_a_model_cannot_do_is_refused_before_tokenising(
    request_: EmbeddingRequest, failure: type[RequestFailure], asked: list[str]
) -> None:
    """Model and `dimensions` are checked before any work; a request for a served model counts although it fails."""
    gate = _Noting()
    async with fake_service(gate=gate) as service:
        with pytest.raises(failure):
            await service.pipeline.embed(request_, PERMIT)
    assert [step for step, *_ in gate.asked] == asked


async def test_timings_say_where_the_time_went(service: FakeService) -> None:
    """Each stage has taken some time and no stage more than is possible."""
    timings = (await service.pipeline.embed(REQUEST, PERMIT)).timings
    assert 0 < timings.tokenise_s < 5
    assert 0 <= timings.queue_s < 5
    assert 0 <= timings.engine_s < 5


async def test_one_line_tells_of_a_request_without_its_content(
    client: httpx.AsyncClient, request_log: RequestLog
) -> None:
    """Counts, times and names are logged, and nothing of what was sent."""
    body = {"model": CLASSIC, "input": ["secret words", "more"], "user": "secret user"}
    answer = await client.post("/v1/embeddings?secret=query", json=body, headers={"Authorization": "Bearer secret"})
    line = await request_log.next()
    assert line.pop("ms") > 0
    assert line.pop("tokenise_ms") > 0
    assert line.pop("queue_ms") >= 0
    assert line.pop("engine_ms") >= 0
    assert line == {
        "trace_id": answer.headers["x-siliconcloud-trace-id"],
        "method": "POST",
        "path": "/v1/embeddings",
        "status": 200,
        "model": CLASSIC,
        "items": 2,
        "tokens": answer.json()["usage"]["total_tokens"],
    }
    assert "secret" not in str(line)


async def test_what_a_client_makes_up_is_logged_in_short(client: httpx.AsyncClient, request_log: RequestLog) -> None:
    """Paths and model names as long as a client likes take at most 200 characters of the log."""
    await client.get("/" + "x" * 5000)
    assert len((await request_log.next())["path"]) == 200
    await client.post("/v1/embeddings", json={"model": "m" * 5000, "input": "a"})
    assert len((await request_log.next())["model"]) == 200


@pytest.mark.parametrize("step", ["count", "charge"])
async def test_a_model_is_in_use_from_when_it_is_found_to_when_it_has_answered(step: str) -> None:
    """A request that waits at the gate keeps its model, so that withdrawing it takes no answer away."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    class Waiting(_Noting):
        async def count(self, permit: Permit, request: EmbeddingRequest) -> None:
            await self._wait("count")

        async def charge(self, permit: Permit, request: EmbeddingRequest, tokens: int) -> None:
            await self._wait("charge")

        async def _wait(self, here: str) -> None:
            if here == step:
                entered.set()
                await go_on.wait()

    async with fake_service(gate=Waiting()) as service:
        uses = service.pipeline.models[CLASSIC].uses
        await uses.ended()
        answering = asyncio.create_task(service.pipeline.embed(REQUEST, PERMIT))
        await entered.wait()
        ended = asyncio.create_task(uses.ended())
        await asyncio.sleep(0)
        assert not ended.done()
        go_on.set()
        await answering
        await ended
