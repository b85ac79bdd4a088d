"""The bounded waiting room: who may come in, who is still there, and how each request ends.

Knows the event loop's futures and timers; nothing of engines.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from quartzite.batching.pace import Pace
from quartzite.batching.policy import Policy
from quartzite.batching.repeats import Repeats
from quartzite.config import QueueSettings
from quartzite.domain import Encoded, Vectors
from quartzite.engines.base import MicroBatchShape
from quartzite.errors import DeadlineExceeded, EngineFault, Overloaded, RequestFailure

SHORT = 0.5
"""A request of at most such a share of a micro-batch is short: it goes before long ones."""
SINCE_SHORT_S = 1.0
"""For so long after one short request another is expected, in seconds."""
AHEAD_S = 0.1
"""A micro-batch is settled ahead of its time only if it takes no longer than this, in seconds."""

Pick = tuple["Ticket", int]
"""One item: its request, and its index there."""
Equals = list[Pick]
"""Equal items, which share the vector that is computed for the first of them."""


class Ticket:
    """One accepted request: its items, the vectors that have come back, and the future that ends it.

    `joined` and `deadline` are moments of the room's clock. `engine_s` is the time in which at least one item was in
    the engine, `queue_s` the rest of the time up to the last one's return, in seconds. `shared` are the items for which
    equal ones of others are computed.
    """

    __slots__ = (
        "_in_engine",
        "_missing",
        "_since",
        "_vectors",
        "deadline",
        "ended",
        "engine_s",
        "items",
        "joined",
        "key",
        "queue_s",
        "shared",
    )

    def __init__(
        self,
        items: Sequence[Encoded],
        joined: float,
        deadline: float,
        ended: asyncio.Future[Vectors],
        key: Hashable = None,
    ) -> None:
        self.items = items
        self.key = key
        self.shared: set[int] = set()
        self.joined = self._since = joined
        self.deadline = deadline
        self.ended = ended
        self.queue_s = self.engine_s = 0.0
        self._in_engine = 0
        self._missing = len(items)
        self._vectors: Vectors | None = None

    def enter(self, now: float) -> None:
        """Note that one more item goes into the engine."""
        if not self._in_engine:
            self.queue_s += now - self._since
            self._since = now
        self._in_engine += 1

    def come_out(self, now: float) -> None:
        """Note that one of the items in the engine comes out of it."""
        self._in_engine -= 1
        if not self._in_engine:
            self.engine_s += now - self._since
            self._since = now

    def receive(self, index: int, vector: Vectors) -> None:
        """Keep a copy of `vector`, float32 (D,), as that of item `index`; the last one to come ends the request."""
        if self.ended.done():
            return
        if self._vectors is None:
            self._vectors = np.empty((len(self.items), len(vector)), dtype=np.float32)
        self._vectors[index] = vector
        self._missing -= 1
        if not self._missing:
            self.ended.set_result(self._vectors)


class WaitingRoom:
    """Holds requests from their acceptance to their end, and their items until a micro-batch takes them.

    `clock` gives seconds; deadlines are moments of it. Timers run on the event loop on which requests come in. Unless
    it is `sharing`, no item counts as equal to another.
    """

    def __init__(
        self, shape: MicroBatchShape, limits: QueueSettings, clock: Callable[[], float], sharing: bool = True
    ) -> None:
        self._shape = shape
        self._limits = limits
        self._clock = clock
        self._policy: Policy[Ticket] = Policy(shape)
        self._pace = Pace()
        self._sharing = sharing
        self._repeats: Repeats[Ticket] = Repeats()
        self._again: deque[Equals] = deque()
        self._short_came = -math.inf
        self._timers: dict[Ticket, asyncio.TimerHandle] = {}

    @property
    def tokens(self) -> int:
        """Tokens of all items that wait."""
        return self._policy.tokens

    @property
    def requests(self) -> int:
        """Number of requests with items that wait."""
        return len(self._policy)

    @property
    def micro_batch_tokens(self) -> int:
        """The budget of a micro-batch: an item over it runs alone."""
        return self._shape.tokens

    @property
    def tokens_per_s(self) -> float:
        """How much comes out of the engine while work waits; infinite before it was measured."""
        return self._pace.tokens_per_s

    @property
    def endings(self) -> list[asyncio.Future[Vectors]]:
        """The futures of all requests that were accepted and have not left, whether they wait or are in the engine."""
        return [ticket.ended for ticket in self._timers]

    def admit(self, items: Sequence[Encoded], deadline: float, key: Hashable = None) -> Ticket:
        """Let a request wait, with all of its items or none; call `leave` once it has ended, or to give it up.

        Raises Overloaded as `check` does, DeadlineExceeded when `deadline` has passed already.
        """
        now = self._clock()
        if deadline <= now:
            raise DeadlineExceeded(0)
        sizes = [item.tokens for item in items]
        tokens = sum(sizes)
        self.check(deadline, tokens, key)
        if tokens <= SHORT * self._shape.tokens:
            self._short_came = now
        loop = asyncio.get_running_loop()
        ticket = Ticket(items, now, deadline, loop.create_future(), key)
        self._policy.join(ticket, sizes, key)
        for index in range(len(items)):
            self._repeats.add(self.fingerprint((ticket, index)), (ticket, index))
        self._timers[ticket] = loop.call_later(deadline - now, self._expire, ticket)
        return ticket

    def check(self, deadline: float, tokens: int = 1, key: Hashable = None) -> None:
        """Raise Overloaded when a request of so many `tokens` would be over the bounds now, or would wait too long.

        Where nothing waits before it, no request is refused: none is too large for ever.
        """
        if self._policy and not (self._has_room(tokens) and self._is_in_time(deadline, tokens, key)):
            raise Overloaded

    def came_out(self, tokens: int) -> None:
        """Note that a micro-batch of so many `tokens` has come out of the engine: by that waits are foreseen."""
        self._pace.came_out(tokens, self._clock(), bool(self._policy))

    def take(self, idle: int, long: bool) -> list[Equals]:
        """Give out the next micro-batch, without what has expired; empty only if nothing that may run waits."""
        while self._again:
            if again := [pick for pick in self._again.popleft() if not pick[0].ended.done()]:
                return [again]
        while picks := self._policy.choose(idle, long):
            now = self._clock()
            for ticket in {ticket for ticket, _ in picks if ticket.deadline <= now}:
                self._expire(ticket)
            if alive := [pick for pick in picks if not pick[0].ended.done() and pick[1] not in pick[0].shared]:
                return self._equals(alive)
        return []

    def take_ahead(self, streams: int) -> list[Equals]:
        """Give out a full micro-batch if it may be taken before one of the `streams` is idle; empty if it may not.

        What comes until then cannot go before it, so no short request may have come of late; and it has to be soon
        done, or little is won.
        """
        budget = self._shape.tokens
        is_soon_done = 0 < budget * streams / self.tokens_per_s <= AHEAD_S
        expects_short = self._clock() - self._short_came <= SINCE_SHORT_S
        return self.take(1, long=False) if is_soon_done and not expects_short and self.tokens >= 2 * budget else []

    def fingerprint(self, pick: Pick) -> bytes:
        """Return by what an item is compared with others; nothing where it is not."""
        return pick[0].items[pick[1]].fingerprint if self._sharing else b""

    def equal(self, pick: Pick) -> tuple[Pick, ...]:
        """Return the items that wait and are equal to one that does not."""
        return self._repeats.equal(self.fingerprint(pick))

    def before(self, pick: Pick) -> int:
        """Return how many tokens would be served before an item, if it came now."""
        ticket, index = pick
        return self._policy.before(ticket.items[index].tokens, ticket.key)

    def share(self, pick: Pick) -> None:
        """Let an item wait no more: it gets the vector of an equal one that is in the engine."""
        ticket, index = pick
        self._repeats.remove(self.fingerprint(pick), pick)
        ticket.shared.add(index)
        if len(ticket.items) == 1:  # of others the policy gives the item out in its turn, and it is passed over
            self._policy.leave(ticket)

    def compute_again(self, equals: Equals) -> None:
        """Have items that shared a micro-batch which failed computed next and alone, as far as their requests go on."""
        if equals:
            self._again.append(equals)

    def fail(self, ticket: Ticket, failure: RequestFailure) -> None:
        """End a request with `failure`, unless it has ended, and drop what still waits of it."""
        _end(ticket, failure)
        self._policy.leave(ticket)

    def fail_all(self, failure: type[Overloaded] | type[EngineFault]) -> None:
        """End all requests with a `failure` each and begin anew with an empty room, whatever state it was in."""
        self._policy = Policy(self._shape)
        self._repeats = Repeats()
        self._again.clear()
        for ticket in self._timers:
            _end(ticket, failure())

    def leave(self, ticket: Ticket) -> None:
        """Forget a request: it has ended, or nobody waits for it any more."""
        self._timers.pop(ticket).cancel()
        self._policy.leave(ticket)
        for index in range(len(ticket.items)):
            self._repeats.remove(self.fingerprint((ticket, index)), (ticket, index))

    def _equals(self, picks: list[Pick]) -> list[Equals]:
        """Return `picks` with those together that are equal; none of them waits any more."""
        found: dict[bytes | Pick, Equals] = {}
        for pick in picks:
            fingerprint = self.fingerprint(pick)
            self._repeats.remove(fingerprint, pick)
            found.setdefault(fingerprint or pick, []).append(pick)
        return list(found.values())

    def _has_room(self, tokens: int) -> bool:
        limits = self._limits
        return self.tokens + tokens <= limits.max_tokens and self.requests < limits.max_requests

    def _is_in_time(self, deadline: float, tokens: int, key: Hashable) -> bool:
        before = self._policy.before(tokens, key)
        if not before:
            return True
        wait_s = before / self._pace.tokens_per_s
        work_s = tokens / self._pace.tokens_per_s
        return wait_s <= self._limits.max_wait_ms / 1000 and self._clock() + wait_s + work_s <= deadline

    def _expire(self, ticket: Ticket) -> None:
        self.fail(ticket, DeadlineExceeded(round(ticket.deadline - ticket.joined, 3)))


def _end(ticket: Ticket, failure: RequestFailure) -> None:
    if not ticket.ended.done():
        ticket.ended.set_exception(failure)
