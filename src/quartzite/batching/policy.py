"""Which waiting items form the next micro-batch. Pure: no clock, no event loop, no threads.

What it promises, with S the budget of a micro-batch and L = max(S, the longest item), in tokens:

- A micro-batch is within the budget and the item count of its shape; an item over the budget is alone in its own. None
  is empty while an item waits that may run, and no item is given out twice.
- Keys are equal: of two that have work waiting all along, neither is given more in turns of its own than the other is
  given in all and 2 L tokens.
- Within a key small requests come before large ones, and old ones before new ones of the same size (up to a quarter of
  a micro-batch left, up to a half, one, two, ...), and one token in four goes to the eldest: a request of W tokens that
  finds Q tokens waiting before it has left the room by the time its key has been given 4 (Q + W) + 5 L tokens more,
  whatever comes after it.
- A micro-batch costs the smallest bucket that holds it. Items go where they make all that waits cheapest, so 130 tokens
  become 128 and 16 and not 256, and a query does not ride in a long row that is half empty.
- Where the longest row may be divided into blocks, it is filled block by block, if whose turn it is has an item that
  fits and the row so filled costs less than an undivided one.
- Work of less than a micro-batch per idle stream is split evenly over the streams, that of less than two is halved.

Choosing looks at no more than the items it takes and a fixed number of requests besides; only while an item over the
budget may not run are the requests passed over that have nothing else.
"""

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Sequence
from itertools import chain, count
from operator import attrgetter
from typing import Generic, TypeVar

from quartzite.batching.order import Backlog, Item, Share
from quartzite.engines.base import MicroBatchShape
from quartzite.engines.blocks import Blocks

R = TypeVar("R", bound=Hashable)
Pick = tuple[Backlog[R], Item]

WHOLE = 128
"""Work is not split over streams into parts of fewer tokens: short rows run below full speed."""
ONE_MORE = 16
"""What running one micro-batch more costs besides its bucket, in tokens."""
NEARLY_FULL = 7 / 8
"""A micro-batch that fills so much of its bucket is taken as it is."""
MISSES = 32
"""How many requests without a fitting item are passed over in search of one that fills the gap."""


