"""What holds for any names, shapes and prefix of an architecture."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quartzite.errors import WeightsRefused
from quartzite.weights.layout import match
from quartzite.weights.tensor import Tensor

PREFIXES = ("", "bert.", "model.")
NAMES = st.text("abc.", min_size=1, max_size=6)
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
ARCHITECTURES = st.dictionaries(NAMES, SHAPES, min_size=1, max_size=6)


def _tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor(name, "F32", np.zeros(shape, np.float32))


def _folder(expected: dict[str, tuple[int, ...]], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: _tensor(prefix + name, shape) for name, shape in expected.items()}


@given(expected=ARCHITECTURES, prefix=st.sampled_from(PREFIXES), order=st.permutations(PREFIXES))
def test_what_fits_is_found_under_its_prefix(
    expected: dict[str, tuple[int, ...]], prefix: str, order: list[str]
) -> None:
    """All tensors come back under the expected names, each the right one, whatever the order of the prefixes."""
    found = match(_folder(expected, prefix), expected, order, ())
    assert {name: tensor.name for name, tensor in found.items()} == {name: prefix + name for name in expected}


@given(expected=ARCHITECTURES, prefix=st.sampled_from(PREFIXES), data=st.data())
def test_one_difference_is_enough_to_be_refused(
    expected: dict[str, tuple[int, ...]], prefix: str, data: st.DataObject
) -> None:
    """One tensor renamed, lost, added or of another shape, and the folder is refused with that name in the message."""
    folder = _folder(expected, prefix)
    name = prefix + data.draw(st.sampled_from(sorted(expected)))
    change = data.draw(st.sampled_from(["lose", "rename", "add", "reshape", "other prefix"]))
    if change in ("lose", "rename", "other prefix"):
        shape = folder.pop(name).shape
    if change == "rename":
        folder[name + "x"] = _tensor(name + "x", shape)
    if change == "other prefix":
        folder["other." + name] = _tensor("other." + name, shape)
    if change == "add":
        name += "x"
        folder[name] = _tensor(name, ())
    if change == "reshape":
        folder[name] = _tensor(name, (*folder[name].shape, 1))
    with pytest.raises(WeightsRefused) as caught:
        match(folder, expected, PREFIXES, ())
    assert change == "lose" or repr(name)[1:-1] in str(caught.value)
