"""Packs the items of a micro-batch end to end into the arrays a graph takes; numpy only, knows no OpenVINO.

A packed row has T places: the items' tokens, then a tail up to the bucket's length that belongs to no item.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quartzite.domain import Encoded, Ids
from quartzite.engines.blocks import Layout
from quartzite.registry.card import OF_ONE_TOKEN, Pooling
from quartzite.weights.tensor import Tensor, bf16_to_f32

Arrays = Mapping[str, NDArray[np.generic]]
TAIL = -1
SLOT_STEP = 16
"""Slots for one token of each item are in multiples of so many, one tile of the products."""


class EmbeddingTable:
    """Rows of a stored embedding table, looked up in the mapped file: only the pages that are used stay in memory."""

    def __init__(self, tensor: Tensor) -> None:
        self._data = tensor.data if tensor.dtype in ("F32", "F16", "BF16") else tensor.as_f32()
        self._is_bf16 = tensor.dtype == "BF16"

    def rows(self, ids: Ids) -> NDArray[np.float32]:
        """Return the rows float32 (n, hidden) of `ids` int32 (n,)."""
        rows = np.take(self._data, ids, axis=0)
        return bf16_to_f32(rows) if self._is_bf16 else rows.astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True, eq=False)
class Seen(Encoded):
    """An item whose picture has been through the vision tower.

    `features` float32 (1 + deep, n, hidden) of its n image tokens: their embeddings, and what is added to their states
    after each of the first layers.
    """

    features: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Where every token of a micro-batch lies.

    `ids`, `positions`, `segments` are int32 (T,), `lengths` and `starts` int32 (B,). Positions restart at 0 with every
    item; segments number the items, TAIL marks places of no item; `starts` are the places of the items' first tokens.
    """

    ids: Ids
    positions: Ids
    segments: Ids
    lengths: Ids
    starts: Ids


def pack(batch: Sequence[Encoded], layout: Layout) -> PackedRow:
    """Lay the items of `batch` in a row as `layout` says; raises IndexError where one finds no room."""
    ids = np.zeros(layout.length, dtype=np.int32)
    positions = np.zeros(layout.length, dtype=np.int32)
    segments = np.full(layout.length, TAIL, dtype=np.int32)
    lengths = np.array([item.tokens for item in batch], dtype=np.int32)
    starts = np.array(layout.starts, dtype=np.int32)
    in_item = np.arange(lengths.sum(), dtype=np.int32) - np.repeat(
        np.cumsum(lengths, dtype=np.int32) - lengths, lengths
    )
    places = np.repeat(starts, lengths) + in_item
    ids[places] = np.concatenate([item.ids for item in batch])
    positions[places] = in_item
    segments[places] = np.repeat(np.arange(len(batch), dtype=np.int32), lengths)
    return PackedRow(ids, positions, segments, lengths, starts)


def pooling_arrays(row: PackedRow, pooling: Pooling, slots: int) -> dict[str, NDArray[np.generic]]:
    """Return the graph inputs `members` and, for mean pooling, `counts` for `slots` item slots (see `graph.pool`).

    `members` for one token of each item are as many as the items need, int32 (N,).
    """
    if pooling in OF_ONE_TOKEN:
        places = row.starts if pooling == "cls" else row.starts + row.lengths - 1
        members = np.zeros(-(-len(places) // SLOT_STEP) * SLOT_STEP, dtype=np.int32)
        members[: len(places)] = places
        return {"members": members}
    matrix = (row.segments[None, :] == np.arange(slots, dtype=np.int32)[:, None]).astype(np.float32)
    if pooling == "max":
        return {"members": matrix}
    counts = np.ones((slots, 1), dtype=np.float32)
    counts[: len(row.lengths), 0] = row.lengths
    return {"members": matrix, "counts": counts}


class RotaryTables:
    """Cosines and sines of rotary positions, made in float64 and kept as float32 (positions, head_size / 2)."""

    def __init__(self, positions: int, head_size: int, theta: float) -> None:
        frequencies = theta ** (-np.arange(0, head_size, 2, dtype=np.float64) / head_size)
        angles = np.arange(positions, dtype=np.float64)[:, None] * frequencies[None, :]
        self._tables = {"cosine": np.cos(angles).astype(np.float32), "sine": np.sin(angles).astype(np.float32)}

    def at(self, positions: Ids) -> dict[str, NDArray[np.generic]]:
        """Return the graph inputs `cosine` and `sine`, float32 (T, 1, 1, head_size), of `positions` int32 (T,)."""
        return {name: np.tile(table[positions], 2)[:, None, None] for name, table in self._tables.items()}

    def along(self, positions: Ids, axes: Ids) -> dict[str, NDArray[np.generic]]:
        """Return the inputs `cosine` and `sine`, as `at` does, of `positions` int32 (A, T) along A axes.

        `axes` int32 (head_size / 2) gives each frequency the axis by which it turns.
        """
        places = positions[axes].T
        numbers = np.arange(len(axes))
        return {name: np.tile(table[places, numbers], 2)[:, None, None] for name, table in self._tables.items()}
