"""What the vision tower is told of pictures, against slow and plain ways to say the same."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quartzite.domain import Encoded, Picture
from quartzite.engines.openvino.pictures import (
    groups,
    in_blocks,
    laid,
    padded_length,
    patch_values,
    position_embeddings,
    rope_positions,
    rotary_tables,
)

sides = st.integers(1, 5)


def blocks(rows: int, columns: int) -> list[tuple[int, int]]:
    """Row and column of every patch in the order of patches."""
    return [
        (2 * block_row + row, 2 * block_column + column)
        for block_row in range(rows // 2)
        for block_column in range(columns // 2)
        for row in range(2)
        for column in range(2)
    ]


def drawn(rows: int, columns: int) -> Picture:
    pixels = np.random.default_rng(rows * 100 + columns).integers(0, 256, (32 * rows, 32 * columns, 3), dtype=np.uint8)
    return Picture(pixels)


@given(sides, sides)
def test_a_patch_holds_its_pixels_channel_by_channel(rows: int, columns: int) -> None:
    """Patch by patch in blocks of two by two; in each all red values, then green, then blue, from -1 to 1."""
    picture = drawn(rows, columns)
    values = patch_values(picture)
    for patch, (row, column) in zip(values, blocks(2 * rows, 2 * columns), strict=True):
        square = picture.pixels[16 * row : 16 * row + 16, 16 * column : 16 * column + 16].astype(np.float64)
        expected = (square / 255 - 0.5) / 0.5
        np.testing.assert_allclose(patch.reshape(3, 16, 16), expected.transpose(2, 0, 1), atol=1e-6)


@given(sides, sides, st.integers(2, 7))
def test_positions_are_stretched_over_the_grid(rows: int, columns: int, side: int) -> None:
    """Corners keep the table's corners; between them every patch takes from the four places round it."""
    table = np.random.default_rng(side).standard_normal((side, side, 3)).astype(np.float32)
    grid = (2 * rows, 2 * columns)
    found = position_embeddings(table, grid)
    for vector, (row, column) in zip(found, blocks(*grid), strict=True):
        down, across = row * (side - 1) / (grid[0] - 1), column * (side - 1) / (grid[1] - 1)
        top, left = min(int(down), side - 2), min(int(across), side - 2)
        low, right = down - top, across - left
        upper = (1 - right) * table[top, left] + right * table[top, left + 1]
        lower = (1 - right) * table[top + 1, left] + right * table[top + 1, left + 1]
        np.testing.assert_allclose(vector, (1 - low) * upper + low * lower, atol=1e-5)


@given(sides, sides, st.sampled_from([16, 36, 64, 72]))
def test_rotary_tables_turn_by_row_and_column(rows: int, columns: int, size: int) -> None:
    """The first quarter of a head turns by the row, the second by the column, and the second half as the first."""
    cosine, sine = rotary_tables((2 * rows, 2 * columns), size)
    quarter = size // 4
    frequencies = [10_000 ** (-2 * number / (size // 2)) for number in range(quarter)]
    for place, (row, column) in enumerate(blocks(2 * rows, 2 * columns)):
        angles = np.array([row * f for f in frequencies] + [column * f for f in frequencies])
        np.testing.assert_allclose(cosine[place], np.tile(np.cos(angles), 2), atol=1e-6)
        np.testing.assert_allclose(sine[place], np.tile(np.sin(angles), 2), atol=1e-6)


@given(sides, sides)
def test_blocks_follow_the_order_of_patches(rows: int, columns: int) -> None:
    """Values of a grid come out in the order in which its patches stand."""
    grid = np.arange(4 * rows * columns, dtype=np.float32).reshape(2 * rows, 2 * columns, 1)
    expected = [grid[row, column, 0] for row, column in blocks(2 * rows, 2 * columns)]
    assert in_blocks(grid)[:, 0].tolist() == expected


@given(sides, sides, st.integers(0, 9), st.integers(1, 9))
def test_tokens_of_a_picture_have_its_rows_and_columns(rows: int, columns: int, before: int, after: int) -> None:
    """Time stands still over a picture, row and column count from its place, and text goes on after the longer side."""
    picture = drawn(rows, columns)
    item = Encoded(np.zeros(before + rows * columns + after, dtype=np.int32), picture, before)
    expected = [(place,) * 3 for place in range(before)]
    expected += [(before, before + row, before + column) for row in range(rows) for column in range(columns)]
    expected += [(before + max(rows, columns) + place,) * 3 for place in range(after)]
    assert rope_positions(item).T.tolist() == [list(position) for position in expected]


def test_text_counts_on_along_all_axes() -> None:
    """Without a picture the three positions of a token are one."""
    assert rope_positions(Encoded(np.zeros(3, dtype=np.int32))).tolist() == [[0, 1, 2]] * 3


@given(st.lists(st.tuples(sides, sides), max_size=12), st.integers(4, 80))
def test_groups_keep_the_order_and_the_bound(grids: list[tuple[int, int]], most: int) -> None:
    """No picture is lost or moved, and only one that is larger than the bound stands in a group above it, alone."""
    shown = [drawn(rows, columns) for rows, columns in grids]
    divided = groups(shown, most)
    assert [picture for group in divided for picture in group] == shown
    for group in divided:
        assert group
        assert len(group) == 1 or sum(4 * picture.tokens for picture in group) <= most


@given(st.integers(1, 8000).map(lambda tokens: 4 * tokens))
def test_lengths_of_runs_are_few(patches: int) -> None:
    """A run is filled up to one of few lengths, each a whole number of tokens and a little longer at most."""
    length = padded_length(patches)
    assert patches <= length < patches + 128
    assert length % 4 == 0
    assert padded_length(length) == length


def test_all_pictures_together_have_few_lengths() -> None:
    """Of up to 1,800 tokens, the most that a picture has, there are fewer than a hundred."""
    assert len({padded_length(4 * tokens) for tokens in range(1, 1801)}) < 100


def test_parts_are_laid_end_to_end() -> None:
    """What is left of the length is zeros."""
    one, other = np.ones((2, 3), dtype=np.float32), np.full((1, 3), 2, dtype=np.float32)
    assert laid([one, other], 5)[:, 0].tolist() == [1, 1, 2, 0, 0]
