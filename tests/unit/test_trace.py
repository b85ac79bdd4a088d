"""Trace ids."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from quartzite.telemetry.trace import new_trace_id, trace_id, w3c_trace_id

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


TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENTS = {
    f"00-{TRACE}-{PARENT}-01": TRACE,
    f"00-{TRACE}-{PARENT}-00": TRACE,
    f"01-{TRACE}-{PARENT}-01": TRACE,
    f"cc-{TRACE}-{PARENT}-01-what-the-future-brings": TRACE,
    f"00-{TRACE}-{PARENT}-01-": None,
    f"00-{TRACE}-{PARENT}-01-more": None,
    f"ff-{TRACE}-{PARENT}-01": None,
    f"00-{'0' * 32}-{PARENT}-01": None,
    f"00-{TRACE}-{'0' * 16}-01": None,
    f"00-{TRACE.upper()}-{PARENT}-01": None,
    f"00-{TRACE}-{PARENT}-0": None,
    f"00-{TRACE}-{PARENT}-01\n": None,
    f"00-{TRACE[1:]}-{PARENT}-01": None,
    "": None,
}


@pytest.mark.parametrize(("header", "found"), TRACEPARENTS.items())
def test_the_w3c_trace_id_of_a_valid_header_is_found_and_others_are_ignored(header: str, found: str | None) -> None:
    """The specification's own example and ways to get it wrong."""
    assert w3c_trace_id(header.encode()) == found


@given(st.from_regex(r"(00|01|fe|ff)-[0a]{31,33}-[0b]{16}-0[01](-x)?", fullmatch=True))
def test_a_header_is_read_as_opentelemetry_reads_it(header: str) -> None:
    """With and without the library the log tells of the same trace."""
    context = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": header})).get_span_context()
    assert w3c_trace_id(header.encode()) == (f"{context.trace_id:032x}" if context.is_valid else None)
