"""What the service counts: every metric declared once, its unit in its name, and recorded by the facts of its place.

Knows prometheus-client; knows nothing of the parts that report, nor of the web.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from quartzite import __version__
from quartzite.domain import MODEL_STATES, Depth, MicroBatchRun, ModelHealth, ModelState
from quartzite.telemetry.trace import Trace

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_WAITS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SHORT_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 8192, 32768)
_ITEMS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as scrapers see it: its name with the unit, its labels, and for histograms the bounds of its buckets.

    `process` metrics of the interpreter are not listed here; prometheus-client declares them.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ("model",)
    buckets: tuple[float, ...] = ()


REQUESTS = Metric(
    "quartzite_requests_total",
    "counter",
    "Answered HTTP requests. `path` is the route, empty for paths that do not exist, for connections too many and for "
    "what did not become a request (400, 408, 431); `model` is empty unless the request named a served model.",
    ("path", "model", "status"),
)
REQUEST_SECONDS = Metric(
    "quartzite_request_seconds", "histogram", "Time from a request's arrival to its vectors (200).", buckets=_WAITS_S
)
TOKENISE_SECONDS = Metric(
    "quartzite_tokenise_seconds",
    "histogram",
    "Time of a request (200) for tokenising, waiting for a thread included.",
    buckets=_SHORT_S,
)
PICTURE_SECONDS = Metric(
    "quartzite_picture_seconds",
    "histogram",
    "Time of a request (200) for fetching and decoding its images; requests without are not counted.",
    buckets=_WAITS_S,
)
QUEUE_WAIT_SECONDS = Metric(
    "quartzite_queue_wait_seconds",
    "histogram",
    "Time of a request (200) in which none of its items was in the engine.",
    buckets=_WAITS_S,
)
TOKENS = Metric("quartzite_tokens_total", "counter", "Tokens of answered requests (200), as their usage says.")
ITEMS = Metric("quartzite_items_total", "counter", "Items of answered requests (200).")
IMAGES = Metric("quartzite_images_total", "counter", "Items with an image of answered requests (200).")
PICTURE_BYTES = Metric(
    "quartzite_picture_bytes", "gauge", "Most memory that the images of running requests may take, in bytes.", ()
)
QUEUE_TOKENS = Metric("quartzite_queue_tokens", "gauge", "Tokens that wait for the engine.")
QUEUE_REQUESTS = Metric("quartzite_queue_requests", "gauge", "Requests of which items wait for the engine.")
MICRO_BATCHES_RUNNING = Metric("quartzite_micro_batches_running", "gauge", "Micro-batches in the engine.")
ENGINE_SECONDS = Metric(
    "quartzite_engine_seconds", "histogram", "Time of a micro-batch in the engine.", buckets=_WAITS_S
)
MICRO_BATCH_TOKENS = Metric(
    "quartzite_micro_batch_tokens", "histogram", "Tokens of a micro-batch, without padding.", buckets=_TOKENS
)
MICRO_BATCH_ITEMS = Metric("quartzite_micro_batch_items", "histogram", "Items of a micro-batch.", buckets=_ITEMS)
PADDING_TOKENS = Metric(
    "quartzite_padding_tokens_total",
    "counter",
    "Places computed without a token: the tails of the buckets. Items longer than a micro-batch count none.",
)
REPEATED_ITEMS = Metric(
    "quartzite_repeated_items_total",
    "counter",
    "Items that had their vector from an equal one, asked for at the same time.",
)
VECTOR_CACHE_HITS = Metric(
    "quartzite_vector_cache_hits_total", "counter", "Items whose vectors were in the cache of vectors."
)
VECTOR_CACHE_MISSES = Metric(
    "quartzite_vector_cache_misses_total", "counter", "Items that were looked for in the cache of vectors in vain."
)
VECTOR_CACHE_EVICTIONS = Metric(
    "quartzite_vector_cache_evictions_total", "counter", "Vectors that made room in the cache for others."
)
VECTOR_CACHE_BYTES = Metric("quartzite_vector_cache_bytes", "gauge", "Memory that the cache of vectors takes.")
MICRO_BATCH_FAILURES = Metric(
    "quartzite_micro_batch_failures_total",
    "counter",
    "Micro-batches on which the engine failed, or which held a vector that was not finite.",
)
ENGINE_STREAMS = Metric("quartzite_engine_streams", "gauge", "Micro-batches that can be computed side by side.")
LOST_STREAMS = Metric(
    "quartzite_engine_lost_streams", "gauge", "Streams busy for longer than any request on them was given."
)
MODEL_STATE = Metric(
    "quartzite_model_state",
    "gauge",
    f"1 for the state a model is in, 0 for the others: {', '.join(MODEL_STATES)}.",
    ("model", "state"),
)
MODEL_LOAD_SECONDS = Metric(
    "quartzite_model_load_seconds", "gauge", "Time the model took to load; next to nothing where weights are shared."
)
MODEL_RESTARTS = Metric(
    "quartzite_model_restarts_total", "counter", "Times a broken model was taken into use again, since it was loaded."
)
LIMITS_HIT = Metric(
    "quartzite_limits_hit_total",
    "counter",
    "Requests refused by a limit (429), by its name: RPM, TPM, ...",
    ("model", "limit"),
)
LIMIT_STORE_FAILURES = Metric(
    "quartzite_limit_store_failures_total", "counter", "Times the shared store of the limits did not answer.", ()
)
LEDGER_LAG_SECONDS = Metric(
    "quartzite_ledger_lag_seconds", "gauge", "How long the eldest row not yet committed to the ledger has waited.", ()
)
BODY_BYTES = Metric(
    "quartzite_body_bytes", "gauge", "Bytes of the bodies of all requests under way, as far as they have arrived.", ()
)
CONNECTIONS = Metric("quartzite_connections", "gauge", "Open connections of clients, idle ones included.", ())
CONNECTIONS_DISPLACED = Metric(
    "quartzite_connections_displaced_total",
    "counter",
    "Idle connections that were closed to make room for new ones.",
    (),
)
BUILD_INFO = Metric("quartzite_build_info", "gauge", "1, labelled with the version that runs.", ("version",))

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order above."""

