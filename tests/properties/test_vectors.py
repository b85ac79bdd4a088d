"""Vectors on their way out: cut, unit length, and exact in both encodings."""

import base64

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from quartzite.domain import Vectors
from quartzite.errors import EngineFault
from quartzite.postprocess.vectors import encode_base64, finish

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
any_shape = arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
any_vectors = arrays.arrays(np.float32, any_shape, elements=finite)
nonzero = any_vectors.filter(lambda v: bool(v.any(axis=1).all()))


@given(nonzero)
def test_every_vector_leaves_with_unit_length_in_its_own_direction(vectors: Vectors) -> None:
    """Whatever its size, from denormal to the largest float32, a vector is scaled to length one and not turned."""
    finished = finish(vectors, None).astype(np.float64)
    assert np.allclose(np.linalg.norm(finished, axis=1), 1, atol=1e-6)
    wide = vectors.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True)
    along = np.einsum("bd,bd->b", finished, wide / largest)
    assert np.allclose(along, np.linalg.norm(wide / largest, axis=1), rtol=1e-6)


@given(any_vectors, st.data())
def test_dimensions_cut_first_and_normalise_afterwards(vectors: Vectors, data: st.DataObject) -> None:
    """Cutting to d gives what the first d values alone would give."""
    kept = data.draw(st.integers(1, vectors.shape[1]))
    vectors[:, 0] = 1
    finished = finish(vectors, kept)
    assert finished.shape == (len(vectors), kept)
    assert finished.flags.c_contiguous
    assert np.array_equal(finished, finish(np.ascontiguousarray(vectors[:, :kept]), None))


@given(any_vectors)
def test_base64_is_little_endian_float32_and_loses_nothing(vectors: Vectors) -> None:
    """Decoding each text as little-endian float32 gives the row back, bit for bit."""
    decoded = [np.frombuffer(base64.b64decode(text, validate=True), "<f4") for text in encode_base64(vectors)]
    assert np.array_equal(np.stack(decoded).view(np.uint32), vectors.view(np.uint32))


@given(any_vectors)
def test_floats_are_written_as_decimals_that_read_back_exactly(vectors: Vectors) -> None:
    """A reader that takes the JSON numbers as doubles and rounds to float32 has the same bits."""
    text = orjson.dumps(list(vectors), option=orjson.OPT_SERIALIZE_NUMPY)
    back = np.array(orjson.loads(text), dtype=np.float64).astype(np.float32)
    assert np.array_equal(back.view(np.uint32), vectors.view(np.uint32))


@given(st.lists(finite, min_size=1, max_size=50))
def test_floats_are_written_with_no_digit_too_many(values: list[float]) -> None:
    """The decimals are the shortest of float32: as many digits as numpy's own shortest form has."""
    row = np.array(values, dtype=np.float32)
    written = orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY).decode()[1:-1].split(",")
    shortest = [np.format_float_scientific(value, unique=True) for value in row]
    assert [_digits(text) for text in written] == [_digits(text) for text in shortest]


def _digits(number: str) -> str:
    mantissa = number.lower().split("e")[0].lstrip("-").replace(".", "")
    return mantissa.strip("0")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 3])
def test_a_value_that_is_not_finite_is_an_engine_fault(value: float, place: int) -> None:
    """One bad value refuses the vectors, also one that the cut would have hidden."""
    vectors = np.ones((2, 4), dtype=np.float32)
    vectors[1, place] = value
    with pytest.raises(EngineFault):
        finish(vectors, 2)


def test_a_vector_of_zeros_is_an_engine_fault() -> None:
    """Zeros have no direction: they are refused, also when only the cut leaves nothing else."""
    vectors = np.array([[1, 0, 0], [0, 0, 1]], dtype=np.float32)
    with pytest.raises(EngineFault):
        finish(vectors, 2)
    with pytest.raises(EngineFault):
        finish(np.zeros((1, 3), dtype=np.float32), None)
