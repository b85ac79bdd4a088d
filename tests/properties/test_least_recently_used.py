"""The cache of vectors: never over its bound, what was used longest ago goes first, and what it gives is right."""

import hashlib
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quartzite.batching.cache import KEPT_BESIDE, VectorCache

DIMENSIONS = 3
ENTRY = 4 * DIMENSIONS + KEPT_BESIDE
steps = st.lists(st.tuples(st.sampled_from(["find", "keep"]), st.integers(0, 4)), max_size=30)


@given(st.integers(1, 4), st.integers(0, ENTRY - 1), steps)
def test_the_least_recently_used_goes_first_and_the_bound_holds(
    room: int, more: int, steps: list[tuple[str, int]]
) -> None:
    """Step by step as a list in the order of use has it; a vector kept anew replaces the old one."""
    max_bytes = room * ENTRY + more
    cache, expected = VectorCache(max_bytes, DIMENSIONS), OrderedDict[int, float]()
    for number, (step, key) in enumerate(steps):
        fingerprint = bytes([key])
        if step == "keep":
            evicted = cache.keep(fingerprint, np.full(DIMENSIONS, number, dtype=np.float32))
            expected.pop(key, None)
            assert evicted == (len(expected) == room)
            if evicted:
                expected.popitem(last=False)
            expected[key] = number
        else:
            found = cache.find(fingerprint)
            assert (None if found is None else found.tolist()) == (
                [expected[key]] * DIMENSIONS if key in expected else None
            )
            if key in expected:
                expected.move_to_end(key)
        assert len(cache) == len(expected)
        assert cache.held_bytes == len(expected) * ENTRY <= max_bytes
    held = {key: cache.find(bytes([key])) for key in range(5)}
    assert {key: vector[0] for key, vector in held.items() if vector is not None} == expected


@pytest.mark.parametrize("entries", [700, 1400, 2800, 6000])
def test_all_that_it_takes_is_counted(entries: int) -> None:
    """The interpreter's own count of its memory, full and after many evictions, is below what the cache says."""
    dimensions = 16
    tracemalloc.start()
    try:
        cache = VectorCache(entries * (4 * dimensions + KEPT_BESIDE), dimensions)
        for number in range(2 * entries):
            digest = hashlib.blake2b(str(number).encode(), digest_size=16).digest()
            cache.keep(digest, np.zeros(dimensions, dtype=np.float32))
            if number % 100 == 99 and number > 500:
                assert tracemalloc.get_traced_memory()[0] <= cache.held_bytes + (entries - len(cache)) * 4 * dimensions
    finally:
        tracemalloc.stop()


def test_a_bound_without_room_for_one_vector_is_refused_with_what_one_takes() -> None:
    """A cache that could keep nothing would be a setting without effect."""
    with pytest.raises(ValueError, match=f"{ENTRY - 1} bytes .* takes {ENTRY}"):
        VectorCache(ENTRY - 1, DIMENSIONS)