_NOW = (QUEUE_TOKENS, QUEUE_REQUESTS, MICRO_BATCHES_RUNNING, ENGINE_STREAMS, LOST_STREAMS)
"""What `Metrics.look` notes."""

_COLLECTORS: dict[str, Any] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


class Metrics:
    """The metrics of one service in a registry of its own; every method records one kind of fact.

    Series of a served model exist from `add_model` on, so that rates begin at 0. Recording is safe on any thread and
    takes a few microseconds.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each, which nobody reads
        self.registry = CollectorRegistry()
        self._collectors = {metric: _collector(metric, self.registry) for metric in METRICS}
        for process_facts in (ProcessCollector, PlatformCollector, GCCollector):
            process_facts(registry=self.registry)
        self._collectors[BUILD_INFO].labels(__version__).set(1)
        self._models: dict[str, _Answers] = {}
        self._answers = cache(self._collectors[REQUESTS].labels)  # few: paths are routes, and models are served

    def add_model(self, name: str, load_s: float) -> None:
        """Note that the model `name` is served and took `load_s` seconds to load."""
        self._models[name] = _Answers(self._series, name)
        self._series(MODEL_LOAD_SECONDS, name).set(load_s)

    def remove_model(self, name: str) -> None:
        """Note that the model `name` is served no more; what it did stays counted."""
        self._models.pop(name, None)
        for state in MODEL_STATES:
            self._collectors[MODEL_STATE].remove(name, state)
        for metric in (MODEL_LOAD_SECONDS, VECTOR_CACHE_BYTES, *_NOW):
            self._collectors[metric].remove(name)

    def request(self, path: str, status: int, seconds: float, trace: Trace) -> None:
        """Note a request to the route `path` that was answered `status` after `seconds`."""
        model = self._models.get(trace.model or "")
        name = trace.model if model else ""
        self._answers(path, name, status).inc()
        if model and status == 200:
            model.note(seconds, trace)

    def refused(self, status: int) -> None:
        """Note that what did not become a request was answered `status`."""
        self._collectors[REQUESTS].labels("", "", status).inc()

    def connection_displaced(self) -> None:
        """Note that an idle connection was closed to make room for a new one."""
        self._collectors[CONNECTIONS_DISPLACED].inc()

    def engine_of(self, model: str) -> "EngineMetrics":
        """Return what records the work of the engine that was loaded for `model`."""
        return EngineMetrics(self._series, model)

    def look(self, model: str, depth: Depth, health: ModelHealth) -> None:
        """Note what waits for and runs on the engine that was loaded for `model`."""
        values = depth.tokens, depth.requests, depth.running, health.streams, health.lost_streams
        for metric, value in zip(_NOW, values, strict=True):
            self._series(metric, model).set(value)

    def health(self, model: str, state: ModelState) -> None:
        """Note the state of the served `model`."""
        for known in MODEL_STATES:
            self._collectors[MODEL_STATE].labels(model, known).set(known == state)

    def limit_hit(self, model: str, limit: str) -> None:
        """Note that a request for the served `model` was refused by `limit`, such as `TPM`."""
        self._collectors[LIMITS_HIT].labels(model, limit).inc()

    def limit_store_failed(self) -> None:
        """Note that the shared store of the limits did not answer."""
        self._collectors[LIMIT_STORE_FAILURES].inc()

    def watch_ledger(self, lag_s: Callable[[], float]) -> None:
        """Ask `lag_s` at every scrape, on a thread, how long in seconds the eldest row has waited to be committed."""
        self._collectors[LEDGER_LAG_SECONDS].set_function(lag_s)

    def watch_bodies(self, size: Callable[[], int]) -> None:
        """Ask `size` at every scrape, on a thread, how many bytes of bodies are held."""
        self._collectors[BODY_BYTES].set_function(size)

    def watch_connections(self, count: Callable[[], int]) -> None:
        """Ask `count` at every scrape, on a thread, how many connections there are."""
        self._collectors[CONNECTIONS].set_function(count)

    def watch_pictures(self, held_bytes: Callable[[], float]) -> None:
        """Ask `held_bytes` at every scrape, on a thread, how much the images of running requests may take."""
        self._collectors[PICTURE_BYTES].set_function(held_bytes)

    async def exposition(self) -> bytes:
        """Return all series in Prometheus' text format; made on a thread, for it takes milliseconds."""
        return await asyncio.to_thread(generate_latest, self.registry)

    def _series(self, metric: Metric, model: str) -> Any:
        return self._collectors[metric].labels(model)


