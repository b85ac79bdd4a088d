"""What holds for every file of torch.save, damaged and malicious ones included."""

import io
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from quartzite.errors import WeightsRefused
from quartzite.weights.pickled import STORAGES
from quartzite.weights.tensor import STORED_AS, Tensor
from quartzite.weights.torch_zip import read_torch_zip
from weight_files import (
    FIXTURES,
    Array,
    Tensors,
    archive,
    assert_same,
    mutations,
    state_dict,
    storage,
    stored_values,
    tensor,
    torch_zip_of,
)

IN_ONE_FOLDER = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SAMPLE = (FIXTURES / "torch_saved.bin").read_bytes()
FOLDER = "torch_saved"
with zipfile.ZipFile(io.BytesIO(SAMPLE)) as _zipped:
    ENTRIES = {name.removeprefix(f"{FOLDER}/"): _zipped.read(name) for name in _zipped.namelist()}
PROGRAM = ENTRIES.pop("data.pkl")


def _read(folder: Path, content: bytes) -> dict[str, Tensor]:
    path = folder / "pytorch_model.bin"
    path.write_bytes(content)
    return read_torch_zip(path)


@IN_ONE_FOLDER
@given(tensors=st.dictionaries(st.text(), stored_values(), max_size=5))
def test_what_is_written_comes_back(tmp_path: Path, tensors: Tensors) -> None:
    """Any names, dtypes and shapes come back bit for bit."""
    assert_same(_read(tmp_path, torch_zip_of(tensors)), tensors)


@IN_ONE_FOLDER
@given(data=st.data())
def test_any_window_onto_a_storage_comes_back(tmp_path: Path, data: st.DataObject) -> None:
    """Slices, steps and permuted axes of an array, stored as offset and strides, come out as numpy has them."""
    shape = data.draw(st_numpy.array_shapes(min_dims=1, max_dims=4, max_side=5))
    whole = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    slices = [
        slice(data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size)), data.draw(st.integers(1, 3)))
        for size in shape
    ]
    window = whole[tuple(slices)].transpose(data.draw(st.permutations(range(len(shape)))))
    offset = (window.__array_interface__["data"][0] - whole.__array_interface__["data"][0]) // 4 if window.size else 0
    stored = tensor(storage("0", "I32", whole.size), offset, window.shape, [stride // 4 for stride in window.strides])
    found = _read(tmp_path, archive(state_dict({"window": stored}), {"0": whole.tobytes()}))
    assert_same(found, {"window": ("I32", np.ascontiguousarray(window).reshape(window.shape))})


# Pickle itself warns so of a damaged escape, and so does the library that reads its opcodes.
@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@settings(IN_ONE_FOLDER, max_examples=200)
@given(program=mutations(PROGRAM))
def test_a_damaged_pickle_is_refused_or_read_as_pickle_does(tmp_path: Path, program: bytes) -> None:
    """Whatever happens to the pickle, it is refused, or means to Python's own unpickler what was read from it."""
    rest = {name.removeprefix("data/"): data for name, data in ENTRIES.items() if name.startswith("data/")}
    content = archive(program, rest, folder=FOLDER)
    _check(tmp_path, content)


@settings(IN_ONE_FOLDER, max_examples=200)
@given(content=mutations(SAMPLE))
def test_a_damaged_archive_is_refused_or_read_as_pickle_does(tmp_path: Path, content: bytes) -> None:
    """Whatever happens to the archive, it is refused, or holds to Python's own readers what was read from it."""
    _check(tmp_path, content)


@IN_ONE_FOLDER
@given(content=st.binary(max_size=200))
def test_noise_is_refused(tmp_path: Path, content: bytes) -> None:
    """Random bytes are no weights, in a zip archive or not."""
    for noise in (content, archive(content, {}), archive(b"\x80\x02" + content, {})):
        assert not _check(tmp_path, noise)


def _check(folder: Path, content: bytes) -> bool:
    """Return whether the file could be read, having compared what came out with the reading of the standard library."""
    try:
        found = _read(folder, content)
    except WeightsRefused:
        event("refused")
        return False
    event("read")
    assert_same(found, _standard_reading(content))
    assert sum(tensor.data.nbytes for tensor in found.values() if tensor.data.flags.owndata) <= len(content)
    return bool(found)


class _Class(NamedTuple):
    """A stand-in for a storage class of torch."""

    dtype: str


class _StandardReader(pickle._Unpickler):  # the one in C takes memory by the number of a memo
    """Python's own unpickler, with numpy in the place of torch."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}/data.pkl")))
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, attribute: str) -> Any:
        allowed = {
            "collections OrderedDict": _Attributed,
            "torch._utils _rebuild_tensor_v2": _rebuilt,
            "torch._utils _rebuild_parameter": lambda values, *_: values,
        }
        return (allowed | {name: _Class(dtype) for name, dtype in STORAGES.items()})[f"{module} {attribute}"]

    def persistent_load(self, identity: Any) -> tuple[str, Array]:
        _, kind, key, _, _ = identity
        with self._archive.open(f"{self._folder}/data/{key}") as entry:
            entry._expected_crc = None  # type: ignore[attr-defined]  # damaged values are values
            return kind.dtype, np.frombuffer(entry.read(), STORED_AS[kind.dtype])


class _Attributed(dict[str, Any]):
    """A dict that can have attributes, as an OrderedDict can."""


def _rebuilt(
    stored: tuple[str, Array], offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> tuple[str, Array]:
    dtype, values = stored
    if 0 in shape:
        return dtype, np.zeros(shape, STORED_AS[dtype])
    places = [range(size) for size in shape]
    index = sum((np.arange(size).reshape(-1, *[1] * (len(shape) - axis - 1)) * strides[axis]
                 for axis, size in enumerate(map(len, places))), np.array(offset))  # fmt: skip
    return dtype, values[index].reshape(shape)


def _standard_reading(content: bytes) -> Tensors:
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        folder = next(name for name in zipped.namelist() if name.endswith("/data.pkl")).removesuffix("/data.pkl")
        return dict(_StandardReader(zipped, folder).load())
