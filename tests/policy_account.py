"""A policy under observation, for tests: shapes, requests, and a plain account of what waits."""

from collections.abc import Hashable, Sequence
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st

from quartzite.batching.policy import Policy
from quartzite.engines.base import Block, MicroBatchShape

SMALL = MicroBatchShape(256, 64, (16, 32, 64, 128, 256))
STEPS = MicroBatchShape(128, 64, (32, 64, 96, 128))
LARGE = MicroBatchShape(2048, 64, (16, 32, 64, 128, 256, 512, 1024, 2048))
BLOCKED = MicroBatchShape(256, 64, SMALL.buckets, (Block(64, 0.8), Block(128, 0.9)))
SHAPES = (
    SMALL,
    BLOCKED,
    STEPS,
    LARGE,
    MicroBatchShape(100, 3, (10, 100)),
    MicroBatchShape(64, 1, (64,)),
    MicroBatchShape(50, 8),
)
LONGEST = 600

unhurried = settings(deadline=None, max_examples=60)

shapes = st.sampled_from(SHAPES)
sizes = st.lists(st.integers(1, 60) | st.integers(1, LONGEST), min_size=1, max_size=8)


class Account:
    """A policy with a plain account of what waits in it, against which everything it gives out is checked."""

    def __init__(self, shape: MicroBatchShape) -> None:
        self.shape = shape
        self.policy: Policy[int] = Policy(shape)
        self.waiting: dict[int, dict[int, int]] = {}
        self.keys: dict[int, Hashable] = {}
        self._numbers = count()

    @property
    def tokens(self) -> int:
        return sum(sum(items.values()) for items in self.waiting.values())

    def join(self, request: Sequence[int], key: Hashable = None) -> int:
        number = next(self._numbers)
        self.policy.join(number, request, key)
        self.waiting[number] = dict(enumerate(request))
        self.keys[number] = key
        return number

    def leave(self, number: int) -> None:
        self.policy.leave(number)
        self.waiting.pop(number, None)

    def choose(self, idle: int = 1, long: bool = True) -> list[tuple[int, int]]:
        """Return the next micro-batch as (request, tokens), after checking all that is promised of every one."""
        budget = self.shape.tokens
        may_run = [size for items in self.waiting.values() for size in items.values() if long or size <= budget]
        chosen = [(number, self.waiting[number].pop(index)) for number, index in self.policy.choose(idle, long)]
        assert bool(chosen) == bool(may_run)
        assert len(chosen) <= self.shape.items
        assert total(chosen) <= budget or (long and len(chosen) == 1)
        self.waiting = {request: items for request, items in self.waiting.items() if items}
        assert (self.policy.tokens, len(self.policy)) == (self.tokens, len(self.waiting))
        return chosen


def total(batch: list[tuple[int, int]]) -> int:
    return sum(tokens for _, tokens in batch)


def cleared(shape: MicroBatchShape, requests: Sequence[Sequence[int]], idle: int = 1) -> list[int]:
    """Return the tokens of each micro-batch when all requests are there from the start."""
    account = Account(shape)
    for request in requests:
        account.join(request)
    totals = []
    while account.waiting:
        totals.append(total(account.choose(idle)))
    return totals
