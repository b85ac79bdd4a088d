"""Trace ids."""

import re

from hypothesis import given
from hypothesis import strategies as st

from quartzite.telemetry.trace import new_trace_id, trace_id

milliseconds = st.integers(0, 2**48 - 1)
entropies = st.binary(min_size=10, max_size=10)


@given(milliseconds, milliseconds, entropies, entropies)
def test_ids_sort_by_time(earlier: int, later: int, one: bytes, other: bytes) -> None:
    """Whatever their random parts, ids of different milliseconds sort as text in the order of time."""
    if earlier == later:
        return
    ids = [trace_id(min(earlier, later), one), trace_id(max(earlier, later), other)]
    assert ids == sorted(ids)


@given(milliseconds, entropies)
def test_an_id_is_a_ulid_that_keeps_every_bit(unix_ms: int, entropy: bytes) -> None:
    """Reading the 26 characters as base32 gives time and entropy back."""
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    text = trace_id(unix_ms, entropy)
    assert re.fullmatch(rf"ti_[0-7][{alphabet}]{{25}}", text)
    number = 0
    for character in text[3:]:
        number = number * 32 + alphabet.index(character)
    assert number == unix_ms << 80 | int.from_bytes(entropy, "big")


def test_the_ulid_of_a_known_time_starts_as_the_specification_says() -> None:
    """The specification's own example: 1469918176385 ms begins with 01ARYZ6S41."""
    assert trace_id(1469918176385, bytes(10)) == "ti_01ARYZ6S41" + "0" * 16


def test_no_two_requests_share_an_id() -> None:
    """Ids made in the same millisecond still differ."""
    assert len({new_trace_id() for _ in range(1000)}) == 1000
