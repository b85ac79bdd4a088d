"""The policy: what it gives out fits, keys are equal, small requests are quick and nobody starves."""

import gc
import sys
import weakref
from collections import Counter
from collections.abc import Hashable
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from policy_account import LONGEST, SMALL, Account, cleared, shapes, sizes, total, unhurried
from quartzite.batching.policy import Policy
from quartzite.engines.base import MicroBatchShape


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
@given(st.lists(st.integers(64, 256), min_size=2, max_size=32), st.integers(2, 6), st.integers(0, 12))
def test_a_small_request_among_equal_large_ones_waits_for_one_micro_batch_at_most(
    large: list[int], requests: int, served: int
) -> None:
    """Whatever has been served before, no more is given out before the smallest than the rest of one large request."""
    account = Account(SMALL)
    for _ in range(requests):
        account.join(large)
    for _ in range(min(served, len(large) * (requests - 1) // 64)):
        account.choose()
    query = account.join([1])
    assert query in dict(account.choose() + account.choose())


@unhurried
@given(st.lists(st.integers(1, 64), min_size=2, max_size=100))
def test_small_requests_are_served_in_the_order_they_came(queries: list[int]) -> None:
    """Of requests up to a quarter of a micro-batch none waits for later ones that are smaller still."""
    account = Account(SMALL)
    for query in queries:
        account.join([query])
    while account.waiting:
        eldest = min(account.waiting)
        assert eldest in dict(account.choose())


@unhurried
@given(st.lists(sizes, max_size=8), st.integers(1, LONGEST))
def test_what_is_served_before_a_request_is_told(requests: list[list[int]], size: int) -> None:
    """Of one key alone, no more goes before a request than is foreseen, but for what the eldest are owed."""
    account = Account(SMALL)
    for request in requests:
        account.join(request)
    foreseen = account.policy.before(size)
    assert foreseen <= account.tokens
    number = account.join([size])
    served = 0
    while number in account.waiting:
        served += total([pick for pick in account.choose() if pick[0] != number])
    assert served <= 4 * (foreseen + size) + 5 * LONGEST


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
