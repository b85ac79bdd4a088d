"""A model that has failed is tried until it answers, then used again, and says meanwhile how it is."""

import asyncio
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import pytest

from quartzite.batching.policy import Policy
from quartzite.batching.recovery import LONGEST_PAUSE_S, PROBE_S
from quartzite.batching.waiting import Ticket
from quartzite.batching.worker import FAILURES_IN_A_ROW, Batcher
from quartzite.config import QueueSettings
from quartzite.domain import Encoded, MicroBatchRun, ModelHealth, Vectors
from quartzite.errors import EngineFault
from serving import CLASSIC, CUTTABLE, fake_service
from simulation import TimedEngine, in_virtual_time, items, now, vector_of

HOUR = 3600.0
PROBE_TOKENS = (1,)


class Noting:
    """Notes what a batcher reports."""

    def __init__(self) -> None:
        self.runs: list[MicroBatchRun] = []
        self.restarts = 0

    def ran(self, run: MicroBatchRun) -> None:
        self.runs.append(run)

    def restarted(self) -> None:
        self.restarts += 1

    def looked_up(self, hits: int, misses: int) -> None:
        raise AssertionError("there is no cache")

    def kept(self, cached_bytes: int, evictions: int) -> None:
        raise AssertionError("there is no cache")


class Moody:
    """Spoils every answer of an engine, the probes' too, while `well` is false."""

    well = False

    def __call__(self, _: Sequence[Encoded], vectors: Vectors) -> Vectors:
        if not self.well:
            raise RuntimeError("the device is gone")
        return vectors


async def observed(engine: TimedEngine) -> tuple[Batcher, Noting]:
    noting = Noting()
    batcher = Batcher(engine, QueueSettings(), asyncio.get_running_loop().time, noting)
    await batcher.start()
    return batcher, noting


async def fails(batcher: Batcher, *sizes: int) -> None:
    with pytest.raises(EngineFault):
        await batcher.embed(items(*sizes), now() + HOUR)


def broken(*_: object, **__: object) -> NoReturn:
    raise ZeroDivisionError("a bug of the scheduler")


async def after(seconds: float) -> None:
    """Let time pass, and what is due at its end happen."""
    await asyncio.sleep(seconds + 1e-6)


