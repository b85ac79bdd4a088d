"""Counters over sliding windows keep their limit, whatever is asked of them and when."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from quartzite.admission.windows import Count, LocalWindows

PERIOD_S, LIMIT = 60, 20
TAKES = st.lists(st.tuples(st.floats(0, 50), st.integers(1, LIMIT)), max_size=30)


class _Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def _take(windows: LocalWindows, amount: int) -> tuple[bool, Count]:
    return asyncio.run(windows.take("key", LIMIT, PERIOD_S, amount))


@given(TAKES)
def test_no_more_than_the_limit_is_taken_in_one_window(takes: list[tuple[float, int]]) -> None:
    """What is taken within one aligned window is at most the limit, and what counts never exceeds it."""
    clock, taken = _Clock(), dict[int, int]()
    windows = LocalWindows(clock)
    for pause_s, amount in takes:
        clock.now += pause_s
        fits, count = _take(windows, amount)
        if fits:
            taken[int(clock.now // PERIOD_S)] = taken.get(int(clock.now // PERIOD_S), 0) + amount
        assert count.used <= LIMIT
    assert all(amount <= LIMIT for amount in taken.values())


@given(TAKES, st.integers(1, LIMIT))
def test_who_comes_back_when_told_gets_in_and_not_before(takes: list[tuple[float, int]], amount: int) -> None:
    """A refused amount fits after `wait_s`, and would not have fitted much earlier."""
    for early, fits_then in ((1e-3, True), (-0.01, False)):
        clock = _Clock()
        windows = LocalWindows(clock)
        for pause_s, other in takes:
            clock.now += pause_s
            _take(windows, other)
        fits, count = _take(windows, amount)
        if fits:
            return
        clock.now += count.wait_s(LIMIT, amount) + early
        assert _take(windows, amount)[0] is fits_then


@given(TAKES)
def test_after_the_reset_nothing_counts(takes: list[tuple[float, int]]) -> None:
    """When `reset_s` is over, the whole limit can be taken at once."""
    clock = _Clock()
    windows = LocalWindows(clock)
    for pause_s, amount in takes:
        clock.now += pause_s
        _take(windows, amount)
    clock.now += _take(windows, LIMIT + 1)[1].reset_s + 1e-3
    assert _take(windows, LIMIT)[0]


def test_the_window_slides() -> None:
    """A full minute counts less and less in the next one, instead of being forgotten at its beginning."""
    clock = _Clock(59.0)
    windows = LocalWindows(clock)
    assert _take(windows, LIMIT)[0]
    clock.now = 60.0
    assert not _take(windows, 1)[0]
    clock.now = 90.0
    assert _take(windows, LIMIT // 2)[0]
    assert not _take(windows, 1)[0]


def test_counters_that_no_longer_count_are_forgotten() -> None:
    """However many users come by, only those of the last two windows take memory."""
    clock = _Clock()
    windows = LocalWindows(clock)
    loop = asyncio.new_event_loop()
    for number in range(10_000):
        clock.now += 1
        loop.run_until_complete(windows.take(f"user {number}", LIMIT, PERIOD_S, 1))
    loop.close()
    assert len(windows) <= 1024
