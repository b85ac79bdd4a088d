"""Matching the tensors of a folder with those of an architecture."""

from collections.abc import Mapping

import numpy as np
import pytest

from quartzite.errors import WeightsRefused
from quartzite.weights.layout import match
from quartzite.weights.tensor import Tensor

EXPECTED = {"embeddings.weight": (7, 4), "layer.0.weight": (4, 4), "layer.0.bias": (4,)}
PREFIXES = ("", "bert.", "model.")
IGNORABLE = (r"pooler\..*", r"embeddings\.position_ids", r"lm_head\.weight")


def _tensors(shapes: Mapping[str, tuple[int, ...]], prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: Tensor(prefix + name, "F32", np.zeros(shape, np.float32)) for name, shape in shapes.items()}


def _match(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return match(tensors, EXPECTED, PREFIXES, IGNORABLE)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_each_prefix_is_found_and_taken_off(prefix: str) -> None:
    """The answer has the names of the architecture, whatever stood before them in the folder."""
    tensors = _tensors(EXPECTED, prefix)
    found = _match(tensors)
    assert list(found) == list(EXPECTED)
    assert all(found[name] is tensors[prefix + name] for name in EXPECTED)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("unused", ["pooler.dense.weight", "embeddings.position_ids", "lm_head.weight"])
def test_unused_tensors_may_be_there(prefix: str, unused: str) -> None:
    """Ignorable tensors are left out of the answer, with the prefix before their names or without."""
    tensors = _tensors(EXPECTED, prefix)
    assert list(_match(tensors | _tensors({unused: (2,)}, prefix))) == list(EXPECTED)
    assert list(_match(tensors | _tensors({unused: (2,)}))) == list(EXPECTED)


def test_an_ignorable_pattern_may_name_the_prefix() -> None:
    """A pattern also counts when it fits the name as it stands in the folder."""
    tensors = _tensors(EXPECTED, "bert.") | _tensors({"bert.extra": (2,)})
    assert list(match(tensors, EXPECTED, PREFIXES, [r"bert\.extra"])) == list(EXPECTED)


def test_an_ignorable_pattern_covers_whole_names_only() -> None:
    """A name that merely begins or ends like an ignorable one is not expected."""
    for name in ("my_pooler.dense.weight", "embeddings.position_ids.scale", "encoder.lm_head.weight"):
        with pytest.raises(WeightsRefused, match=rf"1 not expected: '{name}' \(2,\)"):
            _match(_tensors(EXPECTED) | _tensors({name: (2,)}))


def test_another_prefix_does_not_make_a_tensor_ignorable() -> None:
    """Only the folder's own prefix is taken off before names are compared with what may be ignored."""
    with pytest.raises(WeightsRefused, match=r"1 not expected: 'bert\.pooler\.bias'"):
        _match(_tensors(EXPECTED, "model.") | _tensors({"pooler.bias": (2,)}, "bert."))


def test_an_unknown_prefix_is_refused() -> None:
    """Under a prefix nobody listed everything is missing and everything unexpected, and both are said."""
    with pytest.raises(WeightsRefused, match=r"3 missing: 'embeddings\.weight' \(7, 4\).*3 not expected: 'other\.emb"):
        _match(_tensors(EXPECTED, "other."))


def test_prefixes_are_not_mixed() -> None:
    """Names that are there under different prefixes are not put together."""
    *most, last = EXPECTED
    tensors = _tensors({name: EXPECTED[name] for name in most}, "bert.") | _tensors({last: EXPECTED[last]})
    with pytest.raises(WeightsRefused, match=r"prefix 'bert\.'.*1 missing: 'bert\.layer\.0\.bias'.*1 not expected"):
        _match(tensors)


def test_a_second_copy_under_another_prefix_is_refused() -> None:
    """With all names there twice nobody could say which are meant."""
    with pytest.raises(WeightsRefused, match="3 not expected"):
        _match(_tensors(EXPECTED) | _tensors(EXPECTED, "model."))


def test_shapes_are_compared() -> None:
    """A tensor of another shape is named with both, also when it has as many elements."""
    for shape in ((4,), (16,), (4, 4, 1), (2, 8), ()):
        with pytest.raises(WeightsRefused) as caught:
            _match(_tensors(EXPECTED | {"layer.0.weight": shape}))
        assert f"1 of another shape: 'layer.0.weight' {shape} instead of (4, 4)" in str(caught.value)


def test_all_faults_are_told_at_once() -> None:
    """Missing, misshapen and unexpected tensors stand in one message."""
    tensors = _tensors({"embeddings.weight": (7, 5), "layer.0.weight": (4, 4), "layer.1.weight": (4, 4)})
    with pytest.raises(WeightsRefused, match=r"1 missing: .*; 1 of another shape: .*; 1 not expected: "):
        _match(tensors)


def test_long_lists_are_cut_and_counted() -> None:
    """Of many tensors the first few are named, and how many there are."""
    many = {f"layer.{number}.scale": (1,) for number in range(200)}
    with pytest.raises(WeightsRefused, match=r"200 not expected: 'layer\.0\.scale' \(1,\),.* and 195 more$") as caught:
        _match(_tensors(EXPECTED | many))
    assert len(str(caught.value)) < 500
