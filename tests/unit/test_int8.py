"""Row-wise int8 weights and the file they are kept in."""

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from openvino import PartialShape, Type, opset15

from quartzite.engines.openvino import graph
from quartzite.engines.openvino.int8 import GROUP, SCALE, SMOOTHING, Smoothing, quantise, with_int8_products
from quartzite.errors import WeightsRefused
from quartzite.weights.tensor import Tensor


@given(arrays(np.float32, (4, 6), elements=st.floats(-1e4, 1e4, width=32)))
@example(np.float32([[2.1798598911036854e-41, 7.527775350352917e-42, -2.099705618944306e-41]]))
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


def test_smoothed_rows_have_a_file_of_their_own(tmp_path: Path) -> None:
    """A file made for groups is not taken where a scale for each row is needed, and the other way round."""
    matrix = np.random.default_rng(2).standard_normal((4, 2 * GROUP)).astype(np.float32)
    tensors, folder = {"a": Tensor("a", "F32", matrix)}, _folder(tmp_path)
    smoothing = [Smoothing("place", ("a",), np.full(2 * GROUP, 2, dtype=np.float32))]
    for group, shape in ((GROUP, (4, 2)), (0, (4, 1)), (GROUP, (4, 2))):
        result = with_int8_products(tensors, ["a"], folder, tmp_path / "cache", lambda: smoothing, group)
        assert result["a" + SCALE].shape == shape


@pytest.mark.parametrize(("out", "inner"), [(64, 72), (48, 72), (32, 32), (16, 16), (192, 40), (512, 504)])
def test_matrices_that_streams_would_expand_together_are_expanded_before(out: int, inner: int) -> None:
    """Where the plugin does not keep int8, streams that expand one matrix at the same time lose its scales."""
    assert not _holds_int8(_product(out, inner))


@pytest.mark.parametrize(("out", "inner"), [(64, 64), (48, 96), (33, 32), (513, 72), (64, 520)])
def test_other_matrices_stay_int8(out: int, inner: int) -> None:
    """Memory is halved only where the graph keeps the levels."""
    assert _holds_int8(_product(out, inner))


@pytest.mark.parametrize("groups", [1, 2])
def test_int8_products_are_right_on_every_stream(groups: int) -> None:
    """Of a product of 72 x 64 one graph in five was wrong where two streams began at the same time."""
    matrix = np.random.default_rng(0).standard_normal((64, 72)).astype(np.float32)
    levels, scales = quantise(matrix, groups)
    rounded = (levels.reshape(64, groups, -1) * scales[:, :, None]).reshape(64, 72)
    states = np.eye(72, dtype=np.float32)[None]
    for _ in range(20):
        model = _model(Tensor("w", "I8", levels), Tensor("s", "F32", scales), 72)
        compiled = ov.Core().compile_model(model, "CPU", {"NUM_STREAMS": 2, "INFERENCE_PRECISION_HINT": "bf16"})
        result = compiled.create_infer_request().infer([states])[0][0].T
        assert np.abs(result - rounded).max() < 0.02 * np.abs(matrix).max()


def _product(out: int, inner: int) -> ov.Model:
    levels, scales = quantise(np.ones((out, inner), dtype=np.float32))
    return _model(Tensor("w", "I8", levels), Tensor("s", "F32", scales), inner)


def _model(weight: Tensor, scale: Tensor, inner: int) -> ov.Model:
    states = opset15.parameter(PartialShape([1, -1, inner]), Type.f32)
    return ov.Model([graph.product(states, weight, scale, None)], [states], "product")


def _holds_int8(model: ov.Model) -> bool:
    return any(node.get_element_type() == Type.i8 for node in model.get_ops())
