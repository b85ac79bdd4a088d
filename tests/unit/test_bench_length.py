"""Cost against length: what is told of the turns."""

from typing import Any

import pytest

import length_report

FACTS: dict[str, Any] = {
    "turns": [
        {"seconds": 2.0, "reference_s": 1.0},
        {"seconds": 12.0, "reference_s": 2.0},
        {"seconds": 9.0, "reference_s": 3.0},
    ],
    "attention_share": 0.125,
    "above_idle_mib": 40.4,
    "mask_mib": 4.0,
    "how": "bf16 (as asked)",
    "machine": {"processor": "a processor"},
    "date": "2026-01-01",
    "commit": "abc",
}


def test_cost_is_held_against_the_reference_of_the_same_moment() -> None:
    """A machine that is three times slower in a turn is so for both: the middle ratio counts, not that of medians."""
    assert length_report.times(1024, FACTS) == pytest.approx(1.5)


def test_the_page_says_which_lengths_are_from_where() -> None:
    """Lengths come in order of size, and those of another machine are told apart."""
    other = FACTS | {"machine": {"processor": "another"}}
    page = length_report.page({"bge-m3": {"1024": FACTS, "256": FACTS, "8192": other}})
    assert "Machine of 256, 1024 tokens: a processor; bf16 (as asked); 2026-01-01 at abc." in page
    assert "Machine of 8192 tokens: another;" in page
    assert "| 1024 | 9,000 | 8.79 | 1.50 | 12% | 40 | 4 | 3 |" in page
    assert page.index("| 256 |") < page.index("| 1024 |") < page.index("| 8192 |")
