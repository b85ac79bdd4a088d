"""Settings → running objects, and back: the only place that builds them. Knows every part, and none of the work."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quartzite.admission.gate import Gate, KeyedGate, OpenGate
from quartzite.bootstrap.access import build_gate
from quartzite.bootstrap.models import OPENVINO, EngineSource, ServedModels, engine_loader
from quartzite.config import Settings
from quartzite.pipeline import Pipeline
from quartzite.preprocess.pictures import Pictures
from quartzite.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp

    from quartzite.storage.records import Records
    from quartzite.telemetry.spans import Spans


@dataclass(frozen=True, slots=True)
class Service:
    """All that answers requests; `asks_for_keys` says whether callers need one now."""

    pipeline: Pipeline
    models: ServedModels
    metrics: Metrics
    asks_for_keys: bool = False
    spans: "Spans | None" = None
    records: "Records | None" = None


@asynccontextmanager
async def running(
    settings: Settings,
    source: EngineSource = OPENVINO,
    progress: bool = True,
    guarded: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Service]:
    """Load every model of `settings` and keep it running inside the `async with`; close all of it in order after.

    `progress` shows downloads on the terminal. A `guarded` service asks for keys once there are some, and records its
    requests once there is a database; `clock` measures how old what it knows of that is. Raises a StartFailure that
    names the model which could not be loaded, after closing those that were.
    """
    async with AsyncExitStack() as stack:
        tokenising = stack.enter_context(ThreadPoolExecutor(os.cpu_count() or 1, "tokenise"))
        metrics = Metrics()
        pictures = Pictures(settings.images)
        stack.push_async_callback(pictures.close)
        metrics.watch_pictures(lambda: pictures.held_bytes)
        spans = await _spans(stack) if settings.telemetry.spans else None
        models = ServedModels(settings, engine_loader(source), metrics)
        gate: Gate = OpenGate()
        records, asks_for_keys = None, False
        if guarded:
            gate, database = await build_gate(settings, models.levels, metrics, stack, clock)
            records, asks_for_keys = await database.get(), isinstance(await gate.current(), KeyedGate)
        stack.push_async_callback(models.close)
        for model in settings.models:
            await models.load(model, progress)
        pipeline = Pipeline(models.served, gate, settings.requests, tokenising, pictures)
        yield Service(pipeline, models, metrics, asks_for_keys, spans, records)


def web_app(service: Service, settings: Settings) -> "Starlette":
    """Return the ASGI application that serves `service` over HTTP."""
    from quartzite.web.app import build_app

    admin = None
    if settings.admin.token and service.records:
        from quartzite.web.admin import Admin

        admin = Admin(settings.admin.token, service.records, service.models)
    origins = settings.server.cors_origins
    return build_app(service.pipeline, settings.requests, service.metrics, service.spans, origins, admin)


def refusing_app(service: Service) -> "ASGIApp":
    """Return the ASGI application that answers 503 to everything, for connections that `service` has no room for."""
    from quartzite.web.app import build_refusal

    return build_refusal(service.metrics)


async def _spans(stack: AsyncExitStack) -> "Spans":
    """Open what sends spans, on a thread, for its libraries are imported now; `stack` has the last of them sent."""

    def load() -> "Spans":
        from quartzite.telemetry.spans import open_spans

        return open_spans()

    spans = await asyncio.to_thread(load)
    stack.push_async_callback(asyncio.to_thread, spans.close)
    return spans
