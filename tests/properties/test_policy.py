"""The policy: what it gives out fits, nobody starves, rows are well filled, and idle streams share the work."""

import gc
import sys
import weakref
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import chain, count
from random import Random
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from quartzite.batching.policy import Costs, Policy
from quartzite.engines.base import MicroBatchShape

SMALL = MicroBatchShape(256, 64, (16, 32, 64, 128, 256))
STEPS = MicroBatchShape(128, 64, (32, 64, 96, 128))
LARGE = MicroBatchShape(2048, 64, (16, 32, 64, 128, 256, 512, 1024, 2048))
SHAPES = (
    SMALL,
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


class Room(RuleBasedStateMachine):
    """Requests come, leave and are served in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.account = Account(SMALL)

    @rule(request=sizes, key=st.integers(0, 2))
    def join(self, request: list[int], key: int) -> None:
        self.account.join(request, key)

    @rule(number=st.integers(0, 30))
    def leave(self, number: int) -> None:
        self.account.leave(number)

    @rule(idle=st.integers(1, 4), long=st.booleans())
    def choose(self, idle: int, long: bool) -> None:
        self.account.choose(idle, long)

    @invariant()
    def what_waits_is_counted(self) -> None:
        assert self.account.policy.tokens == self.account.tokens


TestRoom = Room.TestCase
TestRoom.settings = settings(deadline=None, max_examples=30)


@unhurried
@given(shapes, st.lists(sizes, min_size=1, max_size=12), st.integers(1, 4))
def test_all_that_waits_is_given_out_once_and_fits(
    shape: MicroBatchShape, requests: list[list[int]], idle: int
) -> None:
    """Whatever the shape, choosing clears the room in micro-batches within the budget, none of them empty."""
    assert sum(cleared(shape, requests, idle)) == sum(map(sum, requests))


@unhurried
@given(shapes, st.lists(sizes, max_size=3), sizes, st.integers(1, 60))
def test_nobody_starves_behind_requests_that_come_later(
    shape: MicroBatchShape, before: list[list[int]], request: list[int], newcomer: int
) -> None:
    """However many small ones keep coming, W tokens behind Q have left once 4 (Q + W) + 5 L more were given out."""
    account = Account(shape)
    for other in before:
        account.join(other)
    number = account.join(request)
    bound = 4 * account.tokens + 5 * max(shape.tokens, LONGEST)
    given_out = 0
    while number in account.waiting:
        while len(account.waiting) < shape.items + 5:
            account.join([newcomer])
        given_out += total(account.choose())
        assert given_out <= bound


@unhurried
@given(shapes, st.lists(sizes, min_size=2, max_size=4), st.integers(20, 60))
def test_keys_are_served_equally_however_different_their_requests(
    shape: MicroBatchShape, kinds: list[list[int]], rounds: int
) -> None:
    """Of keys that have work all along, none gets more in its own turns than another gets in all and 2 L tokens."""
    account = Account(shape)
    in_turns: Counter[Hashable] = Counter()
    in_all: Counter[Hashable] = Counter()
    for _ in range(rounds):
        waiting = Counter(account.keys[number] for number in account.waiting)
        for key, kind in enumerate(kinds):
            for _ in range(shape.items + 1 - waiting[key]):  # more than one micro-batch can take
                account.join(kind, key)
        batch = account.choose()
        turn = account.keys[batch[0][0]]
        for number, tokens in batch:
            in_all[account.keys[number]] += tokens
            in_turns[turn] += tokens if account.keys[number] == turn else 0
    least = min(in_all[key] for key in range(len(kinds)))
    assert max(in_turns.values()) <= least + 2 * max(shape.tokens, LONGEST)


@unhurried
@given(st.lists(st.integers(1, 256), min_size=2, max_size=32), st.integers(2, 6), st.integers(0, 12))
def test_a_small_request_among_equal_large_ones_is_in_the_next_micro_batch(
    large: list[int], requests: int, served: int
) -> None:
    """Whatever has been served before, the request that has fewest tokens does not wait for another turn."""
    account = Account(SMALL)
    for _ in range(requests):
        account.join(large)
    for _ in range(min(served, len(large) * (requests - 1) // 64)):
        account.choose()
    query = account.join([1])
    assert query in dict(account.choose())


@unhurried
@given(sizes, st.integers(1, 20))
def test_a_key_that_comes_is_next_whatever_the_others_have_had(large: list[int], served: int) -> None:
    """A query of another key does not wait until that key has caught up, nor for a request of equal size."""
    account = Account(SMALL)
    for _ in range(25):
        account.join(large, "bulk")
    for _ in range(served):
        account.choose()
    query = account.join(large, "query")
    assert account.choose()[0][0] == query


@pytest.mark.parametrize("was_there", [True, False])
def test_a_key_that_was_away_has_saved_no_turns(was_there: bool) -> None:
    """Once both have work, turns alternate, however long one of them was alone before."""
    account = Account(SMALL)
    for _ in range(20):
        account.join([256], "always")
    if was_there:
        account.join([256], "back")
    for _ in range(10):
        account.choose()
    for _ in range(8):
        account.join([256], "back")
    turns = [account.keys[account.choose()[0][0]] for _ in range(8)]
    assert Counter(turns) == {"always": 4, "back": 4}


def test_a_key_does_not_lose_what_it_was_given_by_leaving_for_a_moment() -> None:
    """A key that sends its next request only when the last has been taken gets no more than its turn."""
    account = Account(SMALL)
    for _ in range(20):
        account.join([256], "always")
    turns = []
    for _ in range(10):
        if "sometimes" not in {account.keys[number] for number in account.waiting}:
            account.join([256], "sometimes")
        turns.append(account.keys[account.choose()[0][0]])
    assert Counter(turns) == {"always": 5, "sometimes": 5}


def test_filling_gaps_does_not_make_a_key_wait_afterwards() -> None:
    """Small items that ran beside the large ones of eight keys took nobody's turn and are not held against theirs."""
    account = Account(SMALL)
    account.join([50] * 500, "small")
    large = [account.join([200] * 20, key) for key in range(8)]
    for _ in range(80):
        account.choose()
    for key, number in enumerate(large):
        account.leave(number)
        account.join([256] * 20, key)  # leaves no gap
    turns = [account.keys[account.choose()[0][0]] for _ in range(2 * 9)]
    assert "small" in turns


def test_no_key_is_kept_once_nothing_waits() -> None:
    """Keys come and go for ever, so the policy remembers those only that have had a share of what waits now."""

    class Key:
        pass

    policy: Policy[int] = Policy(SMALL)
    keys = [Key() for _ in range(5)]
    held = [weakref.ref(key) for key in keys]
    for number, key in enumerate(keys):
        policy.join(number, [200], key)
        policy.choose()
    policy.join(9, [1], "another")
    del key
    keys.clear()
    gc.collect()
    assert not any(reference() for reference in held)


def test_long_items_that_may_not_run_now_owe_and_are_owed_nothing() -> None:
    """While the eldest is kept from running, queries come first as ever, and the eldest that may run has a quarter."""
    account = Account(SMALL)
    account.join([9000])
    account.join([128] * 100)
    late, large = 0, 0
    for _ in range(400):
        query = account.join([10])
        batch = account.choose(long=False)
        late += query not in dict(batch)
        large += total([pick for pick in batch if pick[0] == 1])
    assert late <= 10
    assert large >= 400 * 10 / 4


def test_equal_large_requests_end_one_after_the_other() -> None:
    """The first ends after its own work and not after everybody's: all ending late would be all expiring together."""
    account = Account(SMALL)
    numbers = [account.join([128] * 8) for _ in range(4)]
    ended = []
    while account.waiting:
        account.choose()
        ended += [number for number in numbers if number not in account.waiting and number not in ended]
    assert ended == numbers
    assert account.tokens == 0


def first_fit_decreasing(shape: MicroBatchShape, tokens: Sequence[int]) -> int:
    """Return the cost of the best plan that is simple to make, for one who sees all items and owes nobody a turn."""
    rows: list[list[int]] = []
    for item in sorted(tokens, reverse=True):
        row = next((row for row in rows if sum(row) + item <= shape.tokens and len(row) < shape.items), None)
        if row:
            row.append(item)
        else:
            rows.append([item])
    return sum(Costs(shape).of(sum(row)) for row in rows)


@unhurried
@given(st.sampled_from((SMALL, STEPS, LARGE)), st.lists(sizes, min_size=1, max_size=12))
def test_rows_are_filled_nearly_as_well_as_without_turns(shape: MicroBatchShape, requests: list[list[int]]) -> None:
    """At worst, clearing a room costs a third and one micro-batch more than first-fit decreasing over all of it."""
    cost = sum(map(Costs(shape).of, cleared(shape, requests)))
    assert cost <= first_fit_decreasing(shape, list(chain(*requests))) * 4 / 3 + shape.tokens


@pytest.mark.parametrize("shape", [SMALL, STEPS, LARGE], ids=["small", "steps", "large"])
@pytest.mark.parametrize(("low", "high"), [(8, 24), (1, 60), (20, 250), (1, 512)])
def test_rows_of_mixed_requests_are_nine_tenths_full(shape: MicroBatchShape, low: int, high: int) -> None:
    """Single queries and requests of 8 and 32 items, drawn alike, cost at most 4 % more than first-fit decreasing."""
    random, cost, best, tokens = Random(1), 0, 0, 0
    for _ in range(30):
        requests = [[random.randint(low, high) for _ in range(random.choice((1, 1, 1, 8, 32)))] for _ in range(20)]
        cost += sum(map(Costs(shape).of, cleared(shape, requests)))
        best += first_fit_decreasing(shape, list(chain(*requests)))
        tokens += sum(map(sum, requests))
    assert cost <= 1.04 * best
    assert tokens >= 0.9 * cost


@pytest.mark.parametrize(
    ("requests", "totals"),
    [
        ([[10]] * 13, [120, 10]),  # 128 and 16, not 256
        ([[10]] * 20, [200]),  # 128 and 128 would cost as much
        ([[13], [30]], [43]),  # 16 and 32 would save no more than running twice costs
        ([[100, 30]], [100, 30]),
        ([[20], [512, 512]], [20, 512, 512]),
        ([[100, 100], [40] * 8], [240, 240, 40]),  # the gap beside 200 is filled from another request
        ([[300]], [300]),
    ],
    ids=str,
)
def test_micro_batches_just_fill_a_bucket(requests: list[list[int]], totals: list[int]) -> None:
    """A long empty tail is not paid for when a shorter row and another later are cheaper."""
    assert cleared(SMALL, requests) == totals


def test_queries_go_together_though_each_alone_would_fill_a_bucket_as_well() -> None:
    """While large requests wait, two queries are one micro-batch of 32 and not two of 16."""
    assert cleared(SMALL, [[10], [10], [128] * 16])[0] == 20


def test_a_query_does_not_ride_in_a_long_row_that_is_half_empty() -> None:
    """Beside 20 tokens only three chunks of 512 fit into 2048: alone the query is done at once, and four chunks fit."""
    assert cleared(LARGE, [[20], *[[512] * 8] * 2]) == [20, 2048, 2048, 2048, 2048]


@unhurried
@given(st.integers(2, 6), st.lists(st.integers(1, 64), min_size=1, max_size=120), shapes)
def test_idle_streams_share_what_waits(streams: int, request: list[int], shape: MicroBatchShape) -> None:
    """The longest of the first micro-batches, one per idle stream, is no longer than an even part needs."""
    costs = Costs(shape)
    account = Account(shape)
    account.join(request)
    parts = min(streams, max(1, account.tokens // 128))
    even = -(-account.tokens // parts)
    for idle in range(streams, 0, -1):
        if account.waiting:
            assert costs.of(total(account.choose(idle))) <= max(
                costs.of(min(even, shape.tokens)), costs.of(max(request))
            )


def test_a_request_is_split_evenly_over_idle_streams() -> None:
    """Two streams idle and 32 chunks waiting: half each; three streams take a third each."""
    halves, thirds = Account(LARGE), Account(LARGE)
    halves.join([64] * 32)
    thirds.join([32] * 48)
    assert [total(halves.choose(idle)) for idle in (2, 1)] == [1024, 1024]
    assert [total(thirds.choose(idle)) for idle in (3, 2, 1)] == [512, 512, 512]


@pytest.mark.parametrize(
    ("request_", "totals"),
    [
        ([25] * 44, [500, 500, 100]),  # not 550 in rows of 1024
        ([200, 50, 50], [250, 50]),  # where an item needs a longer row, its tail is filled
    ],
    ids=str,
)
def test_parts_just_fill_a_bucket_too(request_: list[int], totals: list[int]) -> None:
    """An even part of the work is rounded to a row that is well filled."""
    account = Account(LARGE)
    account.join(request_)
    assert [total(account.choose(idle)) for idle in (2, 1, 1)[: len(totals)]] == totals


def test_little_work_is_not_split() -> None:
    """Less than two rows at full speed stay together though both streams are idle."""
    account = Account(SMALL)
    account.join([16] * 15)
    assert total(account.choose(idle=2)) == 240


def test_choosing_costs_the_same_however_many_wait() -> None:
    """With 5,000 requests of which none fills the gap, choosing makes as many calls as with 500."""

    def calls(requests: int) -> int:
        made = 0

        def count_call(frame: FrameType, event: str, _argument: object) -> None:
            nonlocal made
            made += event in ("call", "c_call") and "batching" in frame.f_code.co_filename  # not the collector's hooks

        policy: Policy[int] = Policy(SMALL)
        for number in range(requests):
            policy.join(number, [200])
        sys.setprofile(count_call)
        policy.choose()
        sys.setprofile(None)
        return made

    assert calls(5000) == calls(500)
