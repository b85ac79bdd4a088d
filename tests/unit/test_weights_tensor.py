"""Converting stored tensors to float32."""

import numpy as np
import pytest

from quartzite.errors import WeightsRefused
from quartzite.weights.tensor import Tensor, bf16_to_f32
from weight_files import bf16_bits, counted, one_of_each_dtype

TENSORS = {name: Tensor(name, dtype, values) for name, (dtype, values) in one_of_each_dtype().items()}  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "shape"), [("f32", (2, 3)), ("f16", (5,)), ("bf16", (3, 2)), ("f64", (2,))])
def test_floats_become_float32(name: str, shape: tuple[int, ...]) -> None:
    """Values that are exact in every float dtype come out equal from each."""
    converted = TENSORS[name].as_f32()
    assert converted.dtype == np.float32
    assert np.array_equal(converted, counted(*shape))


def test_float32_is_not_copied() -> None:
    """What is stored as float32 stays where it is."""
    assert TENSORS["f32"].as_f32() is TENSORS["f32"].data


@pytest.mark.parametrize("name", ["i64", "i32", "i16", "i8", "u8", "bool"])
def test_integers_are_refused_by_name(name: str) -> None:
    """Where floats are expected an integer tensor is named with its dtype."""
    with pytest.raises(WeightsRefused, match=f"tensor {name} has dtype {TENSORS[name].dtype}"):
        TENSORS[name].as_f32()


def test_bf16_keeps_every_bit() -> None:
    """All 65,536 patterns, infinities and signed zeros and NaN among them, are the upper halves of their float32."""
    patterns = np.arange(2**16, dtype=np.uint16)
    wide = bf16_to_f32(patterns)
    assert np.array_equal(wide.view(np.uint32) >> 16, patterns)
    assert not (wide.view(np.uint32) & 0xFFFF).any()
    assert np.array_equal(bf16_bits(wide), patterns)
    assert bf16_to_f32(np.array(0x3FC0, np.uint16)) == 1.5
