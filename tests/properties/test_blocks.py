"""Rows in blocks: no item crosses a border, what fits is found, and rows get cheaper by it."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_account import BLOCKED, SMALL, Account, cleared
from quartzite.batching.policy import Costs
from quartzite.engines.blocks import Blocks, Layout, cheapest_layout

batches = st.lists(st.integers(1, 64) | st.integers(1, 256), min_size=1, max_size=64).filter(lambda b: sum(b) <= 256)


def price(sizes: Sequence[int]) -> float:
    """Return what a micro-batch costs as the engine lays it."""
    layout = cheapest_layout(sizes, BLOCKED)
    return layout.length * dict(BLOCKED.blocks).get(layout.block, 1.0)


def places(sizes: Sequence[int], layout: Layout) -> list[int]:
    return list(chain.from_iterable(range(start, start + n) for start, n in zip(layout.starts, sizes, strict=True)))


@given(batches)
def test_items_lie_apart_and_within_one_block(sizes: list[int]) -> None:
    """Every item has places of its own in the row, all of them in the same block."""
    layout = cheapest_layout(sizes, BLOCKED)
    taken = places(sizes, layout)
    assert len(set(taken)) == len(taken) == sum(sizes)
    assert max(taken) < layout.length <= BLOCKED.tokens
    for start, tokens in zip(layout.starts, sizes, strict=True):
        assert start // layout.block == (start + tokens - 1) // layout.block


@given(batches)
def test_a_row_in_blocks_never_costs_more_than_an_undivided_one(sizes: list[int]) -> None:
    """Blocks are taken for their price only."""
    assert price(sizes) <= Costs(SMALL).of(sum(sizes))
    assert price(sizes) <= Costs(BLOCKED).of(sum(sizes))


@given(st.lists(st.integers(1, 64), min_size=1, max_size=40))
def test_blocks_that_were_filled_in_order_are_found_again(drawn: list[int]) -> None:
    """What whoever fills a row takes as fitting, the engine lays in as many blocks."""
    blocks = Blocks(256, 64)
    sizes = [tokens for tokens in drawn if tokens <= blocks.largest and blocks.put(tokens) >= 0]
    layout = cheapest_layout(sizes, BLOCKED)
    cheapest_undivided = Costs(BLOCKED).of(sum(sizes))
    assert layout.block == 64 or cheapest_undivided <= 256 * 0.8


@pytest.mark.parametrize(
    ("low", "high", "share"), [(8, 32, 0.85), (8, 60, 0.9), (20, 128, 0.97), (20, 256, 1.02), (150, 256, 1.0)]
)
def test_rows_get_cheaper_where_items_are_short(low: int, high: int, share: float) -> None:
    """Single queries and lists of 32, drawn alike, cost this share of what they cost in undivided rows."""
    random, inside, before = Random(3), 0.0, 0
    for _ in range(20):
        requests = [[random.randint(low, high) for _ in range(random.choice((1, 1, 1, 8, 32)))] for _ in range(20)]
        account = Account(BLOCKED)
        for request in requests:
            account.join(request)
        while account.waiting:
            inside += price([tokens for _, tokens in account.choose()])
        before += sum(map(Costs(BLOCKED).of, cleared(SMALL, requests)))
    assert inside <= share * before


def test_whose_turn_it_is_is_not_passed_over_for_blocks() -> None:
    """A long item at the front goes first, in an undivided row, however well queries would fill blocks."""
    account = Account(BLOCKED)
    account.join([200], key="a")
    for _ in range(40):
        account.join([30], key="b")
    assert account.choose()[0] == (0, 200)


def test_a_block_that_would_be_empty_is_not_paid_for() -> None:
    """190 tokens are a row of 192 and not four blocks of 64; 240 are four where they fit."""
    shape = replace(BLOCKED, buckets=(64, 128, 192, 256))
    assert cheapest_layout([60, 60, 60, 10], shape) == Layout(192, 192, (0, 60, 120, 180))
    assert cheapest_layout([60] * 4, shape) == Layout(256, 64, (0, 64, 128, 192))
    assert cheapest_layout([100, 60, 60], shape) == Layout(256, 128, (0, 128, 188))
    assert cheapest_layout([100, 100, 50], shape) == Layout(256, 256, (0, 100, 200))
