"""Compiled graphs and the runs on them: which graph takes which row length, and results handed to the event loop."""

import asyncio
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from quartzite.domain import Vectors
from quartzite.engines.blocks import Layout
from quartzite.engines.openvino.caches import Caches
from quartzite.engines.openvino.rows import Arrays
from quartzite.engines.openvino.turns import Turns

Build = Callable[[tuple[int, int] | None], ov.Model]
FAILURE_CHECK_S = 0.2
"""How often a run under way is asked whether it has failed: OpenVINO calls back only where it has not."""

COPIED_BYTES = 1 << 20
"""Larger inputs are not copied: those runs are long, and what they are given is not kept for the next one."""


class Spoilt(RuntimeError):
    """A run did not begin, since one before it has failed on the same graph: it is to be begun anew."""


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
        self._spoilt = threading.Event()
        self._renewing: asyncio.Task[None] | None = None
        self._returned: asyncio.Future[None] | None = None

    async def take(self) -> "Run":
        """Return an idle run, or a new one; give it back with `give_back`.

        Raises RuntimeError with OpenVINO's words when the graph had to be compiled anew and could not.
        """
        while self._spoilt.is_set():
            if self._renewing is None:
                self._renewing = asyncio.create_task(self._renew())
            await asyncio.shield(self._renewing)
        return self._take()

    def give_back(self, run: "Run") -> None:
        """Make `run` available again."""
        self._taken.remove(run)
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
        run = self._idle.pop() if self._idle else Run(self._compiled.create_infer_request(), self._spoilt)
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
            self._spoilt = threading.Event()
        finally:
            self._renewing = self._returned = None


class Run:
    """One infer request: takes arrays, computes on a stream's thread, wakes the event loop with the result.

    Runs that follow each other share the timer that looks for failures: one for each would cost more than the look.
    A run that fails sets `spoilt`, which all runs on its graph have in common.
    """

    def __init__(self, request: Any, spoilt: threading.Event) -> None:
        self._request = request
        self._spoilt = spoilt
        # OpenVINO keeps what it is given out of the garbage collector's sight: a run that it held would never end.
        self._request.set_callback(_finished, weakref.ref(self))
        self._bound: dict[str, NDArray[np.generic]] = {}
        self.caches = Caches(request)
        self._failure: RuntimeError | None = None
        self._is_computing = False
        self._is_over = True
        self._turns: Turns | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._check: asyncio.TimerHandle | None = None

    async def __call__(self, arrays: Arrays, turns: Turns) -> Vectors:
        """Return a copy of the graph's output for `arrays`, computed when `turns` has a turn for it.

        Raises Spoilt when the graph is by then to be compiled anew, RuntimeError with OpenVINO's words when it fails.
        """
        self._put_all(arrays)
        self._failure, self._is_computing, self._is_over = None, False, False
        loop, self._turns = asyncio.get_running_loop(), turns
        if loop is not self._loop:
            self._loop, self._check = loop, None
        turns.take(self)
        # The request must not be used again before it has finished, so a cancelled caller still waits for it here.
        await self._uninterrupted(loop, turns)
        if self._failure:
            raise self._failure
        self.wait()
        return np.array(self._request.get_output_tensor(0).data)

    def begin(self) -> None:
        """Compute what the tensors hold; on any thread."""
        if self._spoilt.is_set():
            self._failure = Spoilt("a run before it has failed")
            self.tell()
            return
        self._is_computing = True
        try:
            self._request.start_async()
        except RuntimeError as error:
            self._fail(error)
            self.tell()

    def start(self, arrays: Arrays) -> None:
        """Begin to compute `arrays`, whoever else does; `wait` for it."""
        self._put_all(arrays)
        self._request.start_async()

    def _put_all(self, arrays: Arrays) -> None:
        self.caches.hold_for(arrays)
        for name, array in arrays.items():
            self._put(name, array)

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
            self._spoilt.set()
            raise

    def _has_failed(self) -> bool:
        if self._is_computing:
            try:
                self._request.wait_for(0)
            except RuntimeError as error:
                self._fail(error)
        return self._failure is not None

    def _fail(self, error: RuntimeError) -> None:
        self._failure = error
        self._spoilt.set()

    async def _uninterrupted(self, loop: asyncio.AbstractEventLoop, turns: Turns) -> None:
        cancelled: asyncio.CancelledError | None = None
        if self._check is None:
            self._check = loop.call_later(FAILURE_CHECK_S, _check, weakref.ref(self))
        while not self._is_over:
            self._waiting = loop.create_future()
            try:
                await self._waiting
            except asyncio.CancelledError as error:
                cancelled = error
                self._is_over = self._is_over or turns.withdraw(self)
        self._waiting = None
        if cancelled:
            raise cancelled

    def check(self) -> None:
        """Look whether it has failed if it is under way, and look again later; else do so no more."""
        self._check = None
        if self._is_over or self._loop is None:
            return
        if self._has_failed():
            self.tell()
        else:
            self._check = self._loop.call_later(FAILURE_CHECK_S, _check, weakref.ref(self))

    def tell(self) -> None:
        """Give the turn to the next run, and have the event loop know that this one is over; on any thread."""
        try:
            if self._turns:
                self._turns.end(self)
        finally:
            if self._loop and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._is_over = True
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)


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
