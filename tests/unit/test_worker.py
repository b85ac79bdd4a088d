"""The batcher over a well-behaved engine: order, waiting times, full streams, and an orderly end."""

import asyncio
import gc
import weakref

import numpy as np
import pytest

from quartzite.batching.worker import Batcher, Depth, Ran
from quartzite.config import QueueSettings
from quartzite.domain import Encoded
from quartzite.engines.base import MicroBatchShape
from quartzite.errors import DeadlineExceeded, Overloaded
from simulation import TimedEngine, in_virtual_time, items, now, started, vector_of

HOUR = 3600.0
WHOLE_CHUNKS = MicroBatchShape(1024, 64, (16, 32, 64, 128, 256, 512, 1024))


def right(ran: Ran, request: list[Encoded]) -> bool:
    return np.array_equal(ran.vectors, np.stack([vector_of(item) for item in request]))


@in_virtual_time
async def test_vectors_come_back_in_the_order_of_the_items() -> None:
    """Though items are rearranged and run in several micro-batches, each vector is that of its own item."""
    batcher = await started(TimedEngine(streams=2))
    request = items(*[1 + 37 * place % 300 for place in range(100)])
    ran = await batcher.embed(request, HOUR)
    assert right(ran, request)
    assert ran.vectors.dtype == np.float32
    assert ran.vectors.shape == (100, 4)


@in_virtual_time
async def test_requests_side_by_side_each_get_their_own_vectors() -> None:
    """Items of many requests share micro-batches and find back."""
    batcher = await started(TimedEngine(streams=2))
    requests = [items(*range(1 + place, 8 + place)) for place in range(40)]
    answers = await asyncio.gather(*[batcher.embed(request, HOUR) for request in requests])
    assert all(right(ran, request) for ran, request in zip(answers, requests, strict=True))


@in_virtual_time
async def test_an_idle_engine_begins_at_once() -> None:
    """A lone query is not held back for company: it takes its own service time and nothing else."""
    engine = TimedEngine()
    batcher = await started(engine)
    await asyncio.sleep(5)
    ran = await batcher.embed(items(16), HOUR)
    assert engine.begun == [(5.0, (16,))]
    assert now() == pytest.approx(5.016)
    assert ran.queue_s == 0
    assert ran.engine_s == pytest.approx(0.016)


@in_virtual_time
async def test_requests_of_the_same_moment_share_a_micro_batch() -> None:
    """Eight queries that are there when the engine starts go together."""
    engine = TimedEngine()
    batcher = await started(engine)
    await asyncio.gather(*[batcher.embed(items(8), HOUR) for _ in range(8)])
    assert engine.begun == [(0.0, (8,) * 8)]


@in_virtual_time
async def test_one_request_is_split_evenly_over_idle_streams() -> None:
    """32 chunks on two idle streams take the time of 16."""
    engine = TimedEngine(streams=2, shape=WHOLE_CHUNKS)
    batcher = await started(engine)
    await batcher.embed(items(*[32] * 32), HOUR)
    assert [(start, len(sizes)) for start, sizes in engine.begun] == [(0.0, 16), (0.0, 16)]


@in_virtual_time
async def test_a_micro_batch_alone_has_all_streams() -> None:
    """With nothing beside it and nothing waiting, a query is done in half the time where two streams can join."""
    engine = TimedEngine(streams=2, spread=2)
    batcher = await started(engine)
    await batcher.embed(items(16), HOUR)
    assert engine.spreading == 1
    assert now() == pytest.approx(0.008)


@in_virtual_time
async def test_what_comes_beside_a_micro_batch_on_all_streams_waits_and_goes_together() -> None:
    """No core is idle meanwhile; what has gathered by then has all streams in its turn."""
    engine = TimedEngine(streams=2, spread=2)
    batcher = await started(engine)
    first = asyncio.create_task(batcher.embed(items(128), HOUR))
    await asyncio.sleep(0.01)
    await asyncio.gather(*[batcher.embed(items(16), HOUR) for _ in range(2)])
    assert engine.begun == [(0.0, (128,)), (0.064, (16, 16))]
    assert engine.spreading == 2
    await first


@in_virtual_time
async def test_nothing_is_spread_while_more_waits_or_runs() -> None:
    """Each stream has its own micro-batch as ever."""
    engine = TimedEngine(streams=2, spread=2)
    batcher = await started(engine)
    await batcher.embed(items(*[128] * 8), HOUR)
    assert engine.spreading == 0


@in_virtual_time
async def test_a_long_item_alone_has_all_streams_and_lets_others_in() -> None:
    """It is done in half the time, and a query that comes meanwhile does not wait for its end."""
    engine = TimedEngine(streams=2, spread=2)
    batcher = await started(engine)
    long = asyncio.create_task(batcher.embed(items(1000), HOUR))
    await asyncio.sleep(0.1)
    await batcher.embed(items(16), HOUR)
    assert now() == pytest.approx(0.116)
    assert engine.spreading == 1
    assert not long.done()
    await long
    assert now() == pytest.approx(0.512)


