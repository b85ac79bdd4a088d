"""How fast an engine is, as far as one can tell from what comes out of it."""

import math

import pytest

from quartzite.batching.pace import Pace


def test_before_anything_was_measured_nothing_takes_time() -> None:
    """An unknown speed is no reason to refuse anybody, and one micro-batch says nothing yet."""
    pace = Pace()
    assert pace.tokens_per_s == math.inf
    pace.came_out(100, 1.0, more_waits=True)
    assert pace.tokens_per_s == math.inf


def test_streams_count_together() -> None:
    """Two streams of 100 tokens a second each are 200."""
    pace = Pace()
    for half_seconds in range(40):
        pace.came_out(100, half_seconds / 2, more_waits=True)
    assert pace.tokens_per_s == pytest.approx(200)


def test_idle_time_does_not_count() -> None:
    """Where nothing waited, how long the next micro-batch was away says nothing of the engine."""
    pace = Pace()
    for second, more_waits in ((0, True), (1, False), (1000, True), (1001, True)):
        pace.came_out(100, second, more_waits)
    assert pace.tokens_per_s == pytest.approx(100)


def test_what_was_long_ago_is_forgotten() -> None:
    """An engine that has become ten times slower is known to be slow after some hundred micro-batches."""
    pace, now = Pace(), 0.0
    for seconds in (0.1, 1.0):
        for _ in range(300):
            now += seconds
            pace.came_out(100, now, more_waits=True)
    assert pace.tokens_per_s == pytest.approx(100, rel=0.05)
