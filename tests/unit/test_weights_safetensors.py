"""Reading safetensors files."""

import os
from pathlib import Path

import numpy as np
import pytest

from quartzite.errors import WeightsRefused
from quartzite.weights.safetensors import read_safetensors
from quartzite.weights.tensor import Tensor
from weight_files import (
    FIXTURES,
    assert_same,
    counted,
    entry,
    flat_memory,
    one_of_each_dtype,
    safetensors,
    safetensors_of,
)


def _read(folder: Path, content: bytes) -> dict[str, Tensor]:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    return read_safetensors(path)


def _ones(count: int) -> bytes:
    return np.ones(count, np.float32).tobytes()


def test_every_dtype_and_shape_comes_back(tmp_path: Path) -> None:
    """What was written comes back bit for bit: all dtypes, a scalar, an empty tensor, with metadata beside."""
    tensors = one_of_each_dtype()
    assert_same(_read(tmp_path, safetensors_of(tensors, metadata={"format": "pt"})), tensors)


def test_a_file_of_the_reference_library_is_read() -> None:
    """A file saved by the safetensors library holds what was saved."""
    assert_same(read_safetensors(FIXTURES / "library_saved.safetensors"), one_of_each_dtype())


def test_a_file_without_tensors_is_empty(tmp_path: Path) -> None:
    """A header without entries and no data is a valid file of no tensors."""
    assert _read(tmp_path, safetensors({})) == {}


def test_tensors_are_writable_views_that_never_change_the_file(tmp_path: Path) -> None:
    """The arrays view the file, libraries may take them for writable, and a write stays in this process."""
    content = safetensors_of({"a": ("F32", counted(4))})
    data = _read(tmp_path, content)["a"].data
    assert not data.flags.owndata
    assert data.flags.writeable
    data[...] = 7
    assert (tmp_path / "model.safetensors").read_bytes() == content


@pytest.mark.parametrize("shift", range(8))
def test_data_at_any_offset_is_read_and_handed_out_aligned(tmp_path: Path, shift: int) -> None:
    """Wherever the header ends, values are right and every array is aligned to its items."""
    tensors = one_of_each_dtype()
    found = _read(tmp_path, safetensors_of(tensors, shift=shift))
    assert_same(found, tensors)
    assert all(tensor.data.flags.aligned and tensor.data.flags.c_contiguous for tensor in found.values())