@in_virtual_time
async def test_after_a_bug_of_the_scheduler_the_model_is_taken_into_use_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the engine has answered a probe, requests get their vectors; until then they are refused at once."""
    engine = TimedEngine()
    batcher, noting = await observed(engine)
    monkeypatch.setattr(Policy, "choose", broken)
    await fails(batcher, 256)
    monkeypatch.undo()
    assert batcher.health == ModelHealth("broken", streams=1, lost_streams=0)
    await fails(batcher, 20)
    assert (now(), engine.begun) == (0, [])
    await after(engine.seconds(1))
    assert batcher.health == ModelHealth("healthy", streams=1, lost_streams=0)
    ran = await batcher.embed(items(20), HOUR)
    assert np.array_equal(ran.vectors[0], vector_of(items(20)[0]))
    assert noting.restarts == 1
    assert [sizes for _, sizes in engine.begun] == [PROBE_TOKENS, (20,)]


@in_virtual_time
async def test_an_engine_that_does_not_answer_is_tried_ever_more_seldom() -> None:
    """Probes follow each other after 1, 2, 4 ... seconds, a minute at most, and go on until one is answered."""
    moody = Moody()
    engine = TimedEngine(spoil=moody)
    batcher, _ = await observed(engine)
    for _ in range(FAILURES_IN_A_ROW):
        assert batcher.healthy
        await fails(batcher, 40)
    assert batcher.health == ModelHealth("failing", streams=1, lost_streams=0)
    await after(300)
    begun = [start for start, sizes in engine.begun if sizes == PROBE_TOKENS]
    pauses = np.diff(begun) - engine.seconds(1)
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, *[LONGEST_PAUSE_S] * 3])
    assert not batcher.healthy
    moody.well = True
    await after(LONGEST_PAUSE_S + engine.seconds(1))
    assert batcher.health.state == "healthy"


@in_virtual_time
async def test_a_failing_engine_is_still_asked_and_healthy_with_its_first_vector() -> None:
    """While it is being tried requests are not refused, and one that is answered proves as much as a probe."""
    moody = Moody()
    engine = TimedEngine(spoil=moody)
    batcher, _ = await observed(engine)
    for _ in range(FAILURES_IN_A_ROW):
        await fails(batcher, 40)
    await after(2)
    assert batcher.health.state == "failing"
    moody.well = True
    await batcher.embed(items(40), HOUR)
    assert batcher.health.state == "healthy"


@in_virtual_time
async def test_requests_that_the_engine_chokes_on_do_not_make_it_a_failing_one() -> None:
    """However many come one after another, the probe between them says that it was they and not the engine."""

    def spoil(batch: Sequence[Encoded], vectors: Vectors) -> Vectors:
        return vectors * (np.nan if any(item.tokens == 13 for item in batch) else 1)

    batcher, noting = await observed(TimedEngine(spoil=spoil))
    for _ in range(5 * FAILURES_IN_A_ROW):
        await fails(batcher, 13)
        await after(0.016)
        assert batcher.healthy
    assert all(run.failed for run in noting.runs)
    assert noting.restarts == 0


@in_virtual_time
async def test_a_bug_that_stays_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    """With requests coming all the time, an hour of a lasting fault costs no more than a probe a minute, and a few."""
    engine = TimedEngine()
    batcher, noting = await observed(engine)
    monkeypatch.setattr(Policy, "choose", broken)
    while now() < HOUR:
        await fails(batcher, 20)
        await asyncio.sleep(0.25)
    assert noting.restarts <= HOUR / LONGEST_PAUSE_S + 8
    monkeypatch.undo()
    await after(LONGEST_PAUSE_S + 1)
    await batcher.embed(items(20), now() + HOUR)


@in_virtual_time
async def test_results_that_cannot_be_handed_out_break_and_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was in the engine when the way back failed ends there, and does not disturb what comes after."""
    engine = TimedEngine(streams=2)
    batcher, noting = await observed(engine)
    inside = [asyncio.create_task(batcher.embed(items(256), HOUR)) for _ in range(4)]
    monkeypatch.setattr(Ticket, "receive", broken)
    outcomes: list[Any] = await asyncio.gather(*inside, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [EngineFault] * 4
    monkeypatch.undo()
    await after(5)
    assert batcher.health.state == "healthy"
    await asyncio.gather(*[batcher.embed(items(256), HOUR) for _ in range(4)])
    assert noting.restarts >= 1


@in_virtual_time
async def test_a_probe_that_hangs_is_given_up_and_no_second_one_joins_it() -> None:
    """A probe has its time; one that goes on when it is cancelled is a lost stream, and stays the only one."""
    moody = Moody()
    engine = TimedEngine(streams=2, spoil=moody, deaf=True)
    batcher, _ = await observed(engine)
    for _ in range(FAILURES_IN_A_ROW):
        engine.stuck_on = 1
        await fails(batcher, 40)
    await after(PROBE_S + 200)
    assert [sizes for _, sizes in engine.begun].count(PROBE_TOKENS) == 1
    assert batcher.health == ModelHealth("failing", streams=2, lost_streams=1)
    moody.well = True
    engine.free()
    await after(LONGEST_PAUSE_S + 1)
    assert batcher.health == ModelHealth("healthy", streams=2, lost_streams=0)


@in_virtual_time
async def test_a_request_that_waits_for_the_stream_of_a_probe_runs_when_that_has_ended() -> None:
    """Though the probe failed, what came meanwhile is not forgotten: it gets its turn, and its own failure."""
    engine = TimedEngine(spoil=Moody())
    batcher, _ = await observed(engine)
    for _ in range(FAILURES_IN_A_ROW):
        await fails(batcher, 40)
    await after(0.001)
    assert engine.under_way == 1
    begun = now()
    await fails(batcher, 256)
    assert now() - begun <= engine.seconds(1) + engine.seconds(256)


@in_virtual_time
async def test_one_lost_stream_of_two_is_told_and_the_model_is_in_use() -> None:
    """Half of the streams answer half as fast: degraded, not out of use."""
    batcher, _ = await observed(TimedEngine(streams=2, stuck_on=13))
    stuck = asyncio.create_task(batcher.embed(items(13), 3))
    await asyncio.wait([stuck])
    await after(1)
    assert stuck.exception()
    assert batcher.health == ModelHealth("degraded", streams=2, lost_streams=1)
    assert batcher.healthy


@in_virtual_time
async def test_a_lost_micro_batch_counts_for_all_streams_that_it_has() -> None:
    """One that had the engine to itself leaves nothing for others: lost, and not degraded."""
    batcher, _ = await observed(TimedEngine(streams=2, stuck_on=13, spread=2))
    stuck = asyncio.create_task(batcher.embed(items(13), 3))
    await asyncio.wait([stuck])
    await after(1)
    assert stuck.exception()
    assert batcher.health == ModelHealth("lost", streams=2, lost_streams=2)


@pytest.mark.parametrize("during", ["a probe", "a pause"])
@in_virtual_time
async def test_stopping_ends_the_trying(during: str) -> None:
    """Whether a probe is in the engine or the next one is waited for, the engine is closed with nothing in it."""
    engine = TimedEngine(spoil=Moody(), stuck_on=1 if during == "a probe" else -1)
    batcher, _ = await observed(engine)
    for _ in range(FAILURES_IN_A_ROW):
        await fails(batcher, 40)
    await after(0.5)
    assert engine.under_way == (during == "a probe")
    await batcher.stop()
    assert engine.closed == 1
    assert batcher.health.state == "stopped"
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


@in_virtual_time
async def test_micro_batches_are_reported_with_size_padding_and_time() -> None:
    """Two items of 100 tokens in a bucket of 128 are reported once, when they come out of the engine."""
    engine = TimedEngine()
    batcher, noting = await observed(engine)
    await batcher.embed(items(60, 40), HOUR)
    (run,) = noting.runs
    assert (run.items, run.tokens, run.padding_tokens, run.failed) == (2, 100, 28, False)
    assert run.engine_s == pytest.approx(engine.seconds(100))


async def test_health_and_metrics_tell_of_a_broken_model_and_of_its_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """/health and /ready are 503 while it is broken and name its state; both are 200 and it answers once it is back."""
    async with fake_service() as service, service.client() as client:
        service.engine.hold()
        monkeypatch.setattr(Policy, "choose", broken)
        request = {"model": CLASSIC, "input": [5]}
        assert (await client.post("/v1/embeddings", json=request)).status_code == 500
        monkeypatch.undo()
        health, ready = await client.get("/health"), await client.get("/ready")
        assert (health.status_code, ready.status_code) == (503, 503)
        state = {"state": "broken", "streams": 1, "lost_streams": 0}
        assert health.json() == {"status": "failing", "models": {CLASSIC: state, CUTTABLE: state}}
        assert f'quartzite_model_state{{model="{CLASSIC}",state="broken"}} 1.0' in (await client.get("/metrics")).text
        service.engine.release()
        while not service.batcher.healthy:  # noqa: ASYNC110  there is no event for it
            await asyncio.sleep(0)
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/ready")).status_code == 200
        assert (await client.post("/v1/embeddings", json=request)).status_code == 200
        assert f'quartzite_model_restarts_total{{model="{CLASSIC}"}} 1.0' in (await client.get("/metrics")).text
