"""Whatever the engine or the scheduler does, every accepted request ends, and those not concerned get their vectors."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quartzite.batching.policy import Policy
from quartzite.batching.waiting import Ticket
from quartzite.batching.worker import LAST_CALL_S, Depth, Ran
from quartzite.domain import Encoded, Vectors
from quartzite.errors import DeadlineExceeded, EngineFault, Overloaded
from simulation import TimedEngine, in_virtual_time, items, now, started, vector_of

HOUR = 3600.0
BAD = 13
"""Items of so many tokens are what the engine chokes on."""


def has_bad(batch: Sequence[Encoded]) -> bool:
    return any(item.tokens == BAD for item in batch)


def raising(error: BaseException) -> Callable[[Sequence[Encoded], Vectors], Vectors]:
    def spoil(batch: Sequence[Encoded], vectors: Vectors) -> Vectors:
        if has_bad(batch):
            raise error
        return vectors

    return spoil


def answering(wrong: Callable[[Vectors], Any]) -> Callable[[Sequence[Encoded], Vectors], Any]:
    return lambda batch, vectors: wrong(vectors) if has_bad(batch) else vectors


async def outcomes(*requests: Any) -> list[Any]:
    return await asyncio.gather(*requests, return_exceptions=True)


WHOLLY_WRONG = {
    "raises": raising(RuntimeError("out of memory")),
    "is cancelled": raising(asyncio.CancelledError()),
    "one row too few": answering(lambda vectors: vectors[1:]),
    "one row too many": answering(lambda vectors: np.concatenate([vectors, vectors[:1]])),
    "wrong dimensions": answering(lambda vectors: vectors[:, 1:]),
    "flat": answering(lambda vectors: vectors.ravel()),
    "float64": answering(lambda vectors: vectors.astype(np.float64)),
    "a list": answering(lambda vectors: vectors.tolist()),
    "nothing": answering(lambda vectors: None),
}


@pytest.mark.parametrize("spoil", WHOLLY_WRONG.values(), ids=WHOLLY_WRONG)
@in_virtual_time
async def test_a_failed_micro_batch_fails_the_requests_in_it_and_no_others(spoil: Callable[..., Any]) -> None:
    """Those that had items in it get EngineFault, those before and after it their vectors; the batcher goes on."""
    engine = TimedEngine(spoil=spoil)
    batcher = await started(engine)
    before = await batcher.embed(items(20), HOUR)
    concerned = await outcomes(batcher.embed(items(BAD), HOUR), batcher.embed(items(3), HOUR))
    after = await batcher.embed(items(40), HOUR)
    assert [type(outcome) for outcome in concerned] == [EngineFault, EngineFault]
    assert np.array_equal(before.vectors[0], vector_of(items(20)[0]))
    assert np.array_equal(after.vectors[0], vector_of(items(40)[0]))
    assert batcher.healthy
    assert batcher.depth == Depth(0, 0, 0)


@in_virtual_time
async def test_the_cause_is_logged_and_kept_and_names_no_content(caplog: pytest.LogCaptureFixture) -> None:
    """The operator learns what the engine said; the client's message stays the documented one."""
    batcher = await started(TimedEngine(spoil=raising(RuntimeError("out of memory"))))
    (fault,) = await outcomes(batcher.embed(items(BAD), HOUR))
    assert isinstance(fault.__cause__, RuntimeError)
    assert "out of memory" not in fault.message
    assert "out of memory" in caplog.text


@in_virtual_time
async def test_a_failed_request_drops_what_still_waits_of_it() -> None:
    """Two of five micro-batches run, the second fails, and the other three are never given to the engine."""
    calls = 0

    def fail_second(_: Sequence[Encoded], vectors: Vectors) -> Vectors:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError
        return vectors

    engine = TimedEngine(spoil=fail_second)
    batcher = await started(engine)
    (fault,) = await outcomes(batcher.embed(items(*[256] * 5), HOUR))
    assert isinstance(fault, EngineFault)
    assert len(engine.begun) == 2
    assert batcher.depth == Depth(0, 0, 0)