class Costs:
    """What micro-batches cost, counted in tokens of computation: the length of the bucket."""

    def __init__(self, shape: MicroBatchShape) -> None:
        self._budget = shape.tokens
        self._buckets = shape.buckets

    def of(self, tokens: int) -> int:
        """Return the cost of a micro-batch of `tokens`; more than fits into one is taken to fill several wholly."""
        place = bisect_left(self._buckets, tokens)
        return self._buckets[place] if place < len(self._buckets) else tokens

    def of_first(self, tokens: int, work: int) -> int:
        """Return the cost of `work` when a micro-batch of `tokens` comes first and the others after it."""
        return self.of(tokens) + (self.of(work - tokens) if work > tokens else 0)

    def below(self, tokens: int, least: int = 0) -> Sequence[int]:
        """Return the buckets too small for `tokens` that hold `least`, longest first."""
        buckets = self._buckets
        return buckets[bisect_left(buckets, least) : bisect_left(buckets, tokens)][::-1]

    def target(self, work: int) -> int:
        """Return how many tokens to aim at when `work` tokens are there: a bucket that is filled well.

        What fills more than one micro-batch and less than two is halved: streams that share it end together.
        """
        half = -(-work // 2)
        if WHOLE <= half < self._budget < work:
            return self.of(half)
        if work >= self._budget:
            return self._budget
        above = self.of(work)
        for below in self.below(work)[:1]:
            if self.of_first(below, work) + ONE_MORE < above:
                return below
        return above


class Policy(Generic[R]):
    """All that waits for one engine: requests come with `join`, are given out with `choose`, and may `leave`.

    Requests are any hashable values. `tokens` counts what waits; `len()` counts the requests of which something waits.
    """

    def __init__(self, shape: MicroBatchShape) -> None:
        self.tokens = 0
        self._shape = shape
        self._costs = Costs(shape)
        self._numbers = count()
        self._backlogs: dict[R, Backlog[R]] = {}
        self._shares: dict[Hashable, Share[R]] = {}
        # Where a key that comes begins: what the key served last had been given before its turn (start-time fair
        # queueing). A key that was idle can neither save up turns nor be made to wait for those it did not take.
        self._floor = 0

    def __len__(self) -> int:
        return len(self._backlogs)

    def join(self, request: R, sizes: Sequence[int], key: Hashable = None) -> None:
        """Let the items of `request` wait; `sizes` are their tokens, at least 1 each; a `key` has turns of its own."""
        share = self._share(key)
        items = [(tokens, index) for index, tokens in enumerate(sizes)]
        self._backlogs[request] = backlog = Backlog(request, next(self._numbers), items, share)
        self.tokens += backlog.tokens
        share.add(backlog)

    def before(self, tokens: int, key: Hashable = None) -> int:
        """Return how many tokens would be served before a request of so many `tokens` and that `key` that came now.

        Other keys are taken to have as much served in the meantime, where they have as much.
        """
        share = self._shares.get(key)
        own = share.before(tokens) if share else 0
        others = [other.before(self.tokens) for other in self._shares.values() if other is not share]
        return own + sum([min(waiting, own + tokens) for waiting in others])

    def leave(self, request: R) -> None:
        """Drop what still waits of `request`, if anything does."""
        backlog = self._backlogs.pop(request, None)
        if backlog:
            self.tokens -= backlog.tokens
            backlog.share.remove(backlog)

    def choose(self, idle: int = 1, long: bool = True) -> list[tuple[R, int]]:
        """Give out the next micro-batch as (request, index of the item): empty only if nothing that may run waits.

        `idle` is the number of streams that have nothing to do, this one included; `long` says whether an item over the
        budget may run now.
        """
        if not self._backlogs:
            return []
        streams = max(1, min(idle, self.tokens // WHOLE))
        work = -(-self.tokens // streams)
        longest = self.tokens if long else self._shape.tokens
        target = self._costs.target(work)
        picks = self._in_blocks() if target == self._shape.tokens else []
        picks = picks or self._undivided(target, longest, work)
        self._settle(picks, longest)
        return [(backlog.request, index) for backlog, (_, index) in picks]

    def _share(self, key: Hashable) -> Share[R]:
        if not self._backlogs:
            self._shares.clear()
            self._floor = 0
        share = self._shares.get(key)
        if share is None:
            share = self._shares[key] = Share(self._shape.tokens)
        share.given = max(share.given, self._floor)
        return share

    def _turns(self) -> Iterable[Backlog[R]]:
        """Return the waiting requests in turn: those of the key that was given least, then those of the next."""
        shares = sorted([share for share in self._shares.values() if share], key=attrgetter("given"))
        self._floor = shares[0].given
        return chain.from_iterable([share.turns() for share in shares])

    def _in_blocks(self) -> list[Pick[R]]:
        """Take the longest row block by block; nothing where that is no better than a full one undivided."""
        for block, price in self._shape.blocks:
            picks = self._fill_blocks(block)
            left = self._shape.tokens - sum([item[0] for _, item in picks])
            if picks and price * self._shape.tokens + left + ONE_MORE < self._shape.tokens:
                return picks
            for backlog, item in picks:
                backlog.put_back(item)
        return []

    def _fill_blocks(self, block: int) -> list[Pick[R]]:
        """Take items in turn for the blocks of the longest row; nothing if whose turn it is has none that fits."""
        picks: list[Pick[R]] = []
        blocks, places, misses = Blocks(self._shape.tokens, block), self._shape.items, MISSES
        for backlog in self._turns():
            while places and (item := backlog.take(blocks.largest)):
                blocks.put(item[0])
                picks.append((backlog, item))
                places -= 1
            if backlog.items:
                misses -= 1
            if not (picks and blocks.largest and places and misses):
                break
        return picks

    def _undivided(self, target: int, longest: int, work: int) -> list[Pick[R]]:
        """Take items for an undivided row of about `target` tokens, the cheapest part of `work`."""
        picks = self._fill(target, longest)
        return self._cheapest(picks, work) if len(picks) > 1 else picks

    def _fill(self, target: int, longest: int) -> list[Pick[R]]:
        """Take items in turn until `target` tokens are reached; the first one, of at most `longest`, in any case."""
        picks: list[Pick[R]] = []
        room, places, misses = longest, self._shape.items, MISSES
        for backlog in self._turns():
            while places and (item := backlog.take(room)):
                room = (room if picks else max(target, self._costs.of(item[0]))) - item[0]
                picks.append((backlog, item))
                places -= 1
            if picks and backlog.items:
                misses -= 1
            if not (room and places and misses):
                break
        return picks

    def _cheapest(self, picks: list[Pick[R]], work: int) -> list[Pick[R]]:
        """Return those of `picks`, the first among them, that had best run now if `work` is to be done; undo others."""
        tokens = sum([item[0] for _, item in picks])
        if tokens >= NEARLY_FULL * self._costs.of(tokens):
            return picks
        price, kept, left = self._costs.of_first(tokens, work), picks, []
        for bucket in self._costs.below(tokens, least=picks[0][1][0]):
            fitting, others, tokens = _divided(picks, bucket)
            lower = self._costs.of_first(tokens, work)
            if lower + ONE_MORE < price:
                price, kept, left = lower, fitting, others
        for backlog, item in left:
            backlog.put_back(item)
        return kept

    def _settle(self, picks: list[Pick[R]], longest: int) -> None:
        """Account for `picks`. What other keys get in the gaps of a turn puts them one micro-batch ahead at most."""
        touched: dict[Share[R], dict[Backlog[R], None]] = {}
        for backlog, (tokens, _) in picks:
            self.tokens -= tokens
            touched.setdefault(backlog.share, {})[backlog] = None
            if not backlog.items:
                self._backlogs.pop(backlog.request, None)
        ahead = self._floor + self._shape.tokens
        for share, backlogs in touched.items():
            had, given = share.given, share.given + share.settle(backlogs, longest)
            share.given = given if had <= self._floor else max(had, min(given, ahead))


def _divided(picks: list[Pick[R]], room: int) -> tuple[list[Pick[R]], list[Pick[R]], int]:
    """Return those of `picks` that fit into `room` in their order, those that do not, and the tokens of the former."""
    fitting, others, tokens = [], [], 0
    for pick in picks:
        if (longer := tokens + pick[1][0]) <= room:
            tokens = longer
            fitting.append(pick)
        else:
            others.append(pick)
    return fitting, others, tokens
