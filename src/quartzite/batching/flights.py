"""The micro-batches in the engine, and who shares what is computed in them. Knows nothing of engines and results."""

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass

from quartzite.batching.policy import Costs
from quartzite.batching.repeats import is_sooner
from quartzite.batching.waiting import Equals, Pick, Ticket, WaitingRoom
from quartzite.domain import Vectors


@dataclass(slots=True, eq=False)
class Flight:
    """One micro-batch in the engine, of those `items` that are the first of their equals.

    `tokens` are those of what is computed; `started` is a moment of the clock; `allowed_s` is the longest time that any
    of its requests was given, in seconds; `long` says that it is of a lone item over the budget; it has the cores of so
    many `streams`. While it is `ahead` it waits in the engine for one of them.
    """

    items: list[Equals]
    tokens: int
    started: float
    allowed_s: float
    long: bool
    streams: int
    ahead: bool = False


class Flights:
    """All micro-batches in an engine of so many `streams`, which take their items from `room`; they have `streams` now.

    Whoever waits for an item, or asks for it, while an equal one is being computed shares its vector, unless it would
    come out sooner by itself.
    """

    def __init__(self, room: WaitingRoom, costs: Costs, streams: int) -> None:
        self._room = room
        self._costs = costs
        self._streams = streams
        self.streams = 0
        self._flights: dict[asyncio.Task[Vectors], Flight] = {}
        self._computed: dict[bytes, tuple[Flight, Equals]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __iter__(self) -> Iterator[Flight]:
        return iter(self._flights.values())

    @property
    def tasks(self) -> list[asyncio.Task[Vectors]]:
        """What the engine does."""
        return [*self._flights]

    def add(self, task: asyncio.Task[Vectors], flight: Flight, idle: int) -> None:
        """Note that `flight` has begun, and have those that wait share it; `idle` streams are left."""
        self._flights[task] = flight
        self.streams += flight.streams
        for equals in flight.items:
            if fingerprint := self._room.fingerprint(equals[0]):
                self._computed[fingerprint] = flight, equals
                for pick in self._room.equal(equals[0]):
                    self._share(pick, flight, equals, flight.started, idle)

    def remove(self, task: asyncio.Task[Vectors]) -> Flight:
        """Note that a micro-batch has come out, and return it: from now on nobody shares it."""
        flight = self._flights.pop(task)
        self.streams -= flight.streams
        for equals in flight.items:
            fingerprint = self._room.fingerprint(equals[0])
            computed = self._computed.get(fingerprint)
            if computed and computed[0] is flight:
                del self._computed[fingerprint]
        return flight

    def let_next_begin(self, now: float) -> None:
        """Note that a stream has ended at the moment `now`, and so the micro-batch that was ahead has begun."""
        for flight in self:
            if flight.ahead:
                flight.ahead, flight.started = False, now

    def board(self, ticket: Ticket, idle: int) -> None:
        """Have those items of a request that has just come share what is being computed; `idle` streams are left."""
        for index in range(len(ticket.items) if self._computed else 0):
            pick = ticket, index
            if computed := self._computed.get(self._room.fingerprint(pick)):
                self._share(pick, *computed, ticket.joined, idle)

    def _share(self, pick: Pick, flight: Flight, equals: Equals, now: float, idle: int) -> None:
        """Let an item that waits have the vector of its equals in `flight`, if that is not later than its own would be.

        What has been in the engine for half the time of its requests may hang there: nobody may join it then.
        """
        if pick[0].ended.done() or now - flight.started > flight.allowed_s / 2:
            return
        free_in = 0.0 if idle > 0 else min([self._left(other, now) for other in self])
        work = self._room.before(pick) + pick[0].items[pick[1]].tokens
        row = self._costs.of(min(work, self._room.micro_batch_tokens))
        if is_sooner(self._left(flight, now), free_in, work / self._streams, row):
            self._room.share(pick)
            pick[0].enter(now)
            equals.append(pick)

    def _left(self, flight: Flight, now: float) -> float:
        """Return when a micro-batch ends, in tokens of one stream: as if it began now before speed was measured."""
        pace = self._room.tokens_per_s
        done = (now - flight.started) * pace / self._streams if math.isfinite(pace) else 0.0
        return max(0.0, self._costs.of(flight.tokens) / flight.streams - done)
