"""Runs of compiled graphs: a result or a failure reaches the event loop, whatever becomes of the caller."""

import asyncio
import threading

import numpy as np
import openvino as ov
import pytest
from openvino import CompiledModel, PartialShape, Type, opset15

from quartzite.engines.openvino.rows import Arrays
from quartzite.engines.openvino.session import CompiledGraph, Spoilt
from quartzite.engines.openvino.turns import Turns


def compiled() -> CompiledModel:
    """A graph that adds its inputs, which fails on rows of different lengths."""
    one, other = (opset15.parameter(PartialShape([-1]), Type.f32, name=name) for name in ("one", "other"))
    return ov.Core().compile_model(ov.Model([opset15.add(one, other)], [one, other], "adding"), "CPU")


class Compiling:
    """Compiles the graph, counts how often, and fails while it is told to."""

    def __init__(self) -> None:
        self.times = 0
        self.fails = False

    def __call__(self) -> CompiledModel:
        self.times += 1
        if self.fails:
            raise RuntimeError("no memory")
        return compiled()


def arrays(one: int, other: int) -> Arrays:
    return {"one": np.ones(one, dtype=np.float32), "other": np.ones(other, dtype=np.float32)}


async def test_a_run_that_openvino_fails_raises_its_words_and_computes_no_more() -> None:
    """OpenVINO tells nobody of a failed run unless asked; the caller is told all the same, and does not hang."""
    run = await CompiledGraph(compiled).take()
    with pytest.raises(RuntimeError, match="mismatch"):
        async with asyncio.timeout(20):
            await run(arrays(3, 2), Turns(1))
    with pytest.raises(Spoilt):
        await run(arrays(3, 3), Turns(1))


async def test_a_run_that_fails_after_others_is_told_too() -> None:
    """The timer that looks for failures is shared by what runs one after the other, and begins anew after it rang."""
    run = await CompiledGraph(compiled).take()
    assert (await run(arrays(3, 3), Turns(1))).tolist() == [2, 2, 2]
    run.check()
    assert (await run(arrays(3, 3), Turns(1))).tolist() == [2, 2, 2]
    with pytest.raises(RuntimeError, match="mismatch"):
        async with asyncio.timeout(20):
            await run(arrays(3, 2), Turns(1))


def test_a_run_that_fails_on_another_event_loop_is_told_too() -> None:
    """A timer of a loop that is gone does not ring any more."""
    run = asyncio.run(CompiledGraph(compiled).take())
    assert asyncio.run(run(arrays(3, 3), Turns(1))).tolist() == [2, 2, 2]
    with pytest.raises(RuntimeError, match="mismatch"):
        asyncio.run(asyncio.wait_for(run(arrays(3, 2), Turns(1)), 20))


async def test_a_run_leaves_what_it_was_given_as_it_is() -> None:
    """What is kept of an input for the next run is a copy, and no run computes what another was given."""
    run = await CompiledGraph(compiled).take()
    first, second = arrays(3, 3), {"one": np.full(3, 5, dtype=np.float32), "other": np.zeros(3, dtype=np.float32)}
    for _ in range(2):
        assert (await run(first, Turns(1))).tolist() == [2, 2, 2]
        assert (await run(second, Turns(1))).tolist() == [5, 5, 5]
        assert (await run(arrays(4, 4), Turns(1))).tolist() == [2] * 4
    assert first["one"].tolist() == [1, 1, 1]
    assert second["one"].tolist() == [5, 5, 5]


async def test_large_inputs_follow_each_other_too() -> None:
    """Those are not copied, and none is written into the one before; a small one after a large one is its own too."""
    run = await CompiledGraph(compiled).take()
    given = [{name: np.full(300_000, value, dtype=np.float32) for name in ("one", "other")} for value in (1, 2, 3)]
    for value, large in enumerate(given, 1):
        assert (await run(large, Turns(1))).tolist() == [2 * value] * 300_000
    assert (await run(arrays(3, 3), Turns(1))).tolist() == [2] * 3
    assert [large["one"][0] for large in given] == [1, 2, 3]


async def test_a_cancelled_caller_waits_until_the_run_is_over() -> None:
    """The request could not be used again before; then the cancellation goes on."""
    run = await CompiledGraph(compiled).take()
    running = asyncio.create_task(run(arrays(1_000_000, 1_000_000), Turns(1)))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await run(arrays(2, 2), Turns(1))).tolist() == [2, 2]


async def test_a_cancelled_caller_of_a_failed_run_is_cancelled() -> None:
    """Neither hangs nor hides the cancellation."""
    run = await CompiledGraph(compiled).take()
    running = asyncio.create_task(run(arrays(3, 2), Turns(1)))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(20):
            await running