@in_virtual_time
async def test_the_other_micro_batches_of_a_failed_request_end_unheard() -> None:
    """When one stream fails a request, what the other stream brings of it later changes nothing."""
    engine = TimedEngine(streams=2, spoil=raising(RuntimeError()))
    batcher = await started(engine)
    (fault,) = await outcomes(batcher.embed(items(BAD, 256), HOUR))
    assert isinstance(fault, EngineFault)
    assert batcher.depth.running == 1
    await batcher.embed(items(16), HOUR)
    assert batcher.healthy


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@in_virtual_time
async def test_a_vector_that_is_not_finite_fails_its_request_alone(value: float) -> None:
    """Of several requests in a micro-batch only that of the faulty item fails, with all its items."""

    def spoil(batch: Sequence[Encoded], vectors: Vectors) -> Vectors:
        vectors[[item.tokens == BAD for item in batch], 2] = value
        return vectors

    engine = TimedEngine(spoil=spoil)
    batcher = await started(engine)
    good = [batcher.embed(items(size), HOUR) for size in (10, 20)]
    first, faulty, second = await outcomes(good[0], batcher.embed(items(BAD, 7), HOUR), good[1])
    assert len(engine.begun) == 1
    assert isinstance(faulty, EngineFault)
    assert np.array_equal(first.vectors[0], vector_of(items(10)[0]))
    assert np.array_equal(second.vectors[0], vector_of(items(20)[0]))


@in_virtual_time
async def test_an_engine_that_never_returns_costs_a_stream_and_no_request_hangs() -> None:
    """The requests inside end at their deadline; the other stream goes on, and the batcher stays healthy."""
    engine = TimedEngine(streams=2, stuck_on=BAD)
    batcher = await started(engine)
    (expired,) = await outcomes(batcher.embed(items(BAD), 3))
    assert isinstance(expired, DeadlineExceeded)
    assert now() == 3
    await asyncio.gather(*[batcher.embed(items(256), HOUR) for _ in range(4)])
    assert now() == pytest.approx(3 + 4 * 0.256)
    assert batcher.depth.running == 1
    assert batcher.healthy


@in_virtual_time
async def test_a_batcher_whose_streams_are_all_lost_is_not_healthy() -> None:
    """It still ends every request at its deadline, and it is healthy again should the engine come back."""
    engine = TimedEngine(stuck_on=BAD)
    batcher = await started(engine)
    asyncio.get_running_loop().call_later(9, engine.free)
    (inside,) = await outcomes(batcher.embed(items(BAD), 2))
    assert batcher.healthy
    (waiting,) = await outcomes(batcher.embed(items(20), 5))
    assert isinstance(inside, DeadlineExceeded)
    assert isinstance(waiting, DeadlineExceeded)
    assert now() == 5
    assert not batcher.healthy
    await batcher.embed(items(20), HOUR)
    assert batcher.healthy


@in_virtual_time
async def test_a_slow_engine_is_no_lost_one() -> None:
    """A micro-batch that outlasts its requests because they had waited long does not turn the batcher unhealthy."""
    batcher = await started(TimedEngine())
    running = asyncio.create_task(batcher.embed(items(256), HOUR))
    await asyncio.sleep(0)
    (late,) = await outcomes(batcher.embed(items(200), 0.3))
    assert isinstance(late, DeadlineExceeded)
    await asyncio.sleep(0.1)
    assert batcher.depth.running == 1
    assert batcher.healthy
    await running


@in_virtual_time
async def test_stopping_does_not_wait_for_ever_for_a_lost_stream() -> None:
    """Grace and last call are bounded, the requests are told, and the engine is closed."""
    engine = TimedEngine(stuck_on=BAD)
    batcher = await started(engine)
    inside = asyncio.create_task(batcher.embed(items(BAD), HOUR))
    waiting = asyncio.create_task(batcher.embed(items(256), HOUR))
    await asyncio.sleep(0)
    await batcher.stop(grace_s=2)
    assert [type(outcome) for outcome in await outcomes(inside, waiting)] == [Overloaded, Overloaded]
    assert (now(), engine.closed) == (2, 1)


@in_virtual_time
async def test_an_engine_deaf_to_cancelling_is_closed_all_the_same() -> None:
    """A micro-batch that goes on after it was cancelled is waited for only so long."""
    engine = TimedEngine(stuck_on=BAD, deaf=True)
    batcher = await started(engine)
    inside = asyncio.create_task(batcher.embed(items(BAD), HOUR))
    await asyncio.sleep(0)
    await batcher.stop(grace_s=2)
    assert [type(outcome) for outcome in await outcomes(inside)] == [Overloaded]
    assert now() == 2 + LAST_CALL_S
    assert engine.closed == 1
    engine.free()
    await asyncio.sleep(1)


@in_virtual_time
async def test_a_stop_that_is_cancelled_still_closes_everything() -> None:
    """A second interrupt during the grace fails what is inside at once and closes the engine."""
    engine = TimedEngine()
    batcher = await started(engine)
    inside = asyncio.create_task(batcher.embed(items(*[256] * 40), HOUR))
    await asyncio.sleep(0)
    stopping = asyncio.create_task(batcher.stop(grace_s=60))
    await asyncio.sleep(1)
    stopping.cancel()
    assert [type(outcome) for outcome in await outcomes(inside, stopping)] == [Overloaded, asyncio.CancelledError]
    assert (now(), engine.closed) == (1, 1)


