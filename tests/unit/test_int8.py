"""Row-wise int8 weights and the file they are kept in."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quartzite.engines.openvino.int8 import GROUP, SCALE, SMOOTHING, Smoothing, quantise, with_int8_products
from quartzite.errors import WeightsRefused
from quartzite.weights.tensor import Tensor


@given(arrays(np.float32, (4, 6), elements=st.floats(-1e4, 1e4, width=32)))
def test_levels_times_scales_is_the_matrix_within_half_a_level(matrix: np.ndarray) -> None:
    """No weight moves by more than half of its row's step, and no level leaves -127..127."""
    levels, scales = quantise(matrix)
    assert levels.dtype == np.int8
    assert np.abs(levels.astype(int)).max() <= 127
    assert (np.abs(levels * scales - matrix) <= scales * 0.5001).all()


def test_every_row_has_its_own_scale() -> None:
    """A row of small weights keeps its resolution beside a row of large ones."""
    levels, scales = quantise(np.array([[1e-3, -5e-4], [100.0, 50.0], [0.0, 0.0]], dtype=np.float32))
    assert levels.tolist() == [[127, -64], [127, 64], [0, 0]]
    assert scales[2, 0] == 1.0


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"some weights")
    return folder


def _tensors() -> dict[str, Tensor]:
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((3, 5)).astype(np.float32)
    bits = (generator.standard_normal((2, 3)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return {"a": Tensor("a", "F32", matrix), "b": Tensor("b", "BF16", bits), "bias": Tensor("bias", "F32", matrix[0])}


def test_products_are_replaced_and_the_rest_is_left(tmp_path: Path) -> None:
    """Named matrices come back as int8 with a scale, also from bf16; everything else is the very same tensor."""
    tensors = _tensors()
    result = with_int8_products(tensors, ["a", "b"], _folder(tmp_path), tmp_path / "cache")
    assert result["bias"] is tensors["bias"]
    for name in ("a", "b"):
        levels, scales = quantise(tensors[name].as_f32())
        assert result[name].dtype == "I8"
        assert result[name].data.tolist() == levels.tolist()
        assert result[name + SCALE].data.tolist() == scales.tolist()


def test_the_second_start_reads_the_file(tmp_path: Path) -> None:
    """Weights are quantised once; nothing is written again while the folder stays as it is."""
    folder, cache = _folder(tmp_path), tmp_path / "cache"
    with_int8_products(_tensors(), ["a"], folder, cache)
    (file,) = (cache / "int8").iterdir()
    before = file.stat()
    with_int8_products(_tensors(), ["a"], folder, cache)
    assert [path.stat().st_ino for path in (cache / "int8").iterdir()] == [before.st_ino]


def test_changed_weights_make_another_file(tmp_path: Path) -> None:
    """A folder whose weights were replaced is never served from the old quantised file."""
    folder, cache = _folder(tmp_path), tmp_path / "cache"
    with_int8_products(_tensors(), ["a"], folder, cache)
    (folder / "model.safetensors").write_bytes(b"other weights")
    with_int8_products(_tensors(), ["a"], folder, cache)
    assert len(list((cache / "int8").iterdir())) == 2


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    """When quantising fails half-way, no file is left that a later start could take for whole."""
    tensors = {"a": Tensor("a", "I64", np.ones((2, 2), dtype=np.int64))}
    with pytest.raises(WeightsRefused, match="float"):
        with_int8_products(tensors, ["a"], _folder(tmp_path), tmp_path / "cache")
    assert list((tmp_path / "cache" / "int8").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The message tells which file could not be made."""
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(WeightsRefused, match=r"int8 weights to .*cache"):
        with_int8_products(_tensors(), ["a"], _folder(tmp_path), tmp_path / "cache")


def test_rows_of_the_smallest_numbers_are_finite() -> None:
    """A row whose 127th part is no number any more becomes zeros, not infinities."""
    levels, scales = quantise(np.array([[1e-45, 0.0]], dtype=np.float32))
    assert levels.tolist() == [[0, 0]]
    assert scales.tolist() == [[1.0]]


def test_every_group_of_a_row_has_its_own_scale() -> None:
    """Small weights beside large ones of the same row keep their resolution when they are of another group."""
    levels, scales = quantise(np.array([[1e-3, -5e-4, 100.0, 50.0]], dtype=np.float32), groups=2)
    assert levels.tolist() == [[127, -64, 127, 64]]
    np.testing.assert_allclose(scales, [[1e-3 / 127, 100 / 127]])


def test_smoothed_products_give_the_same_for_smoothed_states(tmp_path: Path) -> None:
    """What the states are multiplied with has been divided out of the matrix; rows that hold whole groups have them."""
    generator = np.random.default_rng(1)
    matrix = generator.standard_normal((4, 2 * GROUP)).astype(np.float32)
    states = generator.standard_normal((3, 2 * GROUP)).astype(np.float32)
    multipliers = generator.uniform(0.5, 2, 2 * GROUP).astype(np.float32)
    smoothing = [Smoothing("place", ("a",), multipliers)]
    tensors = {"a": Tensor("a", "F32", matrix), "b": Tensor("b", "F32", matrix[:, :10].copy())}
    result = with_int8_products(tensors, ["a", "b"], _folder(tmp_path), tmp_path / "cache", lambda: smoothing)
    levels, scales = result["a"].data.astype(np.float32), result["a" + SCALE].as_f32()
    assert scales.shape == (4, 2)
    assert result["b" + SCALE].shape == (4, 1)
    product = (states * result["place" + SMOOTHING].as_f32()) @ (levels * np.repeat(scales, GROUP, axis=1)).T
    cosine = (product * (states @ matrix.T)).sum() / np.linalg.norm(product) / np.linalg.norm(states @ matrix.T)
    assert cosine > 0.9999


def test_smoothed_and_plain_files_do_not_mix(tmp_path: Path) -> None:
    """The same folder in both forms of int8 has two files, and each start finds its own."""
    folder, cache = _folder(tmp_path), tmp_path / "cache"
    plain = with_int8_products(_tensors(), ["a"], folder, cache)
    made: list[int] = []

    def smooth() -> list[Smoothing]:
        made.append(1)
        return [Smoothing("place", ("a",), np.full(5, 2, dtype=np.float32))]

    for _ in range(2):
        smoothed = with_int8_products(_tensors(), ["a"], folder, cache, smooth)
        assert "place" + SMOOTHING in smoothed
        assert smoothed["a" + SCALE].data.tolist() != plain["a" + SCALE].data.tolist()
    assert made == [1]
    assert len(list((cache / "int8").iterdir())) == 2
