"""A batcher with a cache: what was computed is not computed again, and nothing wrong is kept."""

import asyncio
import weakref
from collections.abc import Sequence

import numpy as np
import pytest

from quartzite.batching.cache import KEPT_BESIDE, Reuse, VectorCache
from quartzite.batching.worker import Batcher, Ran
from quartzite.domain import Encoded, MicroBatchRun, Vectors
from quartzite.errors import EngineFault, Overloaded
from simulation import TimedEngine, in_virtual_time, now, started, text, vector_of

HOUR = 3600.0
ENTRY = 4 * 4 + KEPT_BESIDE


class Noting:
    """Notes what a batcher reports of its cache."""

    def __init__(self) -> None:
        self.looked: list[tuple[int, int]] = []
        self.held: list[tuple[int, int]] = []

    def ran(self, run: MicroBatchRun) -> None:
        pass

    def restarted(self) -> None:
        raise AssertionError("nothing broke")

    def looked_up(self, hits: int, misses: int) -> None:
        self.looked.append((hits, misses))

    def kept(self, cached_bytes: int, evictions: int) -> None:
        self.held.append((cached_bytes, evictions))


async def remembering(engine: TimedEngine, entries: int = 100, noting: Noting | None = None) -> Batcher:
    cache = VectorCache(ENTRY * entries, engine.dimensions)
    return await started(engine, observer=noting, reuse=Reuse(cache=cache))


def texts(*numbers: int) -> list[Encoded]:
    return [item for number in numbers for item in text(number, 16)]


async def ask(batcher: Batcher, *numbers: int) -> Ran:
    ran = await batcher.embed(texts(*numbers), now() + HOUR)
    assert np.array_equal(ran.vectors, np.stack([vector_of(item) for item in texts(*numbers)]))
    return ran


@in_virtual_time
async def test_what_was_computed_is_answered_without_the_engine() -> None:
    """At once, and with the vectors in their places where others of the request are computed."""
    engine, noting = TimedEngine(), Noting()
    batcher = await remembering(engine, noting=noting)
    await ask(batcher, 1, 2)
    begun = now()
    ran = await ask(batcher, 2, 1, 2)
    assert (now(), ran.queue_s, ran.engine_s) == (begun, 0, 0)
    await ask(batcher, 3, 1, 4, 2, 3)
    assert [sizes for _, sizes in engine.begun] == [(16, 16), (16, 16)]
    assert noting.looked == [(0, 2), (3, 0), (2, 3)]
    assert noting.held == [(2 * ENTRY, 0), (4 * ENTRY, 0)]


@in_virtual_time
async def test_an_answer_does_not_change_with_the_cache() -> None:
    """Vectors are copies: neither what a caller does to them nor what replaces them reaches the other."""
    batcher = await remembering(TimedEngine(), entries=1)
    await ask(batcher, 1)
    ran = await ask(batcher, 1)
    asked = asyncio.create_task(ask(batcher, 1, 2))
    ran.vectors[:] = 0
    await ask(batcher, 3)
    await asked


@in_virtual_time
async def test_what_was_used_longest_ago_is_computed_again() -> None:
    """With room for two, the third takes the place of the one that was not asked for since."""
    engine, noting = TimedEngine(), Noting()
    batcher = await remembering(engine, entries=2, noting=noting)
    for number in (1, 2, 1, 3, 1):
        await ask(batcher, number)
    assert len(engine.begun) == 3
    await ask(batcher, 2)
    assert len(engine.begun) == 4
    assert noting.held[-1] == (2 * ENTRY, 1)


@in_virtual_time
async def test_the_vector_for_a_client_that_left_is_kept() -> None:
    """A client that gave up and comes again has it at once."""
    engine = TimedEngine()
    batcher = await remembering(engine)
    leaving = asyncio.create_task(batcher.embed(texts(1), HOUR))
    await asyncio.sleep(0.001)
    leaving.cancel()
    await asyncio.sleep(1)
    await ask(batcher, 1)
    assert len(engine.begun) == 1


@pytest.mark.parametrize("thrown", [True, False])
@in_virtual_time
async def test_nothing_of_a_failed_computation_is_kept(thrown: bool) -> None:
    """After a failure the same text is computed again; the others of a micro-batch with one bad vector are kept."""
    failing = True

    def spoil(batch: Sequence[Encoded], vectors: Vectors) -> Vectors:
        if failing and thrown:
            raise RuntimeError
        if failing:
            vectors[[item.ids[0] == 1000 for item in batch]] = np.nan
        return vectors

    engine = TimedEngine(spoil=spoil)
    batcher = await remembering(engine)
    asked = [batcher.embed(texts(number), HOUR) for number in (1, 2)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(outcomes[0], EngineFault)
    failing = False
    await ask(batcher, 1)
    await ask(batcher, 2)
    assert len(engine.begun) == 3 if thrown else 2


@in_virtual_time
async def test_items_that_are_not_compared_are_not_kept() -> None:
    """Without a fingerprint nothing is known of an item."""
    engine = TimedEngine()
    batcher = await remembering(engine)
    for number in (1, 2):
        plain = [Encoded(item.ids) for item in texts(number)]
        ran = await batcher.embed(plain, HOUR)
        assert np.array_equal(ran.vectors[0], vector_of(plain[0]))
    assert len(engine.begun) == 2


@in_virtual_time
async def test_a_stopped_batcher_answers_nothing_and_holds_no_vectors() -> None:
    """Its memory is free at once, without the collector, though the batcher itself be still there."""
    engine = TimedEngine()
    cache = VectorCache(10_000, engine.dimensions)
    held = weakref.ref(cache)
    batcher = await started(engine, reuse=Reuse(cache=cache))
    del cache
    await ask(batcher, 1)
    await batcher.stop()
    with pytest.raises(Overloaded):
        await batcher.embed(texts(1), HOUR)
    assert held() is None