def broken(*_: object, **__: object) -> NoReturn:
    raise ZeroDivisionError("a bug of the scheduler")


@in_virtual_time
async def test_a_bug_in_the_policy_fails_everything_and_turns_the_batcher_unhealthy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Waiting or running, every request ends with EngineFault at once, later ones do too, and the operator is told."""
    batcher = await started(TimedEngine())
    inside = [asyncio.create_task(batcher.embed(items(256), HOUR)) for _ in range(3)]
    await asyncio.sleep(0.1)
    monkeypatch.setattr(Policy, "choose", broken)
    assert [type(outcome) for outcome in await outcomes(*inside)] == [EngineFault] * 3
    assert now() == pytest.approx(0.256)
    assert not batcher.healthy
    assert "a bug of the scheduler" in caplog.text
    monkeypatch.undo()
    with pytest.raises(EngineFault):
        await batcher.embed(items(1), HOUR)
    await batcher.stop()


@in_virtual_time
async def test_a_bug_in_handing_out_results_fails_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way back is supervised like the way there."""
    batcher = await started(TimedEngine(streams=2))
    inside = [asyncio.create_task(batcher.embed(items(256), HOUR)) for _ in range(5)]
    monkeypatch.setattr(Ticket, "receive", broken)
    assert [type(outcome) for outcome in await outcomes(*inside)] == [EngineFault] * 5
    assert not batcher.healthy
    await batcher.stop()


@in_virtual_time
async def test_an_engine_that_is_no_engine_fails_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """When `embed` raises instead of returning something to wait for, nobody waits."""
    monkeypatch.setattr(TimedEngine, "embed", broken)
    batcher = await started(TimedEngine())
    assert [type(outcome) for outcome in await outcomes(batcher.embed(items(9), HOUR))] == [EngineFault]
    assert not batcher.healthy


@in_virtual_time
async def test_a_client_may_leave_at_the_moment_its_request_fails() -> None:
    """The failure has been set and not yet heard when the client is gone: nobody complains, nothing is left."""
    soon = asyncio.get_running_loop().call_soon

    def fail_and_leave(*_: object) -> NoReturn:
        soon(soon, leaving.cancel)  # after the failure is set, before the task wakes up
        raise RuntimeError

    batcher = await started(TimedEngine(spoil=fail_and_leave))
    leaving = asyncio.create_task(batcher.embed(items(BAD), HOUR))
    await asyncio.wait([leaving])
    assert leaving.cancelled()
    assert batcher.healthy


requests = st.tuples(
    st.lists(st.sampled_from([1, BAD, 40, 200, 256, 700]), min_size=1, max_size=6),
    st.floats(0, 2),  # comes after so many seconds
    st.floats(0.001, 3),  # and has so many
    st.none() | st.floats(0, 1),  # after which its client leaves
)
faults = st.sampled_from([*WHOLLY_WRONG, "is right", "never returns"])


@settings(deadline=None, max_examples=60)
@given(st.lists(requests, min_size=1, max_size=12), st.integers(1, 3), faults)
@in_virtual_time
async def test_every_accepted_request_ends_in_time(
    requests: list[tuple[list[int], float, float, float | None]], streams: int, fault: str
) -> None:
    """Whatever comes when, and however the engine fails: its right vectors, a documented failure, or the deadline."""
    stuck_on = BAD if fault == "never returns" else -1
    spoil = WHOLLY_WRONG.get(fault, lambda _, vectors: vectors)
    engine = TimedEngine(streams, spoil=spoil, stuck_on=stuck_on)
    batcher = await started(engine)

    async def client(sizes: list[int], after_s: float, allowed_s: float, leaves_s: float | None) -> None:
        await asyncio.sleep(after_s)
        request, begun = items(*sizes), now()
        (outcome,) = await outcomes(asyncio.wait_for(batcher.embed(request, begun + allowed_s), leaves_s))
        assert now() <= begun + allowed_s + 1e-9
        if isinstance(outcome, Ran):
            assert np.array_equal(outcome.vectors, np.stack([vector_of(item) for item in request]))
            assert outcome.queue_s + outcome.engine_s == pytest.approx(now() - begun)
        elif isinstance(outcome, Overloaded):  # too little time for it, which is told at once
            assert now() == begun
        else:
            assert type(outcome) in {DeadlineExceeded, TimeoutError, *([EngineFault] if fault in WHOLLY_WRONG else [])}

    async with asyncio.TaskGroup() as clients:
        for request in requests:
            clients.create_task(client(*request))
    assert batcher.depth.tokens == batcher.depth.requests == 0
    await batcher.stop()
    assert engine.closed == 1
