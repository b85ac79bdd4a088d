"""How each workload is put to a server, and what is reported of it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from client import Load, closed, paced, percentile, run
from server import Server
from workloads import Batch, Source

Figures = dict[str, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Pace:
    """How much of each workload a round has: enough to be steady, little enough for slow servers."""

    query_s: float
    chunk_lists: int
    chunk_s: float
    mixed_s: float
    queries_per_s: float


SMALL = Pace(query_s=3, chunk_lists=40, chunk_s=4, mixed_s=4, queries_per_s=50)
LARGE = Pace(query_s=5, chunk_lists=2, chunk_s=60, mixed_s=15, queries_per_s=3)
SEEING = Pace(query_s=5, chunk_lists=1, chunk_s=12, mixed_s=5, queries_per_s=3)
PACES = {"minilm": SMALL, "bge-large": LARGE, "bge-m3": LARGE, "qwen3-0.6b": LARGE, "qwen3-vl-small": SEEING}
CHUNK_CLIENTS = 2
IMAGES = 64
CYCLED = 4
"""How often the drawn queries may be sent again within a round: a fast server needs more than the corpus has."""


def rotated(contenders: list[T], turn: int) -> list[T]:
    """Return `contenders` with another one first in each turn: who comes after whom may matter to a machine."""
    first = turn % max(1, len(contenders))
    return contenders[first:] + contenders[:first]


@dataclass(frozen=True)
class Workload:
    """What is drawn for a round and how it is put to a server."""

    draw: Callable[[Source, Pace], tuple[Batch, ...]]
    put: Callable[[Server, tuple[Batch, ...], Pace], Figures]


def _queries(clients: int) -> Workload:
    def draw(source: Source, pace: Pace) -> tuple[Batch, ...]:
        batch = source.queries(4096 if pace is SMALL else 512)
        return (Batch(batch.requests * CYCLED, batch.tokens * CYCLED),)

    def put(server: Server, batches: tuple[Batch, ...], pace: Pace) -> Figures:
        return _closed(server, batches[0], clients, pace.query_s)

    return Workload(draw, put)


def _repeated(clients: int) -> Workload:
    def draw(source: Source, pace: Pace) -> tuple[Batch, ...]:
        different = 4096 if pace is SMALL else 512
        return (source.repeated_queries(different * CYCLED, different),)

    return Workload(draw, _queries(clients).put)


def _chunks() -> Workload:
    def put(server: Server, batches: tuple[Batch, ...], pace: Pace) -> Figures:
        return _closed(server, batches[0], CHUNK_CLIENTS, pace.chunk_s)

    return Workload(lambda source, pace: (source.chunks(pace.chunk_lists),), put)


def _even() -> Workload:
    return Workload(lambda source, pace: (source.even(pace.chunk_lists),), _chunks().put)


def _long() -> Workload:
    def put(server: Server, batches: tuple[Batch, ...], pace: Pace) -> Figures:
        return _closed(server, batches[0], 1, pace.chunk_s)

    return Workload(lambda source, _pace: (source.long(1),), put)


def _images(width: int, height: int, clients: int) -> Workload:
    def put(server: Server, batches: tuple[Batch, ...], pace: Pace) -> Figures:
        return _closed(server, batches[0], clients, pace.chunk_s)

    return Workload(lambda source, _pace: (source.pictures(IMAGES, width, height),), put)


def _mixed() -> Workload:
    def draw(source: Source, pace: Pace) -> tuple[Batch, ...]:
        queries, bulk = source.queries(512), source.bulk(8 if pace is SMALL else 1)
        return queries, Batch(bulk.requests * CYCLED, bulk.tokens * CYCLED) if pace is SMALL else bulk

    def put(server: Server, batches: tuple[Batch, ...], pace: Pace) -> Figures:
        return run(_mix(server, *batches, pace))

    return Workload(draw, put)


async def _mix(server: Server, queries: Batch, bulk: Batch, pace: Pace) -> Figures:
    def query(until: asyncio.Event | None = None) -> Any:
        seconds = pace.mixed_s if until is None else float("inf")
        return paced(server.port, queries.requests, pace.queries_per_s, seconds, until)

    alone = await query()
    bulk_alone = await closed(server.port, bulk.requests, 1, pace.mixed_s)
    over = asyncio.Event()

    async def bulk_beside() -> Load:
        try:
            return await closed(server.port, bulk.requests, 1, pace.mixed_s)
        finally:
            over.set()

    beside, together = await asyncio.gather(query(over), bulk_beside())
    return {
        "alone_p50_ms": 1e3 * percentile(alone.latencies(), 0.5),
        "alone_p99_ms": 1e3 * percentile(alone.latencies(), 0.99),
        "p50_ms": 1e3 * percentile(beside.latencies(), 0.5),
        "p99_ms": 1e3 * percentile(beside.latencies(), 0.99),
        "bulk_alone_tokens_per_s": bulk_alone.rate(bulk.tokens),
        "bulk_tokens_per_s": together.rate(bulk.tokens),
        "failed": sum(_failed(load) for load in (alone, bulk_alone, beside, together)),
    }


WORKLOADS = {
    "queries-1": _queries(1),
    "queries-16": _queries(16),
    "queries-64": _queries(64),
    "queries-zipf": _repeated(64),
    "chunks": _chunks(),
    "even": _even(),
    "long": _long(),
    "mixed": _mixed(),
    "images-640x480": _images(640, 480, 2),
    "images-1920x1080": _images(1920, 1080, 1),
}


def _closed(server: Server, batch: Batch, clients: int, seconds: float) -> Figures:
    begun = server.cpu_s()
    load = run(closed(server.port, batch.requests, clients, seconds))
    cpu_s, latencies = server.cpu_s() - begun, load.latencies()
    tokens = sum(batch.tokens[place] for place, answer in load.answers if answer.status == 200)
    return {
        "requests": len(latencies),
        "tokens": tokens,
        "requests_per_s": load.rate(),
        "tokens_per_s": load.rate(batch.tokens),
        "p50_ms": 1e3 * percentile(latencies, 0.5),
        "p99_ms": 1e3 * percentile(latencies, 0.99),
        "cpu_s_per_million_tokens": 1e6 * cpu_s / tokens if tokens else float("nan"),
        "client_cpu_share": load.client_cpu_s / load.wall_s,
        "failed": _failed(load),
    }


def _failed(load: Load) -> int:
    return len(load.answers) - len(load.latencies())
