"""Whose turn it is: the requests of one key, and the order in which they are served. Pure; knows nothing of packing."""

from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

R = TypeVar("R")

Item = tuple[int, int]
"""Tokens of an item, and its index in its request."""

ELDEST = 4
"""One token in so many belongs to the requests that have waited longest."""


class Backlog(Generic[R]):
    """The items of one request that still wait, in ascending size.

    `number` counts requests in the order they came; `tokens` is the sum of `items`; `listed` is what `tokens` was when
    the share last put the request in its place, which is that of its `size`.
    """

    __slots__ = ("items", "listed", "number", "request", "share", "size", "tokens")

    def __init__(self, request: R, number: int, items: list[Item], share: "Share[R]") -> None:
        self.request = request
        self.number = number
        self.items = sorted(items) if len(items) > 1 else items
        self.tokens = self.listed = sum([tokens for tokens, _ in items])
        self.share = share
        self.size = 0

    def take(self, room: int) -> Item | None:
        """Remove and return the largest item of at most `room` tokens; None when there is none."""
        place = bisect_left(self.items, (room + 1, 0)) - 1
        if place < 0:
            return None
        item = self.items.pop(place)
        self.tokens -= item[0]
        return item

    def put_back(self, item: Item) -> None:
        """Undo the taking of `item`."""
        insort(self.items, item)
        self.tokens += item[0]


class Share(Generic[R]):
    """The waiting requests of one key, and how many tokens the key has been given.

    Requests of the smallest size come first: by the tokens they have left, of up to a quarter of a micro-batch, up to a
    half, one, two and so on, and those of the same size in the order they came. So a query never stands behind a large
    request, of several large ones each ends as early as it can instead of all ending late together, and under overload
    queries of some tokens more do not wait for ever behind those of some less. Small requests could keep a large one
    waiting for ever, so one token in `ELDEST` goes in order of age: what the eldest miss is counted as a debt, and once
    that is three micro-batches the next one is filled by age.
    """

    def __init__(self, micro_batch_tokens: int) -> None:
        self.given = 0
        self._smallest = max(1, micro_batch_tokens // 4)
        self._due = (ELDEST - 1) * micro_batch_tokens
        self._debt = 0
        self._by_age: OrderedDict[int, Backlog[R]] = OrderedDict()
        self._by_size: list[tuple[int, int, Backlog[R]]] = []
        self._waiting: Counter[int] = Counter()  # tokens by the size of their requests

    def __len__(self) -> int:
        return len(self._by_size)

    def add(self, backlog: Backlog[R]) -> None:
        """Put a request that has just come in its place."""
        self._by_age[backlog.number] = backlog
        self._list(backlog)

    def remove(self, backlog: Backlog[R]) -> None:
        """Forget a request of which nothing waits any more."""
        del self._by_age[backlog.number]
        self._unlist(backlog)

    def before(self, tokens: int) -> int:
        """Return how many tokens would be served before a request of so many `tokens` that came now."""
        size = self._size(tokens)
        return sum([waiting for other, waiting in self._waiting.items() if other <= size])

    def turns(self) -> Iterator[Backlog[R]]:
        """Yield the requests in the order in which the next micro-batch is to be filled from them."""
        if self._debt >= self._due:
            yield from self._by_age.values()
        else:
            for _, _, backlog in self._by_size:
                yield backlog

    def settle(self, touched: Iterable[Backlog[R]], longest: int) -> int:
        """Take note of a micro-batch with items of the requests `touched`; return the tokens it gave to them.

        `longest` says how many tokens an item could have had to run in it: to others nothing is owed.
        """
        given = sum([backlog.listed - backlog.tokens for backlog in touched])
        self._debt = max(0, self._debt + given - ELDEST * self._to_the_eldest(longest))
        for backlog in touched:
            if backlog.items:
                self._unlist(backlog)
                backlog.listed = backlog.tokens
                self._list(backlog)
            else:
                self.remove(backlog)
        return given

    def _to_the_eldest(self, longest: int) -> int:
        """Count the tokens just given to the eldest that still could have had more, and to all that are older."""
        tokens = 0
        for backlog in self._by_age.values():
            tokens += backlog.listed - backlog.tokens
            if backlog.items and backlog.items[0][0] <= longest:
                break
        return tokens

    def _list(self, backlog: Backlog[R]) -> None:
        backlog.size = self._size(backlog.listed)
        self._waiting[backlog.size] += backlog.listed
        insort(self._by_size, (backlog.size, backlog.number, backlog))

    def _unlist(self, backlog: Backlog[R]) -> None:
        self._waiting[backlog.size] -= backlog.listed
        del self._by_size[bisect_left(self._by_size, (backlog.size, backlog.number))]

    def _size(self, tokens: int) -> int:
        return ((tokens - 1) // self._smallest).bit_length()
