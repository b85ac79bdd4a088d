"""The reference poolings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quartzite.postprocess.pooling import POOLING

poolings = st.sampled_from(sorted(POOLING))


def _states(lengths: list[int], width: int) -> list[np.ndarray]:
    random = np.random.default_rng(len(lengths))
    return [random.standard_normal((n, width)).astype(np.float32) for n in lengths]


def _padded(items: list[np.ndarray], side: str, padding: float) -> tuple[np.ndarray, np.ndarray]:
    longest = max(len(item) for item in items)
    states = np.full((len(items), longest, items[0].shape[1]), padding, dtype=np.float32)
    mask = np.zeros((len(items), longest), dtype=np.int64)
    for row, item in enumerate(items):
        place = slice(0, len(item)) if side == "right" else slice(longest - len(item), longest)
        states[row, place], mask[row, place] = item, 1
    return states, mask


@given(poolings, st.lists(st.integers(1, 6), min_size=1, max_size=4), st.sampled_from(["left", "right"]))
def test_padding_never_shows_in_the_result(pooling: str, lengths: list[int], side: str) -> None:
    """An item pooled in a padded batch, padded on either side with huge values, equals the item pooled alone."""
    items = _states(lengths, 3)
    together = POOLING[pooling](*_padded(items, side, 1e6))
    alone = [POOLING[pooling](item[np.newaxis], np.ones((1, len(item)), dtype=np.int64))[0] for item in items]
    assert together.dtype == np.float32
    assert np.allclose(together, alone, atol=1e-6)


def test_each_pooling_takes_what_its_name_says() -> None:
    """First, last, mean and largest of three known token states, with padding behind them."""
    states = np.array([[[1, -5], [2, 7], [6, -2], [9, 9]]], dtype=np.float32)
    mask = np.array([[1, 1, 1, 0]])
    pooled = {name: pool(states, mask)[0].tolist() for name, pool in POOLING.items()}
    assert pooled == {"cls": [1, -5], "last": [6, -2], "mean": [3, 0], "max": [6, 7]}


@pytest.mark.parametrize("pooling", sorted(POOLING))
def test_a_row_without_tokens_is_refused(pooling: str) -> None:
    """There is nothing to pool in an empty row, and no pooling makes something up."""
    with pytest.raises(ValueError, match="no token"):
        POOLING[pooling](np.ones((2, 2, 2), dtype=np.float32), np.array([[1, 1], [0, 0]]))
