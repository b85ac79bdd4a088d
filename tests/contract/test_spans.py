"""What OpenTelemetry is told of requests: on a service in process, its spans kept in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from quartzite.engines.fake import FakeEngine
from quartzite.telemetry.spans import Spans
from serving import CLASSIC, RequestLog, fake_service

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
BODY = {"model": CLASSIC, "input": ["secret words", "more"], "user": "secret user"}


class _Told:
    """A service whose spans are kept, and a client of it."""

    def __init__(self, client: httpx.AsyncClient, kept: InMemorySpanExporter) -> None:
        self._client = client
        self._kept = kept

    async def post(self, body: dict[str, object] = BODY, **headers: str) -> httpx.Response:
        return await self._client.post("/v1/embeddings?secret=query", json=body, headers=headers)

    async def get(self, path: str) -> httpx.Response:
        return await self._client.get(path)

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self._kept.get_finished_spans()}


@asynccontextmanager
async def _told(engine: FakeEngine | None = None) -> AsyncIterator[_Told]:
    kept = InMemorySpanExporter()
    spans = Spans(SimpleSpanProcessor(kept))
    async with fake_service(engine, spans=spans) as service, service.client() as client:
        yield _Told(client, kept)
    spans.close()


@pytest.fixture
async def told() -> AsyncIterator[_Told]:
    """A service as it comes."""
    async with _told() as running:
        yield running


def _lasting(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


async def test_a_request_is_a_span_with_its_stages_inside(told: _Told) -> None:
    """Tokenising, queue and engine follow one another within the request, and are its children."""
    await told.post()
    spans = told.spans
    assert set(spans) == {"POST /v1/embeddings", "tokenise", "queue", "engine"}
    request = spans.pop("POST /v1/embeddings")
    began, ended = _lasting(request)
    moments = [moment for name in ("tokenise", "queue", "engine") for moment in _lasting(spans[name])]
    assert [began, *moments, ended] == sorted([began, *moments, ended])
    assert moments[1:5:2] == moments[2:6:2]
    assert [span.parent for span in spans.values()] == [request.context] * 3
    assert request.kind is SpanKind.SERVER
    assert request.parent is None


async def test_a_span_tells_of_a_request_by_the_names_of_the_conventions_without_its_content(told: _Told) -> None:
    """Model, counts and answer are there with the id the client was told; text, user, query and key are not."""
    answer = await told.post(authorization="Bearer secret")
    request = told.spans["POST /v1/embeddings"]
    assert request.attributes == {
        "quartzite.trace_id": answer.headers["x-siliconcloud-trace-id"],
        "quartzite.items": 2,
        "http.request.method": "POST",
        "http.route": "/v1/embeddings",
        "http.response.status_code": 200,
        "url.path": "/v1/embeddings",
        "gen_ai.operation.name": "embeddings",
        "gen_ai.request.model": CLASSIC,
        "gen_ai.usage.input_tokens": answer.json()["usage"]["total_tokens"],
    }
    assert request.resource.attributes["service.name"] == "quartzite"
    assert not [span for span in told.spans.values() if "secret" in span.to_json()]


async def test_the_trace_of_the_caller_is_continued_and_logged(told: _Told, request_log: RequestLog) -> None:
    """A valid `traceparent` is the parent of the span, its vendors' state kept, and the log line has its trace id."""
    await told.post(traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="vendor=x")
    request = told.spans["POST /v1/embeddings"]
    assert request.context is not None
    assert request.parent is not None
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == PARENT
    assert request.context.trace_state.to_header() == "vendor=x"
    assert (await request_log.next())["w3c_trace_id"] == TRACE


async def test_a_malformed_traceparent_begins_a_new_trace(told: _Told, request_log: RequestLog) -> None:
    """The request is answered as if the header were not there, and the log line has the id of the new trace."""
    assert (await told.post(traceparent=f"00-{TRACE}-{PARENT}")).status_code == 200
    request = told.spans["POST /v1/embeddings"]
    assert request.context is not None
    assert request.parent is None
    assert (await request_log.next())["w3c_trace_id"] == f"{request.context.trace_id:032x}" != TRACE


async def test_a_caller_who_samples_nothing_is_followed(told: _Told, request_log: RequestLog) -> None:
    """With the sampled flag off no span is kept; the log line has the trace id all the same."""
    await told.post(traceparent=f"00-{TRACE}-{PARENT}-00")
    assert told.spans == {}
    assert (await request_log.next())["w3c_trace_id"] == TRACE


async def test_a_refused_request_is_no_error_of_the_service(told: _Told) -> None:
    """A 400 names the failure and leaves the status of the span alone; nothing was computed, so it has no stages."""
    await told.post({"model": "no/such", "input": "x"})
    (request,) = told.spans.values()
    assert request.attributes is not None
    assert request.attributes["error.type"] == "UnknownModel"
    assert request.attributes["http.response.status_code"] == 400
    assert request.status.status_code is StatusCode.UNSET


async def test_a_failure_of_the_service_is_an_error() -> None:
    """An engine that fails makes the span of its request one of status ERROR."""
    async with _told(FakeEngine(fail_on=5)) as told:
        assert (await told.post({"model": CLASSIC, "input": [5]})).status_code == 500
        (request,) = told.spans.values()
    assert request.attributes is not None
    assert request.attributes["error.type"] == "EngineFault"
    assert request.status.status_code is StatusCode.ERROR


async def test_a_path_that_a_client_makes_up_is_no_name_of_a_span(told: _Told) -> None:
    """Unknown paths share one name, and the path itself is cut."""
    await told.get("/" + "x" * 5000)
    (request,) = told.spans.values()
    assert request.name == "GET"
    assert request.attributes is not None
    assert len(str(request.attributes["url.path"])) == 200


async def test_the_log_has_the_trace_id_of_the_caller_where_no_spans_are_wanted(
    client: httpx.AsyncClient, request_log: RequestLog
) -> None:
    """A valid `traceparent` is told in the line of its request; a malformed one, or none, is not."""
    for header, told in ((f"00-{TRACE}-{PARENT}-00", TRACE), (f"ff-{TRACE}-{PARENT}-00", None), (None, None)):
        await client.post("/v1/embeddings", json=BODY, headers={"traceparent": header} if header else {})
        assert (await request_log.next()).get("w3c_trace_id") == told
