"""Drives one engine: keeps its streams busy with micro-batches and ends every request that was accepted.

Knows neither whose turn it is nor how items are packed: the waiting room gives out micro-batches.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakMethod

import numpy as np
from numpy.typing import NDArray

from quartzite.batching.cache import COMPUTED_ONCE, Reuse, VectorCache
from quartzite.batching.flights import Flight, Flights
from quartzite.batching.policy import Costs
from quartzite.batching.recovery import Recovery, longer
from quartzite.batching.waiting import Equals, WaitingRoom
from quartzite.config import QueueSettings
from quartzite.domain import Depth, Encoded, MicroBatchRun, ModelHealth, ModelState, Vectors
from quartzite.engines.base import Engine
from quartzite.errors import EngineFault, Overloaded
from quartzite.telemetry.logs import fields

logger = logging.getLogger(__name__)

LAST_CALL_S = 5.0
"""How long a stopping batcher waits for micro-batches it has cancelled, in seconds."""
FAILURES_IN_A_ROW = 3
"""After so many micro-batches without one vector the engine itself is tried: it may be it and not what was asked."""


@dataclass(frozen=True, slots=True, eq=False)
class Ran:
    """The vectors of one request, float32 (B, D) in input order and not normalised, and where its time went.

    `engine_s` is the time in which at least one of its items was in the engine, `queue_s` the rest, in seconds.
    """

    vectors: Vectors
    queue_s: float
    engine_s: float


class Observer(Protocol):
    """Is told what a batcher does, on the event loop and between requests: it must be quick."""

    def ran(self, run: MicroBatchRun) -> None:
        """Hear of a micro-batch that came out of the engine."""

    def restarted(self) -> None:
        """Hear that requests are answered again after the scheduling had failed."""

    def looked_up(self, hits: int, misses: int) -> None:
        """Hear how many items of a request had their vectors in the cache, and how many not."""

    def kept(self, cached_bytes: int, evictions: int) -> None:
        """Hear how much the cache holds, and how many vectors made room for those of a micro-batch."""


class Batcher:
    """Runs the requests for one engine in micro-batches; one object per engine, used on one event loop.

    Micro-batches begin as soon as a stream is idle and anything waits; one with which nothing is left waiting has the
    cores of as many idle streams as the engine can give it. While items over the budget hold all streams, one
    micro-batch more is handed to the engine, which lets it in between their pieces; so is one that is ahead: settled
    while others hold all streams, to begin the moment that one of them ends.

    After a failure of the scheduling every request is refused until the engine has answered a probe; each such failure
    that no answered request lies before doubles the pause, so that a fault that stays does not spin.

    No stream counts as lost before `patience_s`, in seconds, however little time its requests were given. `reuse` says
    what equal items share.
    """

    def __init__(
        self,
        engine: Engine,
        limits: QueueSettings,
        clock: Callable[[], float] = time.monotonic,
        observer: Observer | None = None,
        patience_s: float = 0.0,
        reuse: Reuse = COMPUTED_ONCE,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._observer = observer
        self._patience_s = patience_s
        self._cache = reuse.cache
        self._costs = Costs(engine.shape)
        self._room = WaitingRoom(engine.shape, limits, clock, reuse.sharing)
        self._flights = Flights(self._room, self._costs, engine.streams)
        is_free, sound = _weakly(self._has_free_stream), _weakly(self._is_sound)
        self._recovery = Recovery(engine, is_free, sound, _weakly(self._wake), _weakly(self._resume))
        self._accepting = False
        self._broken = False
        self._woken = False
        self._failures = 0
        self._pause_s = 0.0

    @property
    def healthy(self) -> bool:
        """Whether requests can be answered."""
        return self.health.usable

    @property
    def health(self) -> ModelHealth:
        """How the model is now.

        A stream is lost while a micro-batch has been in the engine for longer than any of its requests was given, and
        for longer than this batcher's patience.
        """
        lost = sum([flight.streams for flight in self._flights if self._is_lost(flight)]) + self._recovery.is_lost
        return ModelHealth(self._state(lost), self._engine.streams, min(lost, self._engine.streams))

    @property
    def depth(self) -> Depth:
        """How much waits and how much runs now."""
        return Depth(self._room.tokens, self._room.requests, len(self._flights))

    async def start(self) -> None:
        """Accept requests from now on."""
        self._accepting = True

    async def stop(self, grace_s: float = 30.0) -> None:
        """Accept no more requests, let those inside end for `grace_s` seconds, fail the rest, close the engine."""
        self._accepting = False
        try:
            if endings := self._room.endings:
                await asyncio.wait(endings, timeout=grace_s)
        finally:
            self._room.fail_all(Overloaded)
            await self._clear_engine()
            self._cache = None
            await self._engine.close()

    def check(self, deadline: float = math.inf) -> None:
        """Raise what any request would be refused with now, before work is done for it: EngineFault or Overloaded."""
        if self._broken:
            raise EngineFault
        if not self._accepting:
            raise Overloaded
        self._room.check(deadline)

    async def embed(self, items: Sequence[Encoded], deadline: float, key: Hashable = None) -> Ran:
        """Return the vectors of `items`; `deadline` is a moment of the clock, and keys have equal shares of the engine.

        Cancelling drops what has not begun. Raises Overloaded when there is no room, DeadlineExceeded at the deadline,
        EngineFault when the engine fails on a micro-batch with one of the items or returns no embedding for it.
        """
        self.check(deadline)
        if not items:
            return Ran(np.empty((0, self._engine.dimensions), dtype=np.float32), 0.0, 0.0)
        if not self._cache:
            return await self._compute(items, deadline, key)
        vectors, missing = self._look_up(self._cache, items)
        if not missing:
            return Ran(vectors, 0.0, 0.0)
        ran = await self._compute([items[place] for place in missing], deadline, key)
        vectors[missing] = ran.vectors
        return Ran(vectors, ran.queue_s, ran.engine_s)

    def _look_up(self, cache: VectorCache, items: Sequence[Encoded]) -> tuple[Vectors, list[int]]:
        """Return the vectors of `items`, float32 (B, D), as far as they are known, and the places of the others."""
        vectors, missing = np.empty((len(items), self._engine.dimensions), dtype=np.float32), []
        for place, item in enumerate(items):
            known = cache.find(item.fingerprint)
            if known is None:
                missing.append(place)
            else:
                vectors[place] = known
        if self._observer:
            self._observer.looked_up(len(items) - len(missing), len(missing))
        return vectors, missing

    async def _compute(self, items: Sequence[Encoded], deadline: float, key: Hashable) -> Ran:
        ticket = self._room.admit(items, deadline, key)
        self._flights.board(ticket, self._idle())
        self._wake()
        try:
            vectors = await ticket.ended
        finally:
            self._room.leave(ticket)
        return Ran(vectors, ticket.queue_s, ticket.engine_s)

    def _wake(self) -> None:
        """Fill the streams once all that is ready now has come in: requests of the same moment share micro-batches."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._fill_streams)

    def _fill_streams(self) -> None:
        self._woken = False
        try:
            while items := self._next():
                self._launch(items)
        except Exception as error:  # noqa: BLE001  whatever it is, nobody may wait for ever
            self._break_down(error)

    def _idle(self) -> int:
        return self._engine.streams - self._flights.streams - self._recovery.in_engine

    def _next(self) -> list[Equals]:
        idle = self._idle()
        if idle > 0:
            return self._room.take(idle, long=True)
        if self._recovery.in_engine:
            return []
        if all(flight.long for flight in self._flights):
            return self._room.take(1, long=False)
        return self._room.take_ahead(self._engine.streams) if self._may_go_ahead(idle) else []

    def _may_go_ahead(self, idle: int) -> bool:
        """Return whether a micro-batch can be in the engine already when a stream ends: no event loop is waited for."""
        rows_only = all(flight.streams == 1 and not flight.long for flight in self._flights)
        return self._engine.ahead and idle == 0 and rows_only

    def _launch(self, items: list[Equals]) -> None:
        now, batch, allowed_s = self._clock(), [], 0.0
        for equals in items:
            ticket, index = equals[0]
            batch.append(ticket.items[index])
            allowed_s = max(allowed_s, ticket.deadline - ticket.joined)
            for ticket, _ in equals:
                ticket.enter(now)
        tokens = sum([item.tokens for item in batch])
        long = tokens > self._engine.shape.tokens
        streams = self._streams_together()
        task = asyncio.get_running_loop().create_task(self._engine.embed(batch, streams > 1))
        task.add_done_callback(self._land)
        ahead = self._idle() <= 0 and not any(flight.long for flight in self._flights)
        flight = Flight(items, tokens, now, allowed_s, long, streams, ahead)
        self._flights.add(task, flight, self._idle() - streams)

    def _streams_together(self) -> int:
        """Return how many streams the micro-batch taken last has together: what waits, or is tried, needs others."""
        spread = self._engine.spread
        is_alone = not self._room.tokens and not self._recovery.in_engine
        return spread if is_alone and self._idle() >= spread else 1

    def _land(self, task: asyncio.Task[Vectors]) -> None:
        """Take a micro-batch back; the stream is filled before the clients are told, who have work to do with it."""
        try:
            flight = self._flights.remove(task)
            now = self._clock()
            self._flights.let_next_begin(now)
            for equals in flight.items:
                for ticket, _ in equals:
                    ticket.come_out(now)
            vectors, sound = self._result(task, flight.items)
            self._judge(bool(sound.any()))
            if vectors is not None:
                self._room.came_out(flight.tokens)
            self._fill_streams()
            if vectors is not None:
                _hand_out(vectors, sound, flight.items)
                self._keep(vectors, sound, flight.items)
            self._tell(flight, now, sound)
        except Exception as error:  # noqa: BLE001  as above
            self._break_down(error)

    def _keep(self, vectors: Vectors, sound: NDArray[np.bool_], items: list[Equals]) -> None:
        """Keep what was computed, also for those whose clients have left: they may come again."""
        if not self._cache:
            return
        evictions = 0
        for vector, is_sound, ((ticket, index), *_) in zip(vectors, sound, items, strict=True):
            if is_sound and (fingerprint := ticket.items[index].fingerprint):
                evictions += self._cache.keep(fingerprint, vector)
        if self._observer:
            self._observer.kept(self._cache.held_bytes, evictions)

    def _result(self, task: asyncio.Task[Vectors], items: list[Equals]) -> tuple[Vectors | None, NDArray[np.bool_]]:
        """Return what the engine made of `items`, or None, and which are sound, bool (B,); what is not is failed."""
        try:
            vectors = task.result()
            sound = self._finite(vectors, len(items))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  an engine may fail in any way
            self._fail(items, error, len(items) == 1)
            return None, np.zeros(len(items), dtype=np.bool_)
        if not sound.all():
            at_fault = [equals for equals, is_sound in zip(items, sound, strict=True) if not is_sound]
            self._fail(at_fault, ValueError("the engine returned vectors that are not finite"), len(items) == 1)
        return vectors, sound

    def _finite(self, vectors: Vectors, items: int) -> NDArray[np.bool_]:
        """Return which of the vectors are finite, bool (B,); raises ValueError unless they are float32 (B, D)."""
        expected, got = (items, self._engine.dimensions), (np.shape(vectors), getattr(vectors, "dtype", type(vectors)))
        if got != (expected, np.float32):
            raise ValueError(f"the engine returned {got[1]} {got[0]}, not float32 {expected}")
        finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(vectors), axis=1)
        return finite

    def _fail(self, items: list[Equals], error: BaseException, alone: bool) -> None:
        """Fail the requests of `items`; who shared one that ran not `alone` has it computed again."""
        tickets = {ticket for equals in items for ticket, _ in (equals if alone else equals[:1])}
        if self._accepting or not isinstance(error, asyncio.CancelledError):
            said = fields(requests=len(tickets), items=len(items))
            logger.error("the engine failed on a micro-batch", exc_info=error, extra=said)
        for ticket in tickets:
            fault = EngineFault()
            fault.__cause__ = error
            self._room.fail(ticket, fault)
        for equals in items:
            self._room.compute_again(equals[1:])

    def _judge(self, works: bool) -> None:
        """Go by the last micro-batch, of which an item got a vector or none: the engine works, or is to be tried."""
        if works:
            self._failures = 0
            self._pause_s = 0.0
            return
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW and self._accepting:
            self._recovery.begin()

    def _tell(self, flight: Flight, now: float, sound: NDArray[np.bool_]) -> None:
        if self._observer:
            items, tokens = len(flight.items), flight.tokens
            padding, failed = self._costs.of(tokens) - tokens, not sound.all()
            engine_s, repeats = now - flight.started, sum(map(len, flight.items)) - items
            self._observer.ran(MicroBatchRun(items, tokens, padding, engine_s, failed, 0 if failed else repeats))

    def _break_down(self, error: Exception) -> None:
        logger.critical("scheduling failed; this model answers no requests until it is restarted", exc_info=error)
        self._broken = True
        self._room.fail_all(EngineFault)
        if self._accepting:
            self._recovery.begin(self._pause_s)
            self._pause_s = longer(self._pause_s)

    def _resume(self) -> None:
        """Go on with an engine that has answered a probe; the waiting room was emptied when the scheduling failed."""
        self._failures = 0
        if self._broken:
            self._broken = False
            logger.warning("the engine answers and scheduling begins anew; this model answers requests again")
            if self._observer:
                self._observer.restarted()

    def _has_free_stream(self) -> bool:
        return self._flights.streams < self._engine.streams

    def _is_sound(self, vectors: Vectors) -> bool:
        return bool(self._finite(vectors, 1).all())

    def _state(self, lost: int) -> ModelState:
        if not self._accepting:
            return "stopped"
        if self._broken:
            return "broken"
        if lost >= self._engine.streams:
            return "lost"
        if self._failures >= FAILURES_IN_A_ROW:
            return "failing"
        return "degraded" if lost else "healthy"

    def _is_lost(self, flight: Flight) -> bool:
        return self._clock() - flight.started > max(flight.allowed_s, self._patience_s)

    async def _clear_engine(self) -> None:
        for task in self._flights.tasks:
            task.cancel()
        if under_way := [*self._flights.tasks, *self._recovery.stop()]:
            await asyncio.wait(under_way, timeout=LAST_CALL_S)


def _hand_out(vectors: Vectors, sound: NDArray[np.bool_], items: list[Equals]) -> None:
    """Give every sound one of `vectors`, float32 (B, D), to all who share it."""
    for vector, is_sound, equals in zip(vectors, sound, items, strict=True):
        for ticket, index in equals if is_sound else ():
            ticket.receive(index, vector)


def _weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return what calls `method` and does not hold its object: no engine waits for the garbage collector."""
    reference = WeakMethod(method)

    def call(*arguments: Any) -> Any:
        held = reference()
        return held(*arguments) if held else None

    return call