class Holding:
    """Has a turn until `turns.end` is called with it, and notes on which thread it began."""

    thread = 0

    def begin(self) -> None:
        self.thread = threading.get_ident()


async def test_a_run_begins_when_another_ends_without_the_event_loop() -> None:
    """The thread that computed the one begins the next, so that no core waits for a busy event loop."""
    graph, turns, before, after = CompiledGraph(compiled), Turns(1), Holding(), Holding()
    turns.take(before)
    running = asyncio.create_task((await graph.take())(arrays(3, 3), turns))
    await asyncio.sleep(0)
    turns.take(after)
    assert after.thread == 0
    turns.end(before)
    assert (await running).tolist() == [2, 2, 2]
    assert after.thread not in (0, before.thread)


async def test_what_waits_behind_a_failed_run_of_its_graph_does_not_begin() -> None:
    """Its stream may have shapes of that run; the turn goes on to others."""
    graph, turns, before, after = CompiledGraph(compiled), Turns(1), Holding(), Holding()
    turns.take(before)
    failing, spoilt = [asyncio.create_task((await graph.take())(arrays(3, other), turns)) for other in (2, 3)]
    await asyncio.sleep(0)
    turns.take(after)
    turns.end(before)
    with pytest.raises(RuntimeError, match="mismatch"):
        await failing
    with pytest.raises(Spoilt):
        await spoilt
    assert after.thread != 0


async def test_a_cancelled_caller_that_waits_for_its_turn_leaves_at_once() -> None:
    """Nothing of its is computed, and its request can be used again."""
    turns, before, after = Turns(1), Holding(), Holding()
    run = await CompiledGraph(compiled).take()
    turns.take(before)
    running = asyncio.create_task(run(arrays(3, 3), turns))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    turns.end(before)
    turns.take(after)
    assert after.thread == before.thread
    assert (await run(arrays(2, 2), Turns(1))).tolist() == [2, 2]


async def test_a_request_that_cannot_begin_raises_and_gives_its_turn_back() -> None:
    """OpenVINO refuses at once where a request is busy, and tells nobody else of it."""
    turns, after = Turns(1), Holding()
    run = await CompiledGraph(compiled).take()
    busy = arrays(10_000_000, 10_000_000)
    run.start(busy)
    with pytest.raises(RuntimeError, match="busy"):
        await run({}, turns)
    turns.take(after)
    assert after.thread != 0
    run.wait()


async def fail(graph: CompiledGraph) -> None:
    """Have a run of `graph` fail."""
    run = await graph.take()
    with pytest.raises(RuntimeError, match="mismatch"):
        await run(arrays(3, 2), Turns(1))
    graph.give_back(run)


async def test_after_a_failed_run_the_graph_is_compiled_anew_once() -> None:
    """What the failed run left behind cannot reach the vectors of others; runs that end well change nothing."""
    compiling = Compiling()
    graph = CompiledGraph(compiling)
    graph.give_back(await graph.take())
    assert compiling.times == 1
    await fail(graph)
    runs = await asyncio.gather(graph.take(), graph.take())
    assert compiling.times == 2
    assert [(await run(arrays(length, length), Turns(1))).tolist() for length, run in enumerate(runs, 3)] == [
        [2] * 3,
        [2] * 4,
    ]


async def test_a_graph_is_compiled_anew_when_the_old_one_is_out_of_use() -> None:
    """The packed weights of both may not fit into memory; who waits in vain and leaves holds up nobody."""
    compiling = Compiling()
    graph = CompiledGraph(compiling)
    other = await graph.take()
    await fail(graph)
    gone, waiting = (asyncio.create_task(graph.take()) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    assert (compiling.times, waiting.done()) == (1, False)
    graph.give_back(other)
    run = await waiting
    assert compiling.times == 2
    assert run is not other


async def test_a_graph_that_cannot_be_compiled_anew_is_tried_again() -> None:
    """Its run fails with OpenVINO's words; the next one has another chance."""
    compiling = Compiling()
    graph = CompiledGraph(compiling)
    await fail(graph)
    compiling.fails = True
    with pytest.raises(RuntimeError, match="no memory"):
        await graph.take()
    compiling.fails = False
    assert (await (await graph.take())(arrays(2, 2), Turns(1))).tolist() == [2, 2]


async def test_a_run_that_fails_after_its_caller_has_left_counts_too() -> None:
    """The failure is seen while the cancelled caller waits for the run's end."""
    compiling = Compiling()
    graph = CompiledGraph(compiling)
    run = await graph.take()
    running = asyncio.create_task(run(arrays(3, 2), Turns(1)))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    graph.give_back(run)
    await graph.take()
    assert compiling.times == 2