@in_virtual_time
async def test_of_many_streams_only_some_are_joined() -> None:
    """On four streams of which two can be joined, two micro-batches alone run side by side."""
    engine = TimedEngine(streams=4, spread=2)
    batcher = await started(engine)
    first = asyncio.create_task(batcher.embed(items(128), HOUR))
    await asyncio.sleep(0.01)
    await batcher.embed(items(64), HOUR)
    assert engine.begun == [(0.0, (128,)), (0.01, (64,))]
    assert engine.spreading == 2
    await first


@in_virtual_time
async def test_streams_are_kept_busy_while_anything_waits() -> None:
    """40 full micro-batches on two streams take exactly the time of 20: no stream ever pauses."""
    batcher = await started(TimedEngine(streams=2))
    await asyncio.gather(*[batcher.embed(items(*[128] * 8), HOUR) for _ in range(10)])
    assert now() == pytest.approx(20 * 0.256)


@in_virtual_time
async def test_a_stream_is_filled_before_clients_are_told() -> None:
    """Clients have work to do with their vectors; the engine does not stand still meanwhile."""
    engine = TimedEngine()
    batcher = await started(engine)
    second = asyncio.create_task(batcher.embed(items(256, 256), HOUR))
    await asyncio.sleep(0)
    await batcher.embed(items(200), HOUR)
    assert len(engine.begun) == 2
    await second


@in_virtual_time
async def test_queue_and_engine_time_add_up_to_the_whole() -> None:
    """A request behind another waits in the queue for the rest of its micro-batch."""
    batcher = await started(TimedEngine())
    first = asyncio.create_task(batcher.embed(items(256), HOUR))
    await asyncio.sleep(0.1)
    ran = await batcher.embed(items(64), HOUR)
    assert ran.queue_s == pytest.approx(0.156)
    assert ran.engine_s == pytest.approx(0.064)
    await first


@in_virtual_time
async def test_a_query_does_not_starve_behind_large_requests() -> None:
    """32 x 512 tokens without pause on two streams: a query waits for one running micro-batch at most, then runs."""
    engine = TimedEngine(streams=2, shape=WHOLE_CHUNKS)
    batcher = await started(engine, QueueSettings(max_tokens=10**6, max_wait_ms=60_000))
    ended = []

    async def bulk() -> None:
        while now() < 60:
            await batcher.embed(items(*[512] * 32), HOUR)
            ended.append(now())

    clients = [asyncio.create_task(bulk()) for _ in range(4)]
    waits = []
    for number in range(50):
        await asyncio.sleep(1.0 + 0.0137 * number)
        begun = now()
        await batcher.embed(items(20), HOUR)
        waits.append(now() - begun)
    assert max(waits) <= engine.seconds(1024) + engine.seconds(20) + 1e-9
    await asyncio.gather(*clients)
    # The queries cost next to nothing, so the large requests go on at the engine's speed: 2 x 1000 tokens a second.
    assert len(ended) * 32 * 512 == pytest.approx(2000 * ended[-1], rel=0.05)


@in_virtual_time
async def test_a_large_request_does_not_starve_behind_queries() -> None:
    """With more queries than the engine can do, a quarter of its work is still that of the oldest request."""
    engine = TimedEngine()
    batcher = await started(engine)
    flood = [asyncio.create_task(batcher.embed(items(16), 1000)) for _ in range(1500)]
    large = asyncio.create_task(batcher.embed(items(*[128] * 16), 1000))
    more = []
    while not large.done():
        more += [asyncio.create_task(batcher.embed(items(16), 1000)) for _ in range(16)]
        await asyncio.sleep(0.256)
    before = 1500 * 16 + 2048
    assert now() <= (4 * before + 5 * 256) / 1000
    assert any(not task.done() for task in more)
    for task in (*flood, *more):
        task.cancel()


@in_virtual_time
async def test_too_many_large_requests_do_not_all_miss_their_deadline() -> None:
    """Of eight that need 65 s and have 40 s, the four for which there is time are answered."""
    batcher = await started(TimedEngine(streams=2, shape=WHOLE_CHUNKS))
    requests = [batcher.embed(items(*[512] * 32), 40.0) for _ in range(8)]
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Ran] * 4 + [DeadlineExceeded] * 4


@in_virtual_time
async def test_items_over_the_budget_do_not_close_the_engine() -> None:
    """While two items of 8,000 tokens hold both streams for seconds, a query goes in between their pieces."""
    engine = TimedEngine(streams=2)
    batcher = await started(engine)
    long = [asyncio.create_task(batcher.embed(items(8000), HOUR)) for _ in range(3)]
    await asyncio.sleep(0.3)
    for _ in range(3):
        begun = now()
        await batcher.embed(items(16), HOUR)
        assert now() - begun <= engine.seconds(256) + engine.seconds(16) + 1e-9
    assert not any(task.done() for task in long)
    assert len(engine.begun) == 2 + 3
    await asyncio.gather(*long)


