"""Compiled graphs and the runs on them: which graph takes which row length, and results handed to the event loop."""

import asyncio
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from quartzite.domain import Vectors
from quartzite.engines.blocks import Layout
from quartzite.engines.openvino.rows import Arrays

Build = Callable[[tuple[int, int] | None], ov.Model]
FAILURE_CHECK_S = 0.2
"""How often a run under way is asked whether it has failed: OpenVINO calls back only where it has not."""

COPIED_BYTES = 1 << 20
"""Larger inputs are not copied: those runs are long, and what they are given is not kept for the next one."""


class CompiledGraph:
    """One compiled graph with the infer requests made on it so far.

    A run that fails may leave its stream with shapes of that run, which later runs would trip over or take for theirs:
    no run begins before the graph has then been compiled anew.
    """

    def __init__(self, compile_: Callable[[], Any]) -> None:
        self._compile = compile_
        self._compiled = compile_()
        self._idle: list[Run] = []
        self._taken: set[Run] = set()
        self._spoilt = False
        self._renewing: asyncio.Task[None] | None = None
        self._returned: asyncio.Future[None] | None = None

    async def take(self) -> "Run":
        """Return an idle run, or a new one; give it back with `give_back`.

        Raises RuntimeError with OpenVINO's words when the graph had to be compiled anew and could not.
        """
        while self._spoilt:
            if self._renewing is None:
                self._renewing = asyncio.create_task(self._renew())
            await asyncio.shield(self._renewing)
        return self._take()

    def give_back(self, run: "Run") -> None:
        """Make `run` available again."""
        self._taken.remove(run)
        self._spoilt = self._spoilt or run.failed
        self._idle.append(run)
        if self._returned and not (self._taken or self._returned.done()):
            self._returned.set_result(None)

    def prime(self, arrays: Arrays, streams: int) -> None:
        """Compute `arrays` once on every stream: the first run packs the weights, which can take half a minute."""
        runs = [self._take() for _ in range(streams)]
        for run in runs:
            run.start(arrays)
        for run in runs:
            run.wait()
            self.give_back(run)

    def _take(self) -> "Run":
        run = self._idle.pop() if self._idle else Run(self._compiled.create_infer_request())
        self._taken.add(run)
        return run

    async def _renew(self) -> None:
        """Compile the graph anew once the old one is out of use and gone: there may be no memory for both."""
        try:
            if self._taken:
                self._returned = asyncio.get_running_loop().create_future()
                await self._returned
            self._idle.clear()
            self._compiled = None
            self._compiled = await asyncio.to_thread(self._compile)
            self._spoilt = False
        finally:
            self._renewing = self._returned = None


class Run:
    """One infer request: takes arrays, computes on a stream's thread, wakes the event loop with the result.

    Runs that follow each other share the timer that looks for failures: one for each would cost more than the look.
    """

    def __init__(self, request: Any) -> None:
        self._request = request
        # OpenVINO keeps what it is given out of the garbage collector's sight: a run that it held would never end.
        self._request.set_callback(_finished, weakref.ref(self))
        self._bound: dict[str, NDArray[np.generic]] = {}
        self._is_stateful = bool(request.query_state())
        self.failed = False
        self._is_over = True
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._check: asyncio.TimerHandle | None = None

    async def __call__(self, arrays: Arrays) -> Vectors:
        """Return a copy of the graph's output for `arrays`; raises RuntimeError with OpenVINO's words when it fails."""
        self._loop = asyncio.get_running_loop()
        self.start(arrays)
        self._is_over = False
        # The request must not be used again before it has finished, so a cancelled caller still waits for it here.
        await self._uninterrupted(self._loop)
        self.wait()
        return np.array(self._request.get_output_tensor(0).data)

    def start(self, arrays: Arrays) -> None:
        """Begin to compute `arrays`, which must not change until it is done."""
        for name, array in arrays.items():
            self._put(name, array)
        self._request.start_async()

    def _put(self, name: str, array: NDArray[np.generic]) -> None:
        """Write `array` into the tensor that the request has for the input `name`, or give it one.

        Tensors stay with the request: to be given new ones takes OpenVINO longer than to copy what short rows need.
        """
        bound = self._bound.get(name)
        if bound is not None and bound.shape == array.shape and array.nbytes <= COPIED_BYTES:
            np.copyto(bound, array)
            return
        bound = array.copy() if array.nbytes <= COPIED_BYTES else np.ascontiguousarray(array)
        self._request.set_tensor(name, ov.Tensor(bound, shared_memory=True))
        self._bound[name] = bound

    def wait(self) -> None:
        """Wait until it is done; raises RuntimeError with OpenVINO's words when it failed."""
        try:
            self._request.wait()
        except RuntimeError:
            self.failed = True
            raise

    def forget(self) -> None:
        """Empty the state that earlier pieces of an item left."""
        if self._is_stateful:
            self._request.reset_state()

    def _has_failed(self) -> bool:
        try:
            self._request.wait_for(0)
        except RuntimeError:
            self.failed = True
        return self.failed

    async def _uninterrupted(self, loop: asyncio.AbstractEventLoop) -> None:
        cancelled: asyncio.CancelledError | None = None
        if self._check is None:
            self._check = loop.call_later(FAILURE_CHECK_S, _check, weakref.ref(self))
        while not self._is_over:
            self._waiting = loop.create_future()
            try:
                await self._waiting
            except asyncio.CancelledError as error:
                cancelled = error
        self._waiting = None
        if cancelled:
            raise cancelled

    def check(self) -> None:
        """Look whether it has failed if it is under way, and look again later; else do so no more."""
        self._check = None
        if self._is_over or self._loop is None:
            return
        if self._has_failed():
            self.end()
        else:
            self._check = self._loop.call_later(FAILURE_CHECK_S, _check, weakref.ref(self))

    def end(self) -> None:
        """Note on the event loop that it is done or has failed, and wake who waits for it."""
        self._is_over = True
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)

    def tell(self) -> None:
        """Have the event loop on which the result is waited for note that it is there; on any thread."""
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.end)


def _finished(run: "weakref.ref[Run]") -> None:
    if alive := run():
        alive.tell()


def _check(run: "weakref.ref[Run]") -> None:
    if alive := run():
        alive.check()


class Graphs:
    """The graphs of one model: one for all rows, and graphs of their own for rows of the grids `apart`.

    A graph of its own is faster for full rows, but holds packed weights of its own: shorter ones share one. A grid is
    the number of blocks and their length; an undivided row is one block. Graphs `apart` are compiled by `warm`; until
    then all rows take the shared one.
    """

    def __init__(self, compile_: Callable[[ov.Model], Any], build: Build, apart: Sequence[tuple[int, int]]) -> None:
        self._compile = compile_
        self._build = build
        self._apart = tuple(apart)
        self._by_grid: Mapping[tuple[int, int], CompiledGraph] = {}
        self.all_rows = self._compiled(None)

    def warm(self) -> None:
        """Compile the graphs that are apart; called on a thread of its own."""
        for grid in self._apart:
            added = self._compiled(grid)
            self._by_grid = {**self._by_grid, grid: added}

    def for_row(self, layout: Layout) -> CompiledGraph:
        """Return the cheapest graph for a row with that `layout`."""
        return self._by_grid.get(layout.grid, self.all_rows)

    def close(self) -> None:
        """Let go of all graphs and of the weights that they were built from."""
        self._by_grid = {}
        del self.all_rows, self._build

    def _compiled(self, grid: tuple[int, int] | None) -> CompiledGraph:
        return CompiledGraph(lambda: self._compile(self._build(grid)))
