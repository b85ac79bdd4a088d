"""Time without waiting: an event loop whose clock jumps to the next timer, and an engine whose work takes such time."""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, ParamSpec

import numpy as np

from quartzite.batching.worker import Batcher
from quartzite.config import QueueSettings
from quartzite.domain import Encoded, MicroBatchRun, Vectors
from quartzite.engines.base import MicroBatchShape

P = ParamSpec("P")

SHAPE = MicroBatchShape(256, 64, (16, 32, 64, 128, 256))


class _Skipping(selectors.SelectSelector):
    """Waits for nothing: what is waited for is the next timer, and to that the clock jumps."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everything waits and nothing will ever happen")
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that begins at second 0 and never waits."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a plain test of an asynchronous one that runs in virtual time; errors nobody is told of fail it."""

    @functools.wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        unheard: list[Mapping[str, Any]] = []

        async def watched() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
            await test(*arguments, **named)

        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(watched())
        assert not unheard

    return run


def now() -> float:
    """Return the running loop's time."""
    return asyncio.get_running_loop().time()


def items(*sizes: int) -> list[Encoded]:
    """Return items of so many tokens, each with ids of its own."""
    return [Encoded(np.arange(size, dtype=np.int32) + 1000 * place) for place, size in enumerate(sizes)]


def text(number: int, tokens: int) -> list[Encoded]:
    """Return one item that is equal to all of the same number and tokens, and to no other."""
    ids = np.arange(tokens, dtype=np.int32) + 1000 * number
    return [Encoded(ids, fingerprint=ids.tobytes())]


def vector_of(item: Encoded, dimensions: int = 4) -> Vectors:
    """Return what `TimedEngine` answers for `item`."""
    return np.full(dimensions, float(item.ids[0]) + item.tokens, dtype=np.float32)


class TimedEngine:
    """Takes a second for every 1000 tokens of the bucket, on `streams` that items over the budget use piece by piece.

    `begun` lists start and token counts of every micro-batch; `spoil` may change an answer, or raise in its place.
    Micro-batches that hold an item of `stuck_on` tokens do not come back before `free()`; `deaf` ones go on even when
    they are cancelled. With `spread` streams together a micro-batch takes so many times less; `spreading` counts those.
    `most_under_way` is how many there were at most.
    """

    def __init__(
        self,
        streams: int = 1,
        shape: MicroBatchShape = SHAPE,
        spoil: Callable[[Sequence[Encoded], Vectors], Any] = lambda _, vectors: vectors,
        stuck_on: int = -1,
        deaf: bool = False,
        spread: int = 1,
        ahead: bool = False,
    ) -> None:
        self.dimensions = 4
        self.arithmetic = "f32 (nothing is computed)"
        self.streams = streams
        self.spread = spread
        self.ahead = ahead
        self.most_under_way = 0
        self.spreading = 0
        self.shape = shape
        self.begun: list[tuple[float, tuple[int, ...]]] = []
        self.closed = 0
        self.under_way = 0
        self.spoil = spoil
        self.stuck_on = stuck_on
        self.deaf = deaf
        self._freed = asyncio.Event()
        self._turns = asyncio.Semaphore(streams)

    async def embed(self, batch: Sequence[Encoded], spread: bool = False) -> Vectors:
        sizes = tuple(item.tokens for item in batch)
        taken = self.spread if spread else 1
        self._check(sizes, taken)
        self.begun.append((now(), sizes))
        self.under_way += taken
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.spreading += spread
        try:
            await self._compute(sizes, taken)
        finally:
            self.under_way -= taken
        vectors: Vectors = self.spoil(batch, np.stack([vector_of(item, self.dimensions) for item in batch]))
        return vectors

    async def _until_freed(self) -> None:
        while not self._freed.is_set():
            try:
                await self._freed.wait()
            except asyncio.CancelledError:
                if not self.deaf:
                    raise

    async def close(self) -> None:
        assert self.deaf or not self.under_way
        self.closed += 1

    def free(self) -> None:
        """Let all that is stuck go on."""
        self._freed.set()

    def seconds(self, tokens: int) -> float:
        """Return how long a micro-batch of `tokens` takes."""
        return next((bucket for bucket in self.shape.buckets if bucket >= tokens), tokens) / 1000

    def _check(self, sizes: tuple[int, ...], taken: int) -> None:
        assert 1 <= len(sizes) <= self.shape.items
        assert len(sizes) == 1 or sum(sizes) <= self.shape.tokens
        beside = sum(sizes) <= self.shape.tokens
        assert self.under_way + taken <= self.streams + beside

    async def _compute(self, sizes: tuple[int, ...], taken: int) -> None:
        if self.stuck_on in sizes:
            await self._until_freed()
        tokens = sum(sizes)
        while tokens > 0:
            async with self._turns:
                await asyncio.sleep(self.seconds(min(tokens, self.shape.tokens)) / taken)
            tokens -= self.shape.tokens


class Noting:
    """Notes the micro-batches that a batcher reports."""

    def __init__(self) -> None:
        self.runs: list[MicroBatchRun] = []

    def ran(self, run: MicroBatchRun) -> None:
        self.runs.append(run)

    def restarted(self) -> None:
        raise AssertionError("nothing broke")

    def looked_up(self, hits: int, misses: int) -> None:
        raise AssertionError("there is no cache")

    def kept(self, cached_bytes: int, evictions: int) -> None:
        raise AssertionError("there is no cache")


async def started(engine: TimedEngine, limits: QueueSettings | None = None, **settings: Any) -> Batcher:
    """Return a batcher that accepts requests for `engine` and goes by the running loop's time."""
    batcher = Batcher(engine, limits or QueueSettings(), asyncio.get_running_loop().time, **settings)
    await batcher.start()
    return batcher
