"""Runs of compiled graphs: a result or a failure reaches the event loop, whatever becomes of the caller."""

import asyncio

import numpy as np
import openvino as ov
import pytest
from openvino import PartialShape, Type, opset15

from quartzite.engines.openvino.rows import Arrays
from quartzite.engines.openvino.session import CompiledGraph


def adding() -> CompiledGraph:
    """A graph that adds its inputs, which fails on rows of different lengths."""
    one, other = (opset15.parameter(PartialShape([-1]), Type.f32, name=name) for name in ("one", "other"))
    return CompiledGraph(ov.Core().compile_model(ov.Model([opset15.add(one, other)], [one, other], "adding"), "CPU"))


def arrays(one: int, other: int) -> Arrays:
    return {"one": np.ones(one, dtype=np.float32), "other": np.ones(other, dtype=np.float32)}


async def test_a_run_that_openvino_fails_raises_its_words_and_can_be_used_again() -> None:
    """OpenVINO tells nobody of a failed run unless asked; the caller is told all the same, and does not hang."""
    run = adding().take()
    with pytest.raises(RuntimeError, match="mismatch"):
        async with asyncio.timeout(20):
            await run(arrays(3, 2))
    assert (await run(arrays(3, 3))).tolist() == [2, 2, 2]


async def test_a_cancelled_caller_waits_until_the_run_is_over() -> None:
    """The request could not be used again before; then the cancellation goes on."""
    run = adding().take()
    running = asyncio.create_task(run(arrays(1_000_000, 1_000_000)))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await run(arrays(2, 2))).tolist() == [2, 2]


async def test_a_cancelled_caller_of_a_failed_run_is_cancelled() -> None:
    """Neither hangs nor hides the cancellation."""
    run = adding().take()
    running = asyncio.create_task(run(arrays(3, 2)))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(20):
            await running
