"""Equal items are computed once; where that fails, each who shared it is computed or failed in its own right."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import pytest

from quartzite.batching.policy import Policy
from quartzite.batching.worker import Batcher, Depth, Ran
from quartzite.domain import Encoded, Vectors
from quartzite.errors import EngineFault, Overloaded
from simulation import TimedEngine, in_virtual_time, now, started, text, vector_of

HOUR = 3600.0
BAD = 20
SHARED = 100
Spoil = Callable[[Sequence[Encoded], Vectors], Any]


def throws(batch: Sequence[Encoded], vectors: Vectors) -> Vectors:
    if any(item.tokens == BAD for item in batch):
        raise RuntimeError("out of memory")
    return vectors


def not_finite(batch: Sequence[Encoded], vectors: Vectors) -> Vectors:
    vectors[[item.tokens == SHARED for item in batch]] = np.nan
    return vectors


def not_finite_in_company(batch: Sequence[Encoded], vectors: Vectors) -> Vectors:
    return not_finite(batch, vectors) if len(batch) > 1 else vectors


def runs(engine: TimedEngine) -> list[tuple[int, ...]]:
    return [sizes for _, sizes in engine.begun]


async def of_three(batcher: Batcher, *first: Encoded) -> list[Any]:
    """Ask for the items `first` and the shared text, then twice for that alone; return what became of each."""
    asked = [asyncio.create_task(batcher.embed([*first, *text(1, SHARED)], HOUR))]
    await asyncio.sleep(0.01)
    asked += [asyncio.create_task(batcher.embed(text(1, SHARED), HOUR)) for _ in range(2)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    for outcome in outcomes[1:]:
        if isinstance(outcome, Ran):
            assert np.array_equal(outcome.vectors[0], vector_of(text(1, SHARED)[0]))
    return outcomes


@pytest.mark.parametrize("spoil", [throws, not_finite_in_company])
@in_virtual_time
async def test_who_shared_what_failed_is_computed_again_alone(spoil: Spoil) -> None:
    """Something else in the micro-batch was at fault: its request fails, those that only shared a text do not."""
    engine = TimedEngine(spoil=spoil)
    batcher = await started(engine)
    first, *others = await of_three(batcher, *text(2, BAD))
    assert isinstance(first, EngineFault)
    assert [type(outcome) for outcome in others] == [Ran, Ran]
    assert [sorted(sizes) for sizes in runs(engine)] == [[BAD, SHARED], [SHARED]]
    assert batcher.healthy
    assert batcher.depth == Depth(0, 0, 0)


@in_virtual_time
async def test_an_item_that_fails_alone_fails_all_that_share_it() -> None:
    """It was at fault itself, and is not tried for ever: twice where it had company at first, else once."""
    for company in ((), text(2, BAD)):
        engine = TimedEngine(spoil=not_finite)
        outcomes = await of_three(await started(engine), *company)
        assert [type(outcome) for outcome in outcomes] == [EngineFault] * 3
        assert len(runs(engine)) == 1 + len(company)


@in_virtual_time
async def test_each_failed_request_has_a_failure_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """One object raised in several tasks would gather the stacks of all; the log counts every request."""
    outcomes = await of_three(await started(TimedEngine(spoil=not_finite)))
    assert len({id(outcome) for outcome in outcomes}) == 3
    assert [record.fields["requests"] for record in caplog.records] == [3]  # type: ignore[attr-defined]


@in_virtual_time
async def test_who_left_is_not_computed_again() -> None:
    """When the micro-batch fails, nothing is done for those that shared it and have gone."""
    engine = TimedEngine(spoil=throws)
    batcher = await started(engine)
    bad = asyncio.create_task(batcher.embed([*text(2, BAD), *text(1, SHARED)], HOUR))
    await asyncio.sleep(0.01)
    leaving = [asyncio.create_task(batcher.embed(text(1, SHARED), HOUR)) for _ in range(2)]
    await asyncio.sleep(0.01)
    for task in leaving:
        task.cancel()
    await asyncio.gather(bad, *leaving, return_exceptions=True)
    await asyncio.sleep(1)
    assert len(runs(engine)) == 1


@in_virtual_time
async def test_nobody_joins_what_may_hang() -> None:
    """After half the time of its requests a micro-batch takes nobody more: a text that is sent again is computed."""
    engine = TimedEngine(streams=2, stuck_on=SHARED)
    batcher = await started(engine)
    first = asyncio.create_task(batcher.embed(text(1, SHARED), 60))
    await asyncio.sleep(31)
    engine.stuck_on = -1
    assert isinstance(await batcher.embed(text(1, SHARED), HOUR), Ran)
    assert now() == pytest.approx(31.128)
    engine.free()
    assert isinstance(await first, Ran)


def broken(*_: object, **__: object) -> NoReturn:
    raise ZeroDivisionError("a bug of the scheduler")


@in_virtual_time
async def test_after_a_failure_of_the_scheduling_nothing_of_it_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that wait, run and share fail at once; when the model is back the same text has its vector."""
    engine = TimedEngine()
    batcher = await started(engine)
    asked = [text(1, SHARED), text(1, SHARED), [*text(1, SHARED), *text(2, 200)], text(2, 200)]
    inside = [asyncio.create_task(batcher.embed(request, HOUR)) for request in asked]
    await asyncio.sleep(0.01)
    monkeypatch.setattr(Policy, "choose", broken)
    outcomes = await asyncio.gather(*inside, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {EngineFault}
    monkeypatch.undo()
    await asyncio.sleep(10)
    assert batcher.healthy
    assert isinstance(await batcher.embed(text(2, 200), HOUR), Ran)
    assert isinstance(await batcher.embed(text(1, SHARED), HOUR), Ran)


@in_virtual_time
async def test_a_stop_tells_those_that_share_too() -> None:
    """Who has joined a micro-batch that does not end in time is told like who asked for it."""
    engine = TimedEngine(stuck_on=SHARED)
    batcher = await started(engine)
    inside = [asyncio.create_task(batcher.embed(text(1, SHARED), HOUR)) for _ in range(3)]
    await asyncio.sleep(0)
    await batcher.stop(grace_s=2)
    outcomes = await asyncio.gather(*inside, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Overloaded] * 3
    assert len(runs(engine)) == 1
