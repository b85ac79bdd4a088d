"""Packing: rows are well filled whatever comes, and idle streams share the work."""

from collections.abc import Sequence
from itertools import chain
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_account import LARGE, SMALL, STEPS, Account, cleared, shapes, sizes, total, unhurried
from quartzite.batching.policy import Costs
from quartzite.engines.base import MicroBatchShape


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
        ([[30]] * 13, [240, 120, 30]),  # a row that is nearly full is not taken apart
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


@unhurried
@given(st.lists(st.integers(1, 32), min_size=20, max_size=32).filter(lambda items: 256 < sum(items) < 512))
def test_the_last_two_rows_are_about_equal(request: list[int]) -> None:
    """What fills more than one row and less than two is halved: a full row would end long after what is left."""
    shape = MicroBatchShape(256, 64, tuple(range(32, 257, 32)))
    longest = max(map(Costs(shape).of, cleared(shape, [request])))
    assert longest <= Costs(shape).of(-(-sum(request) // 2)) + 32


def test_little_work_is_not_split() -> None:
    """Less than two rows at full speed stay together though both streams are idle."""
    account = Account(SMALL)
    account.join([16] * 15)
    assert total(account.choose(idle=2)) == 240
