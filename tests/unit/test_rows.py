"""Packing of micro-batches into rows, and the arrays made of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quartzite.domain import Encoded
from quartzite.engines.blocks import Layout, end_to_end
from quartzite.engines.openvino.rows import (
    TAIL,
    EmbeddingTable,
    PackedRow,
    RotaryTables,
    pack,
    pooling_arrays,
)
from quartzite.postprocess.pooling import POOLING
from quartzite.registry.card import Pooling
from quartzite.weights.tensor import Tensor


def _items(*lengths: int) -> list[Encoded]:
    return [Encoded(np.arange(n, dtype=np.int32) + 10 * place) for place, n in enumerate(lengths)]


def _row(lengths: list[int], length: int) -> PackedRow:
    return pack(_items(*lengths), end_to_end(lengths, length))


def test_items_lie_end_to_end_with_positions_from_zero() -> None:
    """Each item keeps its ids, starts at position 0 and has a segment of its own; the tail belongs to none."""
    row = _row([2, 3], 8)
    assert row.ids.tolist() == [0, 1, 10, 11, 12, 0, 0, 0]
    assert row.positions.tolist() == [0, 1, 0, 1, 2, 0, 0, 0]
    assert row.segments.tolist() == [0, 0, 1, 1, 1, TAIL, TAIL, TAIL]
    assert row.starts.tolist() == [0, 2]


def test_items_lie_where_the_layout_has_them() -> None:
    """In blocks of 4 the tail of each belongs to no item, and the order of items is kept."""
    row = pack(_items(2, 3, 1), Layout(8, 4, (4, 0, 6)))
    assert row.ids.tolist() == [10, 11, 12, 0, 0, 1, 20, 0]
    assert row.positions.tolist() == [0, 1, 2, 0, 0, 1, 0, 0]
    assert row.segments.tolist() == [1, 1, 1, TAIL, 0, 0, 2, TAIL]
    assert row.starts.tolist() == [4, 0, 6]


def test_a_row_too_short_for_its_items_is_refused() -> None:
    """Packing never drops tokens silently."""
    with pytest.raises(IndexError):
        _row([5, 5], 8)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 20))
def test_every_token_is_in_the_row_once(lengths: list[int], tail: int) -> None:
    """Reading the row segment by segment gives the items back."""
    items = _items(*lengths)
    row = _row(lengths, sum(lengths) + tail)
    for place, item in enumerate(items):
        here = row.segments == place
        assert row.ids[here].tolist() == item.ids.tolist()
        assert row.positions[here].tolist() == list(range(item.tokens))


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), tail=st.integers(0, 5))
def test_pooling_arrays_pool_as_the_reference(pooling: Pooling, lengths: list[int], tail: int) -> None:
    """What the graph computes from these arrays is the plain pooling of every item by itself."""
    slots, total = 8, sum(lengths) + tail
    row = _row(lengths, total)
    states = np.random.default_rng(0).standard_normal((total, 3)).astype(np.float32)
    arrays = pooling_arrays(row, pooling, slots)
    for place, n in enumerate(lengths):
        start = int(row.starts[place])
        alone = states[None, start : start + n]
        expected = POOLING[pooling](alone, np.ones((1, n), dtype=np.int64))[0]
        np.testing.assert_allclose(_as_the_graph(states, arrays, pooling)[place], expected, rtol=1e-5, atol=1e-6)


def _as_the_graph(states: np.ndarray, arrays: dict[str, np.ndarray], pooling: Pooling) -> np.ndarray:
    members = arrays["members"]
    if pooling in ("cls", "last"):
        return states[members]
    if pooling == "mean":
        return (members @ states) / arrays["counts"]
    return np.where(members[:, :, None] == 1, states[None], -np.inf).max(axis=1)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_embedding_rows_are_widened_exactly(dtype: str) -> None:
    """A looked-up row holds the stored values as float32, whatever the table is stored in."""
    values = np.array([[1.5, -2.25], [0.0, 3.0], [100.0, -0.5]], dtype=np.float32)
    stored = {
        "F32": values,
        "F16": values.astype(np.float16),
        "BF16": (values.view(np.uint32) >> 16).astype(np.uint16),
    }[dtype]
    rows = EmbeddingTable(Tensor("words", dtype, stored)).rows(np.array([2, 0, 2], dtype=np.int32))
    assert rows.dtype == np.float32
    assert rows.tolist() == values[[2, 0, 2]].tolist()


def test_rows_may_be_changed_without_touching_the_table() -> None:
    """The sums of embeddings are made in place, in the copy."""
    values = np.ones((2, 2), dtype=np.float32)
    rows = EmbeddingTable(Tensor("words", "F32", values)).rows(np.array([0], dtype=np.int32))
    rows += 1
    assert values.tolist() == [[1, 1], [1, 1]]


def test_rotary_tables_hold_far_positions_exactly() -> None:
    """At position 32767, where a bfloat16 angle would be off by many turns, the cosine is that of float64."""
    tables = RotaryTables(32768, 128, 1e6)
    arrays = tables.at(np.array([0, 8191, 32767], dtype=np.int32))
    angles = np.array([0, 8191, 32767])[:, None] * 1e6 ** (-np.arange(0, 128, 2) / 128)
    assert arrays["cosine"].shape == (3, 1, 1, 128)
    np.testing.assert_allclose(arrays["cosine"][:, 0, 0, :64], np.cos(angles), atol=1e-7)
    np.testing.assert_allclose(arrays["sine"][:, 0, 0, 64:], np.sin(angles), atol=1e-7)
