"""A whole service over the fake engine, in process or on a real socket: what tests of the HTTP side stand on."""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp

from quartzite.admission.gate import Gate, OpenGate
from quartzite.batching.worker import Batcher
from quartzite.config import ImageSettings, QueueSettings, RequestSettings
from quartzite.engines.fake import FakeEngine
from quartzite.pipeline import Pipeline, ServedModel
from quartzite.preprocess.pictures import Pictures
from quartzite.preprocess.tokenise import Tokeniser
from quartzite.registry.card import BertShape, ModelCard
from quartzite.telemetry.metrics import Metrics
from quartzite.web.app import build_app
from quartzite.web.protocol import Bounds, Protocol
from seeing import CHAT, IMAGE_TOKEN, seeing_card

if TYPE_CHECKING:
    from quartzite.telemetry.spans import Spans

WORDPIECE = Path(__file__).parent / "fixtures" / "tokenizers" / "wordpiece.json"
CLASSIC = "tests/classic"
CUTTABLE = "tests/cuttable"  # the model that offers `dimensions`
SEEING = "Qwen/Qwen3-VL-Embedding-8B"
MAX_TOKENS = 64
VOCABULARY = 1188
_REQUESTS, _QUEUE, _BOUNDS = RequestSettings(), QueueSettings(), Bounds()


@dataclass(frozen=True)
class FakeService:
    """Two models, one of which offers `dimensions` 2, 4 and 8, on one fake engine; on demand one that takes images."""

    app: Starlette
    pipeline: Pipeline
    engine: FakeEngine
    batcher: Batcher

    def client(self) -> httpx.AsyncClient:
        """Return a client that calls the application in process."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://service")


@asynccontextmanager
async def fake_service(
    engine: FakeEngine | None = None,
    requests: RequestSettings = _REQUESTS,
    queue: QueueSettings = _QUEUE,
    gate: Gate | None = None,
    clock: Callable[[], float] = time.monotonic,
    spans: "Spans | None" = None,
    cors_origins: Sequence[str] = (),
    pictures: Pictures | None = None,
    seeing_tokens: int = 512,
) -> AsyncIterator[FakeService]:
    """Run a service on `engine` for the length of the `async with`; with `pictures`, a model that takes images too."""
    engine = engine or FakeEngine()
    metrics = Metrics()
    batcher = Batcher(engine, queue, clock, metrics.engine_of(CLASSIC), requests.timeout_ms / 1000)
    tokeniser = Tokeniser(WORDPIECE, MAX_TOKENS, VOCABULARY)
    models = {card.name: ServedModel(card, tokeniser, batcher) for card in _cards(engine.dimensions)}
    if pictures:
        models[SEEING] = _seeing(seeing_card(SEEING, engine.dimensions, seeing_tokens), batcher)
    for name in models:
        metrics.add_model(name, load_s=0.5)
    pictures = pictures or Pictures(ImageSettings())
    with ThreadPoolExecutor(1) as threads:
        pipeline = Pipeline(models, gate or OpenGate(), requests, threads, pictures, clock)
        await batcher.start()
        try:
            yield FakeService(build_app(pipeline, requests, metrics, spans, cors_origins), pipeline, engine, batcher)
        finally:
            engine.release()
            await batcher.stop()
            await pictures.close()


@asynccontextmanager
async def listening(app: ASGIApp, bounds: Bounds = _BOUNDS, **settings: Any) -> AsyncIterator[httpx.URL]:
    """Serve `app` with uvicorn on a free port; the steps of `Server.serve` without its polling loop and signals."""
    listener = socket.create_server(("127.0.0.1", 0))
    settings.setdefault("http", partial(Protocol, bounds=bounds))
    config = uvicorn.Config(app, log_config=None, access_log=False, proxy_headers=False, **settings)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup([listener])
    try:
        yield httpx.URL(f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        await server.shutdown([listener])


async def exchange(url: httpx.URL, *parts: bytes) -> tuple[bytes, bytes]:
    """Send `parts` over a socket of their own, each in a packet of its own; return head and body of the answer."""
    reader, writer = await asyncio.open_connection(url.host, url.port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(int(length.split(b":")[1]))
    writer.close()
    await writer.wait_closed()
    return head, body


class RequestLog(logging.Handler):
    """The lines of finished requests, as their fields, in a queue that can be waited on."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: asyncio.Queue[dict[str, object]] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the fields of a request's line."""
        if record.getMessage() == "request":
            self._lines.put_nowait(record.fields)  # type: ignore[attr-defined]

    async def next(self) -> dict[str, object]:
        """Return the next line, waiting for it."""
        return await self._lines.get()


def _seeing(card: ModelCard, batcher: Batcher) -> ServedModel:
    return ServedModel(card, Tokeniser(CHAT, card.max_tokens, card.shape.vocabulary, IMAGE_TOKEN), batcher)


def _cards(dimensions: int) -> list[ModelCard]:
    shape = BertShape(
        layers=1,
        hidden=dimensions,
        heads=1,
        intermediate=1,
        vocabulary=VOCABULARY,
        positions=MAX_TOKENS,
        token_types=2,
        epsilon=1e-12,
        activation="gelu",
        position_offset=0,
    )
    nowhere = Path("no-folder")
    return [
        ModelCard(CLASSIC, nowhere, shape, "mean", MAX_TOKENS),
        ModelCard(CUTTABLE, nowhere, shape, "mean", MAX_TOKENS, allowed_dimensions=(2, 4, 8)),
    ]
