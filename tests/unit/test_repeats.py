"""Equal items are computed once; each still has the right vector, its own time and its own place."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quartzite.batching.cache import Reuse
from quartzite.batching.repeats import Repeats, is_sooner
from quartzite.batching.worker import Batcher, Depth, Ran
from quartzite.config import QueueSettings
from quartzite.domain import Encoded
from quartzite.engines.base import MicroBatchShape
from quartzite.errors import DeadlineExceeded
from simulation import Noting, TimedEngine, in_virtual_time, now, started, text, vector_of

HOUR = 3600.0
WHOLE_CHUNKS = MicroBatchShape(1024, 64, (16, 32, 64, 128, 256, 512, 1024))


def right(ran: Ran, request: Sequence[Encoded]) -> bool:
    return np.array_equal(ran.vectors, np.stack([vector_of(item) for item in request]))


def texts(*numbers: int, tokens: int = 16) -> list[Encoded]:
    return [item for number in numbers for item in text(number, tokens)]


async def ask(batcher: Batcher, request: list[Encoded], after_s: float = 0.0, key: object = None) -> float:
    """Ask after so many seconds, look at the answer, and return how long it took."""
    await asyncio.sleep(after_s)
    begun = now()
    ran = await batcher.embed(request, begun + HOUR, key)
    assert right(ran, request)
    assert ran.queue_s + ran.engine_s == pytest.approx(now() - begun)
    return now() - begun


@in_virtual_time
async def test_equal_items_of_the_same_moment_are_computed_once() -> None:
    """Eight times one text and two others make a micro-batch of three items, which tells of seven repeats."""
    engine, noting = TimedEngine(), Noting()
    batcher = await started(engine, observer=noting)
    await asyncio.gather(*[ask(batcher, texts(number)) for number in (1, 2, 1, 1, 3, 1, 1, 1, 1, 1)])
    assert engine.begun == [(0.0, (16, 16, 16))]
    assert [(run.items, run.tokens, run.repeats) for run in noting.runs] == [(3, 48, 7)]


@in_virtual_time
async def test_equal_items_of_one_request_are_computed_once() -> None:
    """Each place of the list has its vector."""
    engine = TimedEngine()
    await ask(await started(engine), texts(1, 2, 1, 3, 2, 1))
    assert engine.begun == [(0.0, (16, 16, 16))]


@in_virtual_time
async def test_an_item_that_comes_while_an_equal_one_is_computed_shares_its_vector() -> None:
    """It waits for the rest of that micro-batch, which counts as time in the engine, and costs it nothing."""
    engine = TimedEngine()
    batcher = await started(engine)
    first = asyncio.create_task(ask(batcher, texts(1, tokens=64)))
    await asyncio.sleep(0.024)
    ran = await batcher.embed(texts(1, tokens=64), HOUR)
    assert right(ran, texts(1, tokens=64))
    assert (ran.queue_s, ran.engine_s) == (0, pytest.approx(0.040))
    assert await first == pytest.approx(0.064)
    assert len(engine.begun) == 1


@in_virtual_time
async def test_items_that_wait_go_with_the_first_of_them_whose_turn_it_is() -> None:
    """Two accounts wait for one text, among others: it runs once, in the place of the first."""
    engine = TimedEngine()
    batcher = await started(engine)
    running = asyncio.create_task(ask(batcher, texts(0, tokens=256)))
    await asyncio.sleep(0.1)
    many = [asyncio.create_task(ask(batcher, texts(9, *range(20, 35)), key="a")) for _ in range(2)]
    one = asyncio.create_task(ask(batcher, texts(9), key="b"))
    await asyncio.gather(running, one, *many)
    assert sum(len(sizes) for _, sizes in engine.begun) == 1 + 1 + 15


@in_virtual_time
async def test_two_equal_lists_that_wait_cost_as_much_as_one() -> None:
    """What the second has in common with the first is passed over when its turn comes."""
    engine = TimedEngine()
    batcher = await started(engine)
    running = asyncio.create_task(ask(batcher, texts(0, tokens=256)))
    await asyncio.sleep(0.1)
    lists = [asyncio.create_task(ask(batcher, texts(*range(1, 11), tokens=100))) for _ in range(2)]
    await asyncio.gather(running, *lists)
    assert sum(len(sizes) for _, sizes in engine.begun) == 1 + 10
    assert batcher.depth == Depth(0, 0, 0)


@in_virtual_time
async def test_an_item_is_computed_for_itself_where_that_is_sooner() -> None:
    """An equal one has just begun in a long micro-batch, and a stream is idle."""
    engine = TimedEngine(streams=2, shape=WHOLE_CHUNKS)
    batcher = await started(engine)
    bulk = asyncio.create_task(ask(batcher, texts(1) + texts(2, tokens=1000)))
    assert await ask(batcher, texts(1), after_s=0.01) == pytest.approx(0.016)
    await bulk


@in_virtual_time
async def test_an_item_that_waits_does_not_go_with_a_micro_batch_that_takes_longer() -> None:
    """Both streams are busy; the other is free soon, and then the query runs, though its text is in the long one."""
    engine = TimedEngine(streams=2, shape=WHOLE_CHUNKS)
    batcher = await started(engine)
    others = [asyncio.create_task(ask(batcher, texts(number, tokens=512))) for number in (1, 2)]
    bulk = asyncio.create_task(ask(batcher, texts(9) + texts(3, tokens=1000), 0.1, "bulk"))
    took = await ask(batcher, texts(9), after_s=0.2, key="query")
    assert took == pytest.approx(0.312 + 0.016)
    await asyncio.gather(bulk, *others)


@in_virtual_time
async def test_items_are_computed_one_by_one_where_sharing_was_forbidden_or_they_are_not_compared() -> None:
    """Equal ids alone do not count, nor equal fingerprints in a batcher that does not share."""
    for sharing, item in ((True, Encoded(texts(1)[0].ids)), (False, texts(1)[0])):
        engine = TimedEngine()
        batcher = await started(engine, reuse=Reuse(sharing))
        await asyncio.gather(*[ask(batcher, [item]) for _ in range(3)])
        assert [sizes for _, sizes in engine.begun] == [(16, 16, 16)]


@in_virtual_time
async def test_who_shares_has_a_deadline_of_its_own() -> None:
    """The one with less time is told in its time, the others get the vector, whoever was first."""
    for first_s, second_s in ((0.05, HOUR), (HOUR, 0.05)):
        engine = TimedEngine()
        batcher = await started(engine)
        begun = now()
        asked = [batcher.embed(texts(1, tokens=200), begun + given_s) for given_s in (first_s, second_s)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        expired, answered = sorted(outcomes, key=lambda outcome: isinstance(outcome, Ran))
        assert isinstance(expired, DeadlineExceeded)
        assert isinstance(answered, Ran)
        assert len(engine.begun) == 1


@in_virtual_time
async def test_a_client_that_leaves_takes_nothing_from_those_that_share() -> None:
    """Whether its item is in the engine or waits, the others get the vector, in one computation."""
    for before_s in (0.0, 0.1):
        engine = TimedEngine()
        batcher = await started(engine)
        running = asyncio.create_task(ask(batcher, texts(0, tokens=256))) if before_s else None
        await asyncio.sleep(before_s)
        leaving, staying = (asyncio.create_task(ask(batcher, texts(1, tokens=100))) for _ in range(2))
        await asyncio.sleep(0.01)
        leaving.cancel()
        await staying
        assert leaving.cancelled()
        assert [sizes for _, sizes in engine.begun].count((100,)) == 1
        if running:
            await running


def test_those_that_wait_are_found_until_they_wait_no_more() -> None:
    """In the order they came; those without a fingerprint never; nothing is kept of what has gone."""
    repeats: Repeats[str] = Repeats()
    for request in ("a", "b", "c"):
        repeats.add(b"x", (request, 0))
    repeats.add(b"", ("d", 0))
    repeats.remove(b"x", ("b", 0))
    repeats.remove(b"x", ("b", 0))
    repeats.remove(b"y", ("a", 0))
    assert repeats.equal(b"x") == (("a", 0), ("c", 0))
    assert repeats.equal(b"") == repeats.equal(b"y") == ()
    repeats.remove(b"x", ("a", 0))
    repeats.remove(b"x", ("c", 0))
    assert len(repeats) == 0


def test_waiting_for_an_equal_one_is_weighed_against_running_alone() -> None:
    """With a stream idle twice its own work is the limit; else what would be waited for comes on top."""
    assert is_sooner(left=32, free_in=0, work=16, row=16)
    assert not is_sooner(left=33, free_in=0, work=16, row=16)
    assert is_sooner(left=256, free_in=224, work=16, row=16)
    assert is_sooner(left=256, free_in=0, work=128, row=16)


requests = st.tuples(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, 40, 200, 700])), min_size=1, max_size=6),
    st.floats(0, 2),  # comes after so many seconds
    st.sampled_from(["a", "b", None]),
    st.none() | st.floats(0, 1),  # after which its client leaves
)


@settings(deadline=None, max_examples=100)
@given(st.lists(requests, min_size=1, max_size=15), st.integers(1, 3))
@in_virtual_time
async def test_repeats_are_right_whatever_comes_and_goes(
    requests: list[tuple[list[tuple[int, int]], float, str | None, float | None]], streams: int
) -> None:
    """Everybody who stays is answered rightly, and the engine is given no more than what was asked."""
    engine = TimedEngine(streams)
    batcher = await started(engine, QueueSettings(max_wait_ms=10**6))

    async def client(asked: list[tuple[int, int]], after_s: float, key: str | None, leaves_s: float | None) -> None:
        request = [item for number, tokens in asked for item in text(number, tokens)]
        try:
            await asyncio.wait_for(
                ask(batcher, request, after_s, key), None if leaves_s is None else after_s + leaves_s
            )
        except TimeoutError:
            assert leaves_s is not None

    async with asyncio.TaskGroup() as clients:
        for request in requests:
            clients.create_task(client(*request))
    assert sum(len(sizes) for _, sizes in engine.begun) <= sum(len(asked) for asked, *_ in requests)
    assert batcher.depth.tokens == batcher.depth.requests == 0
    await batcher.stop()
