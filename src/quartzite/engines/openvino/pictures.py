"""What the vision tower of Qwen3-VL is told of pictures, patch by patch; numpy only, knows no OpenVINO.

Patches stand in blocks of two by two, the blocks row by row and so the patches in each: four in a row become one token.
Recipe: transformers' `Qwen2VLImageProcessor` and `Qwen3VLVisionModel`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quartzite.domain import PATCH_PIXELS, Encoded, Ids, Picture

MERGED = 2
"""Patches on each side of a block."""
CHANNELS = 3
PATCH_VALUES = CHANNELS * PATCH_PIXELS**2
ROTARY_BASE = 10_000.0
Grid = tuple[int, int]
"""Rows and columns of patches."""

_shares = (np.arange(256) * (1 / 255)).astype(np.float32)
NORMALISED = (_shares - np.float32(0.5)) / np.float32(0.5)
"""Every byte as the network takes it: from -1 to 1."""


def patch_values(picture: Picture) -> NDArray[np.float32]:
    """Return the pixels of `picture` as the network takes them, float32 (patches, 768): by channel, row and column."""
    rows, columns = (side // MERGED for side in picture.patches)
    split = picture.pixels.reshape(rows, MERGED, PATCH_PIXELS, columns, MERGED, PATCH_PIXELS, CHANNELS)
    patches = split.transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, PATCH_VALUES)
    return NORMALISED[patches]


def in_blocks(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `values` (rows, columns, X) of a grid's patches in the order of patches, (rows * columns, X)."""
    rows, columns, width = values.shape
    split = values.reshape(rows // MERGED, MERGED, columns // MERGED, MERGED, width)
    return split.transpose(0, 2, 1, 3, 4).reshape(-1, width)


def position_embeddings(table: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Return the learned positions of a grid's patches, float32 (patches, hidden).

    `table` float32 (side, side, hidden) is stretched over the grid, corner on corner, bilinearly.
    """
    down, across = (_stretched(len(table), count) for count in grid)
    rows = np.tensordot(down, table, axes=1)
    return in_blocks(np.matmul(across, rows))


def _stretched(side: int, count: int) -> NDArray[np.float32]:
    """Return the weights (count, side) of the table's places for each of `count` places along one axis."""
    places = np.arange(count) * (side - 1) / max(count - 1, 1)
    weights = np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(side)))
    return weights.astype(np.float32)


def rotary_tables(grid: Grid, head_size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosines and sines of a grid's patches, float32 (patches, head_size) each, made in float64.

    A quarter of the pairs' frequencies turns by the row and as many by the column, and then once more all of them.
    """
    frequencies = ROTARY_BASE ** (-np.arange(0, head_size // 2, 2) / (head_size // 2))
    angles = [np.arange(count)[:, None] * frequencies for count in grid]
    by_row, by_column = (np.broadcast_to(part, (*grid, len(frequencies))) for part in (angles[0][:, None], angles[1]))
    turned = in_blocks(np.concatenate([by_row, by_column] * 2, axis=2))
    return np.cos(turned).astype(np.float32), np.sin(turned).astype(np.float32)


def rope_positions(item: Encoded) -> Ids:
    """Return the positions by time, row and column of an item's tokens, int32 (3, n).

    Text counts on along all three. The tokens of a picture share the time of its first; row and column count from there
    over its grid, and the text goes on after the longer side.
    """
    plain = np.arange(item.tokens, dtype=np.int32)
    if item.picture is None:
        return np.tile(plain, (3, 1))
    rows, columns = (side // MERGED for side in item.picture.patches)
    start, end = item.picture_at, item.picture_at + rows * columns
    positions = np.tile(plain, (3, 1))
    positions[0, start:end] = start
    positions[1, start:end] = start + np.repeat(np.arange(rows), columns)
    positions[2, start:end] = start + np.tile(np.arange(columns), rows)
    positions[:, end:] += max(rows, columns) - rows * columns
    return positions


def groups(pictures: Sequence[Picture], most: int) -> list[list[Picture]]:
    """Divide `pictures`, in order, into groups of at most `most` patches, or of a single picture that has more."""
    divided: list[list[Picture]] = []
    room = 0
    for picture in pictures:
        patches = picture.tokens * MERGED**2
        if not divided or patches > room:
            divided.append([])
            room = most
        divided[-1].append(picture)
        room -= patches
    return divided


def padded_length(patches: int) -> int:
    """Return the length to which a run of `patches` is filled up: every new one costs memory that stays."""
    step = 64 if patches <= 2048 else 128
    return -(-patches // step) * step


def laid(parts: Sequence[NDArray[np.float32]], length: int) -> NDArray[np.float32]:
    """Return `parts` (n, X) end to end in one array (length, X) whose tail is zeros."""
    row = np.zeros((length, parts[0].shape[1]), dtype=np.float32)
    np.concatenate(parts, out=row[: sum(map(len, parts))])
    return row
