"""Micro-batches that are in the engine before a stream is idle: when there are any, and that nobody pays for them."""

import asyncio

import pytest

from quartzite.engines.base import MicroBatchShape
from simulation import Noting, TimedEngine, in_virtual_time, items, now, started

HOUR = 3600.0
ROW = MicroBatchShape(64, 16, (16, 32, 64))
ROW_S = 0.064
BULK = [64] * 20


@in_virtual_time
async def test_a_micro_batch_is_ready_when_a_stream_ends() -> None:
    """One more than there are streams is in the engine while much waits; its own time counts, not that of its wait."""
    engine, noting = TimedEngine(streams=2, shape=ROW, ahead=True), Noting()
    batcher = await started(engine, observer=noting)
    await batcher.embed(items(*BULK), HOUR)
    assert engine.most_under_way == 3
    assert now() == pytest.approx(10 * ROW_S)
    assert [run.engine_s for run in noting.runs] == [pytest.approx(ROW_S)] * 20


@in_virtual_time
async def test_an_engine_that_takes_no_more_than_its_streams_gets_no_more() -> None:
    """Whether one is ahead is the engine's to say."""
    engine = TimedEngine(streams=2, shape=ROW)
    batcher = await started(engine)
    await batcher.embed(items(*BULK), HOUR)
    assert engine.most_under_way == 2


@in_virtual_time
async def test_micro_batches_that_take_long_are_not_ahead() -> None:
    """Those of 256 ms win nothing by it, and what comes would wait for one more of them."""
    engine = TimedEngine(streams=2, ahead=True)
    batcher = await started(engine)
    await batcher.embed(items(*[256] * 20), HOUR)
    assert engine.most_under_way == 2


@in_virtual_time
async def test_where_short_requests_come_nothing_is_ahead() -> None:
    """A short request goes before a long one only while that is not in the engine; for a second another is expected."""
    engine = TimedEngine(streams=2, shape=ROW, ahead=True)
    batcher = await started(engine)
    await batcher.embed(items(*BULK), HOUR)
    assert engine.most_under_way == 3
    engine.most_under_way = 0
    await batcher.embed(items(32), HOUR)
    await batcher.embed(items(*BULK), HOUR)
    assert engine.most_under_way == 2
    await asyncio.sleep(1.1)
    await batcher.embed(items(*BULK), HOUR)
    assert engine.most_under_way == 3


@in_virtual_time
async def test_the_first_short_request_waits_for_one_micro_batch_per_stream_at_most() -> None:
    """Nobody knew of it when one went ahead: it begins when the second stream ends; the next one finds none ahead."""
    engine = TimedEngine(streams=2, shape=ROW, ahead=True)
    batcher = await started(engine)
    bulk = asyncio.create_task(batcher.embed(items(*[64] * 100), HOUR))
    await asyncio.sleep(10.5 * ROW_S)
    assert engine.under_way == 3
    first = await batcher.embed(items(16), HOUR)
    assert first.queue_s <= 2 * ROW_S
    second = await batcher.embed(items(16), HOUR)
    assert second.queue_s <= ROW_S
    await bulk


@in_virtual_time
async def test_the_last_two_rows_are_not_ahead() -> None:
    """What is less than two full ones is divided between the streams once they are idle."""
    engine = TimedEngine(streams=2, shape=ROW, ahead=True)
    batcher = await started(engine)
    await batcher.embed(items(*BULK), HOUR)
    engine.most_under_way = 0
    await batcher.embed(items(*[64] * 3, 60), HOUR)
    assert engine.most_under_way == 2
