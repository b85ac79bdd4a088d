"""Spans leave a real server over OTLP/HTTP for a collector on loopback, which reads them by the protocol's schema."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quartzite.errors import InvalidConfig
from quartzite.telemetry.spans import open_spans
from serving import listening

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SERVE = (sys.executable, "-m", "quartzite", "serve", "--port", "0", "--spans")
BARE = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}


class _Collector:
    """What a collector has been sent."""

    def __init__(self) -> None:
        self.received: list[ResourceSpans] = []
        self.app = Starlette(routes=[Route("/v1/traces", self._receive, methods=["POST"])])

    async def _receive(self, request: Request) -> Response:
        assert request.headers["content-type"] == "application/x-protobuf"
        self.received += ExportTraceServiceRequest.FromString(await request.body()).resource_spans
        return Response(media_type="application/x-protobuf")


@asynccontextmanager
async def _serving(cache: Path, **environment: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *SERVE, "--cache", str(cache), env=BARE | environment, stdout=pipe, stderr=pipe
    )
    assert process.stdout is not None
    try:
        greeting = await process.stdout.readuntil(b"Try it:")
        yield process, greeting.split(b"listens on ")[1].split()[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _ended(process: asyncio.subprocess.Process) -> str:
    """Stop the server; return what it wrote to stderr."""
    process.send_signal(signal.SIGTERM)
    _, told = await process.communicate()
    assert process.returncode == 0
    return told.decode()


async def _embed(url: str) -> httpx.Response:
    async with httpx.AsyncClient(headers={"traceparent": f"00-{TRACE}-{PARENT}-01"}) as client:
        return await client.post(f"{url}/v1/embeddings", json={"model": MODEL, "input": "Hello, world!"})


async def test_spans_reach_the_collector_that_the_environment_names(tmp_path: Path) -> None:
    """A server that is stopped sends its last spans: those of the caller's trace, under the name the operator chose."""
    collector = _Collector()
    async with listening(collector.app) as endpoint:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": str(endpoint), "OTEL_SERVICE_NAME": "vectors"}
        environment["OTEL_BSP_SCHEDULE_DELAY"] = "3600000"  # so that nothing is sent before the end
        async with _serving(tmp_path, **environment) as (process, url):
            answer = await _embed(url)
            assert f"w3c_trace_id={TRACE}" in await _ended(process)
    (sent,) = collector.received
    assert "vectors" in [pair.value.string_value for pair in sent.resource.attributes if pair.key == "service.name"]
    spans = {span.name: span for scope in sent.scope_spans for span in scope.spans}
    assert set(spans) == {"POST /v1/embeddings", "tokenise", "queue", "engine"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    request = spans["POST /v1/embeddings"]
    assert request.parent_span_id.hex() == PARENT
    told = {pair.key: pair.value.string_value for pair in request.attributes}
    assert told["quartzite.trace_id"] == answer.headers["x-siliconcloud-trace-id"]


async def test_a_collector_that_is_away_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Requests are answered; the server stops within the exporter's time-out, with exit code 0 and a word of it."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    async with _serving(tmp_path, **environment) as (process, url):
        assert (await _embed(url)).status_code == 200
        assert "Failed to export spans batch" in await _ended(process)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("OTEL_TRACES_EXPORTER", "console", "OTEL_TRACES_EXPORTER=console: spans can be sent as otlp only"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: spans can be"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "http/json: spans can be sent as http/protobuf only"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1", "the OTEL_* variables of the environment: schedule_delay_millis must be"),
    ],
)
def test_what_the_environment_asks_for_in_vain_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    """What cannot be done as the environment says is no reason to do it otherwise in silence."""
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidConfig, match=re.escape(told)):
        open_spans()


def test_without_the_libraries_the_start_names_the_command_that_installs_them() -> None:
    """It adds the libraries of the extra to the Python that runs."""
    program = "import sys; sys.modules['opentelemetry'] = None; from quartzite.cli.main import main; main()"
    command = [sys.executable, "-c", program, *SERVE[3:]]
    ended = subprocess.run(command, env=BARE, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.startswith(
        "quartzite: telemetry.spans needs libraries that are not installed; "
        f"run: {sys.executable} -m pip install 'opentelemetry-"
    )