@in_virtual_time
async def test_keys_have_equal_shares() -> None:
    """A client with ten requests under one key and one with one under another get alternate turns."""
    engine = TimedEngine(shape=WHOLE_CHUNKS)
    batcher = await started(engine)
    many = [asyncio.create_task(batcher.embed(items(*[512] * 8), HOUR, key="many")) for _ in range(10)]
    await asyncio.sleep(0.1)
    await batcher.embed(items(*[512] * 8), HOUR, key="one")
    assert now() <= 9 * engine.seconds(1024) + 1e-9
    await asyncio.gather(*many)


@in_virtual_time
async def test_a_full_room_refuses_at_once() -> None:
    """Over the bound the answer is Overloaded without any wait; what was accepted before is not disturbed."""
    batcher = await started(TimedEngine(), QueueSettings(max_tokens=300))
    running = asyncio.create_task(batcher.embed(items(256), HOUR))
    await asyncio.sleep(0.1)
    waiting = asyncio.create_task(batcher.embed(items(200), HOUR))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await batcher.embed(items(101), HOUR)
    assert now() == 0.1
    await asyncio.gather(running, waiting)


@in_virtual_time
async def test_depth_counts_what_waits_and_what_runs() -> None:
    """Tokens and requests in the room, micro-batches in the engine."""
    batcher = await started(TimedEngine(streams=2))
    tasks = [asyncio.create_task(batcher.embed(items(*[256] * 4), HOUR)) for _ in range(3)]
    await asyncio.sleep(0.1)
    assert batcher.depth == Depth(tokens=(3 * 4 - 2) * 256, requests=3, running=2)
    await asyncio.gather(*tasks)
    assert batcher.depth == Depth(0, 0, 0)


@in_virtual_time
async def test_work_of_a_client_who_left_is_dropped() -> None:
    """Cancelling takes the waiting items out; only what was in the engine has been paid for."""
    engine = TimedEngine()
    batcher = await started(engine)
    task = asyncio.create_task(batcher.embed(items(*[256] * 5), HOUR))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait([task])
    assert batcher.depth == Depth(0, 0, 1)
    await batcher.embed(items(16), HOUR)
    assert [sizes for _, sizes in engine.begun] == [(256,), (16,)]


@in_virtual_time
async def test_a_request_without_items_has_no_vectors() -> None:
    """Nothing to do is done at once."""
    engine = TimedEngine()
    ran = await (await started(engine)).embed([], HOUR)
    assert ran.vectors.shape == (0, 4)
    assert engine.begun == []


@in_virtual_time
async def test_before_the_start_nothing_is_accepted() -> None:
    """A batcher that has not been started refuses, and is not healthy."""
    batcher = Batcher(TimedEngine(), QueueSettings())
    with pytest.raises(Overloaded):
        await batcher.embed(items(1), HOUR)
    assert not batcher.healthy


@in_virtual_time
async def test_stopping_lets_the_work_inside_end() -> None:
    """What was accepted is finished, what comes after is refused, and the engine is closed once at the end."""
    engine = TimedEngine()
    batcher = await started(engine)
    request = items(*[256] * 4)
    inside = asyncio.create_task(batcher.embed(request, HOUR))
    await asyncio.sleep(0.1)
    stopping = asyncio.create_task(batcher.stop(grace_s=10))
    await asyncio.sleep(0.1)
    with pytest.raises(Overloaded):
        await batcher.embed(items(1), HOUR)
    assert right(await inside, request)
    await stopping
    assert now() == pytest.approx(4 * 0.256)
    assert engine.closed == 1
    assert not batcher.healthy


@in_virtual_time
async def test_stopping_fails_what_the_grace_does_not_suffice_for() -> None:
    """After the grace the rest is refused, waiting or running, and the engine is closed with nothing in it."""
    engine = TimedEngine()
    batcher = await started(engine)
    inside = [asyncio.create_task(batcher.embed(items(*[256] * 4), HOUR)) for _ in range(2)]
    await asyncio.sleep(0)
    await batcher.stop(grace_s=1.5)
    assert now() == 1.5
    outcomes = await asyncio.gather(*inside, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Ran, Overloaded]
    assert engine.closed == 1
    assert len(asyncio.all_tasks()) == 1


@in_virtual_time
async def test_stopping_when_idle_takes_no_time() -> None:
    """Without work there is nothing to wait for."""
    engine = TimedEngine()
    await (await started(engine)).stop(grace_s=10)
    assert (now(), engine.closed) == (0.0, 1)


@in_virtual_time
async def test_nothing_is_left_behind() -> None:
    """Once a request has ended no task, no timer and nothing else holds on to its items, though its deadline is far."""
    batcher = await started(TimedEngine(streams=2))
    for _ in range(3):
        requests = [items(5) for _ in range(100)]
        held = [weakref.ref(request[0].ids) for request in requests]
        await asyncio.gather(*[batcher.embed(request, HOUR) for request in requests])
        requests.clear()
        gc.collect()
        assert not any(reference() is not None for reference in held)
        assert len(asyncio.all_tasks()) == 1