class EngineMetrics:
    """Records what one engine does; names that share an engine are counted under the first of them."""

    def __init__(self, series: Callable[[Metric, str], Any], model: str) -> None:
        self._series = series
        self.count_under(model)

    def count_under(self, model: str) -> None:
        """Count what the engine does from now on under the name `model`."""
        series = self._series
        self._seconds = series(ENGINE_SECONDS, model)
        self._tokens = series(MICRO_BATCH_TOKENS, model)
        self._items = series(MICRO_BATCH_ITEMS, model)
        self._padding = series(PADDING_TOKENS, model)
        self._repeats = series(REPEATED_ITEMS, model)
        self._hits = series(VECTOR_CACHE_HITS, model)
        self._misses = series(VECTOR_CACHE_MISSES, model)
        self._evictions = series(VECTOR_CACHE_EVICTIONS, model)
        self._cached_bytes = series(VECTOR_CACHE_BYTES, model)
        self._failures = series(MICRO_BATCH_FAILURES, model)
        self._restarts = series(MODEL_RESTARTS, model)

    def ran(self, run: MicroBatchRun) -> None:
        """Note a micro-batch that came out of the engine."""
        self._seconds.observe(run.engine_s)
        self._tokens.observe(run.tokens)
        self._items.observe(run.items)
        self._padding.inc(run.padding_tokens)
        if run.repeats:
            self._repeats.inc(run.repeats)
        if run.failed:
            self._failures.inc()

    def restarted(self) -> None:
        """Note that the engine, broken before, is in use again."""
        self._restarts.inc()

    def looked_up(self, hits: int, misses: int) -> None:
        """Note how many items of a request were in the cache of vectors, and how many were not."""
        self._hits.inc(hits)
        self._misses.inc(misses)

    def kept(self, cached_bytes: int, evictions: int) -> None:
        """Note what the cache of vectors takes, and how many of them have made room for others."""
        self._cached_bytes.set(cached_bytes)
        self._evictions.inc(evictions)


class _Answers:
    """Records the answered requests for one served model."""

    def __init__(self, series: Callable[[Metric, str], Any], model: str) -> None:
        self._seconds = series(REQUEST_SECONDS, model)
        self._tokenise = series(TOKENISE_SECONDS, model)
        self._queue_wait = series(QUEUE_WAIT_SECONDS, model)
        self._tokens = series(TOKENS, model)
        self._items = series(ITEMS, model)
        self._images = series(IMAGES, model)
        self._pictures = series(PICTURE_SECONDS, model)

    def note(self, seconds: float, trace: Trace) -> None:
        """Note an answer that took `seconds`."""
        self._seconds.observe(seconds)
        self._items.inc(trace.items or 0)
        self._tokens.inc(trace.tokens or 0)
        if trace.timings:
            self._tokenise.observe(trace.timings.tokenise_s)
            self._queue_wait.observe(trace.timings.queue_s)
        if trace.images and trace.timings:
            self._images.inc(trace.images)
            self._pictures.observe(trace.timings.pictures_s)


def _collector(metric: Metric, registry: CollectorRegistry) -> Any:
    bounds = {"buckets": metric.buckets} if metric.buckets else {}
    return _COLLECTORS[metric.kind](metric.name, metric.help, metric.labels, registry=registry, **bounds)