GOOD = entry("F32", [2], 0, 8)
REFUSED = {
    "no bytes at all": (b"", "mapped"),
    "shorter than its length field": (b"\x02\x00\x00", "truncated"),
    "header cut off": (safetensors({"a": GOOD}, length=10_000), "truncated"),
    "header beyond the limit": (safetensors(b"{}", length=2**24 + 1), "header of 16777217 bytes; at most 16777216"),
    "empty header": (safetensors(b""), "begin with"),
    "white space first": (safetensors(b' {"a":1}'), "begin with"),
    "not JSON": (safetensors(b"{nonsense}"), "JSON"),
    "not UTF-8": (safetensors(b'{"\xff": 1}'), "UTF-8"),
    "UTF-16": (safetensors('{"a": 1}'.encode("utf-16-le")), "JSON"),
    "endless nesting": (safetensors(b'{"a":' + b"[" * 200_000), "JSON"),
    "endless number": (safetensors(b'{"a":' + b"1" * 10_000 + b"}"), "JSON"),
    "key twice": (safetensors(b'{"a":{},"a":{}}'), "'a' stands twice"),
    "key twice in an entry": (safetensors(b'{"a":{"dtype":"F32","dtype":"I32"}}'), "'dtype' stands twice"),
    "metadata of numbers": (safetensors({"__metadata__": {"a": 1}}), "__metadata__"),
    "entry that is a list": (safetensors({"a": []}), "'a'"),
    "entry without shape": (safetensors({"a": {"dtype": "F32", "data_offsets": [0, 0]}}), "shape"),
    "entry with a stranger": (safetensors({"a": GOOD | {"scale": 1}}, _ones(2)), "scale"),
    "unknown dtype": (safetensors({"w": entry("F8_E4M3", [8], 0, 8)}, _ones(2)), "'w'.*F8_E4M3"),
    "shape of fractions": (safetensors({"a": entry("F32", [2.0], 0, 8)}, _ones(2)), "shape"),
    "shape of booleans": (safetensors({"a": entry("F32", [True], 0, 4)}, _ones(1)), "shape"),
    "negative size": (safetensors({"a": entry("F32", [-2], 0, 8)}, _ones(2)), "shape"),
    "negative sizes that multiply to the right one": (
        safetensors({"a": entry("F32", [-2, -1], 0, 8)}, _ones(2)),
        "shape",
    ),
    "negative offset": (safetensors({"a": entry("F32", [2], -8, 0)}, _ones(2)), "data_offsets"),
    "one offset": (safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}, _ones(2)), "data_offsets"),
    "end before begin": (safetensors({"a": entry("F32", [2], 8, 0)}, _ones(2)), "'a' needs 8 bytes.*span -8"),
    "bytes too few for the shape": (safetensors({"a": entry("F32", [3], 0, 8)}, _ones(2)), "'a' needs 12 bytes"),
    "product beyond 64 bits": (safetensors({"a": entry("F32", [2**32, 2**32], 0, 0)}), "larger than any array"),
    "huge sizes beside a zero": (safetensors({"a": entry("F32", [0, 2**70], 0, 0)}), "larger than any array"),
    "too many axes": (safetensors({"a": entry("F32", [1] * 65, 0, 4)}, _ones(1)), "larger than any array"),
    "offset beyond 64 bits": (safetensors({"a": entry("F32", [1], 2**80, 2**80 + 4)}, _ones(1)), "gap"),
    "overlap": (safetensors({"a": GOOD, "b": entry("F32", [2], 4, 12)}, _ones(3)), "'b'.*overlaps"),
    "same bytes twice": (safetensors({"a": GOOD, "b": GOOD}, _ones(2)), "overlaps"),
    "gap": (safetensors({"a": GOOD, "b": entry("F32", [1], 12, 16)}, _ones(4)), "'b'.*gap"),
    "gap at the start": (safetensors({"a": entry("F32", [1], 4, 8)}, _ones(2)), "'a'.*gap"),
    "data cut off": (safetensors({"a": GOOD}, _ones(2)[:-1]), "truncated"),
    "bytes left over": (safetensors({"a": GOOD}, _ones(2) + b"x"), "belong to no tensor"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_faulty_file_is_refused_by_what_is_wrong(tmp_path: Path, fault: str) -> None:
    """Each way to break the format is refused with a message that names the file and the fault."""
    content, message = REFUSED[fault]
    with pytest.raises(WeightsRefused, match=rf"model\.safetensors: .*{message}"):
        _read(tmp_path, content)


def test_messages_stay_short_whatever_the_file_says(tmp_path: Path) -> None:
    """Names and numbers of any length are clipped in messages."""
    for header in (
        {"n" * 100_000: entry("F32", [3], 0, 8)},
        {"a": entry("F8" * 100_000, [2], 0, 8)},
        {"a": entry("F32", [3] * 60_000, 0, 8)},
        {"a": entry("F32", [3], 0, 10**4000)},
        {"a": {"k" * 100_000: 1}},
    ):
        with pytest.raises(WeightsRefused) as caught:
            _read(tmp_path, safetensors(header, _ones(2)))
        assert len(str(caught.value)) < len(str(tmp_path)) + 500


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    """A missing file, a folder and a pipe nobody writes to are refused at once."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe"):
        with pytest.raises(WeightsRefused, match="no such file"):
            read_safetensors(path)


def test_a_file_of_gigabytes_costs_no_memory_to_open(tmp_path: Path) -> None:
    """Opening 3 GB of weights and looking at one row neither reads nor copies the rest."""
    rows, width = 768 * 1024, 1024
    header = safetensors({"big": entry("F32", [rows, width], 0, rows * width * 4)})
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + rows * width * 4)
    with flat_memory():
        tensor = read_safetensors(path)["big"]
        assert not tensor.data[rows // 2].any()
    path.unlink()
    assert tensor.shape == (rows, width)
