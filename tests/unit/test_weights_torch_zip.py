"""Reading files written by torch.save."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from quartzite.errors import WeightsRefused
from quartzite.weights.tensor import Tensor
from quartzite.weights.torch_zip import read_torch_zip
from weight_files import (
    FIXTURES,
    aligned_entry,
    archive,
    assert_same,
    c_strides,
    counted,
    flat_memory,
    one_of_each_dtype,
    state_dict,
    storage,
    tensor,
    torch_zip_of,
)

SIX = counted(6).tobytes()
SIX_STORED = storage("0", "F32", 6)


def _read(folder: Path, content: bytes) -> dict[str, Tensor]:
    path = folder / "pytorch_model.bin"
    path.write_bytes(content)
    return read_torch_zip(path)


def _one(folder: Path, offset: int, shape: list[int], strides: list[int], data: bytes = SIX) -> np.ndarray:
    """Read a file of one float32 tensor `a` over the storage `data`."""
    program = state_dict({"a": tensor(storage("0", "F32", len(data) // 4), offset, shape, strides)})
    return _read(folder, archive(program, {"0": data}))["a"].data


def test_every_dtype_and_shape_comes_back(tmp_path: Path) -> None:
    """What was written comes back bit for bit: all dtypes, a scalar, an empty tensor."""
    tensors = one_of_each_dtype()
    assert_same(_read(tmp_path, torch_zip_of(tensors)), tensors)


def test_a_file_saved_by_torch_is_read() -> None:
    """A state_dict saved by torch comes back: tied, transposed, cut and expanded tensors, parameters, attributes."""
    module = {"0.weight": counted(2, 3), "0.bias": counted(2), "1.weight": counted(2), "1.bias": counted(2)}
    lying = {
        "tied": counted(2, 3),
        "transposed": np.ascontiguousarray(counted(2, 3).T),
        "slice": counted(10)[3:7],
        "column": np.ascontiguousarray(counted(3, 4)[:, 1]),
        "expanded": np.repeat(counted(1, 3), 4, axis=0),
        "parameter": counted(2, 2),
    }
    expected = {name: ("F32", values) for name, values in (module | lying).items()}
    found = read_torch_zip(FIXTURES / "torch_saved.bin")
    assert_same(found, expected | one_of_each_dtype())
    assert found["tied"].data is found["f32"].data
    copied = {name for name, tensor in found.items() if tensor.data.flags.owndata}
    assert copied == {"transposed", "column", "expanded"}


def test_the_format_of_old_torch_is_refused_by_name() -> None:
    """A file in the format of torch < 1.6 is refused with the way out."""
    with pytest.raises(WeightsRefused, match=r"torch_legacy.bin: .*older than 1\.6.*save it again"):
        read_torch_zip(FIXTURES / "torch_legacy.bin")


def test_tensors_are_writable_views_that_never_change_the_file(tmp_path: Path) -> None:
    """The arrays view the file, libraries may take them for writable, and a write stays in this process."""
    content = torch_zip_of({"a": ("F32", counted(4))})
    data = _read(tmp_path, content)["a"].data
    assert not data.flags.owndata
    assert data.flags.writeable
    data[...] = 7
    assert (tmp_path / "pytorch_model.bin").read_bytes() == content


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "expected"),
    [
        (0, [2, 3], [3, 1], [[0, 1, 2], [3, 4, 5]]),
        (0, [3, 2], [1, 3], [[0, 3], [1, 4], [2, 5]]),
        (1, [2, 2], [3, 1], [[1, 2], [4, 5]]),
        (5, [], [], 5),
        (5, [1, 1], [2**70, 2**70], [[5]]),
        (0, [2, 1, 3], [3, 2**70, 1], [[[0, 1, 2]], [[3, 4, 5]]]),
        (2, [3], [0], [2, 2, 2]),
        (0, [4, 3], [1, 1], [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]),
        (6, [0, 3], [3, 1], np.zeros((0, 3))),
        (0, [3, 0], [2**70, 1], np.zeros((3, 0))),
    ],
)
def test_values_are_found_by_their_strides(
    tmp_path: Path, offset: int, shape: list[int], strides: list[int], expected: object
) -> None:
    """Slices, transposed, expanded and overlapping tensors come out in C order, whatever their strides."""
    found = _one(tmp_path, offset, shape, strides)
    assert found.tolist() == (np.array(expected, np.float32) / 4).tolist()
    assert found.shape == tuple(shape)
    assert found.flags.c_contiguous


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (1, [6], [1]),
        (0, [2, 3], [4, 1]),
        (6, [], []),
        (7, [0], [1]),
        (2**80, [1], [1]),
        (0, [2], [2**62]),
        (0, [2], [2**70]),
        (0, [7, 1], [1, 0]),
    ],
)
def test_what_reaches_beyond_its_storage_is_refused(
    tmp_path: Path, offset: int, shape: list[int], strides: list[int]
) -> None:
    """Not one element outside of the storage is ever read."""
    with pytest.raises(WeightsRefused, match="tensor 'a': reaches beyond the 6 elements"):
        _one(tmp_path, offset, shape, strides)


@pytest.mark.parametrize("shape", [[2**40, 6], [2**62], [2**31, 2**31], [0, 2**62], [2**2000]])
def test_what_is_larger_than_its_file_is_refused(tmp_path: Path, shape: list[int]) -> None:
    """A tensor expanded beyond the size of the file is refused before memory is taken."""
    with flat_memory(), pytest.raises(WeightsRefused, match=r"tensor 'a': (larger|shape|laid out)"):
        _one(tmp_path, 0, shape, [0] * len(shape))


def test_copies_of_all_tensors_together_are_bounded(tmp_path: Path) -> None:
    """Many small tensors that each repeat a large storage cannot add up to more than the file."""
    data = counted(50, 50).tobytes()
    stored = storage("0", "F32", 2500)
    mirrored = {f"t{offset}": tensor(stored, offset, [40, 40], [1, 50]) for offset in range(9)}
    with pytest.raises(WeightsRefused, match="tensor 't1': laid out in order"):
        _read(tmp_path, archive(state_dict(mirrored), {"0": data}))


def test_tensors_transposed_alike_share_one_copy(tmp_path: Path) -> None:
    """Tied tensors that have to be copied are copied once."""
    mirrored = tensor(SIX_STORED, 0, [3, 2], [1, 3])
    found = _read(tmp_path, archive(state_dict({"a": mirrored, "b": mirrored}), {"0": SIX}))
    assert found["a"].data is found["b"].data


@pytest.mark.parametrize("alignment", [1, 4, 64])
def test_data_at_any_offset_is_handed_out_aligned(tmp_path: Path, alignment: int) -> None:
    """Archives packed again without torch's alignment are read right, into aligned arrays."""
    program = state_dict({"a": tensor(SIX_STORED, 0, [6], [1])})
    for folder in ("m", "mm", "mmm", "mmmm"):
        found = _read(tmp_path, archive(program, {"0": SIX}, folder=folder, alignment=alignment))["a"].data
        assert found.tolist() == (np.arange(6) / 4).tolist()
        assert found.flags.aligned


def test_any_folder_name_and_files_without_byte_order_are_read(tmp_path: Path) -> None:
    """The folder in the archive is called after the file it was saved as; early versions noted no byte order."""
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as zipped:
        zipped.writestr("模型/data.pkl", state_dict({"a": tensor(SIX_STORED, 0, [6], [1])}))
        zipped.writestr("模型/data/0", SIX)
    assert list(_read(tmp_path, plain.getvalue())) == ["a"]


def test_names_in_the_older_zip_encoding_are_read(tmp_path: Path) -> None:
    """Zip programs that know no UTF-8 write other letters than ASCII in code page 437."""
    content = archive(state_dict({"a": tensor(SIX_STORED, 0, [6], [1])}), {"0": SIX}, folder="mod?le")
    assert list(_read(tmp_path, content.replace(b"mod?le/", "modèle/".encode("cp437")))) == ["a"]


def test_a_checksum_that_was_never_computed_counts_as_right(tmp_path: Path) -> None:
    """Torch can leave the checksums out and writes zeros; a checksum that is there and wrong is refused."""
    content = archive(state_dict({"a": tensor(SIX_STORED, 0, [6], [1])}), {"0": SIX})
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        checksum = zipped.getinfo("archive/data.pkl").CRC.to_bytes(4, "little")
    assert list(_read(tmp_path, content.replace(checksum, bytes(4)))) == ["a"]
    with pytest.raises(WeightsRefused, match=r"data\.pkl' is damaged"):
        _read(tmp_path, content.replace(checksum, b"\x01\x02\x03\x04"))


PROGRAM = state_dict({"a": tensor(SIX_STORED, 0, [2, 3], [3, 1])})
GOOD = archive(PROGRAM, {"0": SIX})


def _zip(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as zipped:
        for path, data in entries.items():
            zipped.writestr(path, data)
    return file.getvalue()


def _patched(old: bytes, new: bytes, last: bool = False) -> bytes:
    """Return the good file with the first or last `old` replaced; both have one length."""
    place = GOOD.rindex(old) if last else GOOD.index(old)
    return GOOD[:place] + new + GOOD[place + len(old) :]


LOCAL_DATA = b"archive/data/0"
LOCAL_HEADER = GOOD[GOOD.index(LOCAL_DATA) - 30 : GOOD.index(LOCAL_DATA)] + LOCAL_DATA
LOCAL_HEADER_BROKEN = LOCAL_HEADER, b"PK\x03\x05" + LOCAL_HEADER[4:]
REFUSED = {
    "no bytes at all": (b"", "mapped"),
    "no zip": (b"x" * 1000, "no intact zip"),
    "less than a zip can be": (b"PK\x03\x04", "no intact zip"),
    "data cut off": (GOOD[:-30], "no intact zip"),
    "beginning cut off": (GOOD[100:], "data.pkl"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    "no pickle": (_zip({"archive/data/0": SIX}), "0 entries <folder>/data.pkl"),
    "pickle without folder": (_zip({"data.pkl": PROGRAM}), "0 entries <folder>/data.pkl"),
    "two folders": (_zip({"a/data.pkl": PROGRAM, "b/data.pkl": PROGRAM}), "2 entries <folder>/data.pkl"),
    "compressed pickle": (_zip({"a/data.pkl": PROGRAM}, zipfile.ZIP_DEFLATED), "'data.pkl' is compressed"),
    "big-endian": (archive(PROGRAM, {"0": SIX}, byteorder=b"big"), "byte order"),
    "byte order of megabytes": (archive(PROGRAM, {"0": SIX}, byteorder=b"little" * 100), "'byteorder' has 600 bytes"),
    "pickle of megabytes": (archive(PROGRAM + b"x" * 2**20, {"0": SIX}), r"'data\.pkl' has .* bytes, at most"),
    "storage missing": (archive(PROGRAM, {}), "tensor 'a': has no entry 'data/0'"),
    "storage too short": (archive(PROGRAM, {"0": SIX[:-4]}), "tensor 'a': its storage has 20 bytes"),
    "storage too long": (archive(PROGRAM, {"0": SIX + b"1234"}), "tensor 'a': its storage has 28 bytes"),
    "storage outside of the folder": (
        archive(state_dict({"a": tensor(storage("../../0", "F32", 6), 0, [6], [1])}), {"0": SIX}),
        "no entry 'data/../../0'",
    ),
    "local header elsewhere": (_patched(LOCAL_DATA, b"archive/data/1"), "'archive/data/0' is not where"),
    "no local header": (GOOD.replace(*LOCAL_HEADER_BROKEN), "'archive/data/0' is not where"),
    "directory elsewhere": (_patched(LOCAL_DATA, b"archive/data/1", last=True), "has no entry 'data/0'"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_faulty_file_is_refused_by_what_is_wrong(tmp_path: Path, fault: str) -> None:
    """Each way to break the archive is refused with a message that names the file and the fault."""
    content, message = REFUSED[fault]
    with pytest.raises(WeightsRefused, match=rf"pytorch_model\.bin: .*{message}"):
        _read(tmp_path, content)


def test_a_compressed_storage_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """Storages that a zip program has packed cannot be mapped, and say what to do."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("a/data.pkl", PROGRAM)
        zipped.writestr("a/data/0", SIX, zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsRefused, match=r"tensor 'a': the entry 'data/0' is compressed.*save it again"):
        _read(tmp_path, file.getvalue())


def _with_entry_changed(offset: int, values: bytes) -> bytes:
    """Return the good file with `values` in the zip directory's record of the storage, `offset` bytes into it."""
    place = GOOD.rindex(LOCAL_DATA) - 46 + offset
    return GOOD[:place] + values + GOOD[place + len(values) :]


@pytest.mark.parametrize("flags", [0x1, 0x20, 0x40, 0x2000])
def test_flags_that_change_the_meaning_of_bytes_are_refused(tmp_path: Path, flags: int) -> None:
    """An entry marked as encrypted, patched or masked does not hold the plain bytes of a storage."""
    with pytest.raises(WeightsRefused):
        _read(tmp_path, _with_entry_changed(8, struct.pack("<H", flags)))


@pytest.mark.parametrize("sizes", [(2**31, 2**31), (24, 2**31), (2**31, 24), (25, 24)])
def test_an_entry_that_cannot_have_its_size_is_refused(tmp_path: Path, sizes: tuple[int, int]) -> None:
    """An entry larger than the file, or of two sizes at once, is refused before anything is made of it."""
    with pytest.raises(WeightsRefused, match="'data/0' reaches beyond the end of the file, or has two sizes"):
        _read(tmp_path, _with_entry_changed(20, struct.pack("<II", *sizes)))


@pytest.mark.parametrize("offset", [2**31, len(GOOD) - 29, len(GOOD)])
def test_an_entry_outside_of_the_file_is_refused(tmp_path: Path, offset: int) -> None:
    """A local header that would not lie inside the file is not looked for."""
    with pytest.raises(WeightsRefused, match="'archive/data/0' lies outside of the file"):
        _read(tmp_path, _with_entry_changed(42, struct.pack("<I", offset)))


def test_a_zip_of_a_later_version_is_refused(tmp_path: Path) -> None:
    """An entry that asks for more of a zip reader than there is today is refused."""
    with pytest.raises(WeightsRefused, match=r"no intact zip archive.*version 9\.9"):
        _read(tmp_path, _with_entry_changed(6, struct.pack("<H", 99)))


def test_a_zip_directory_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    """A directory that claims to fill a file of a gigabyte is refused before it is read into memory."""
    size = 2**30
    path = tmp_path / "pytorch_model.bin"
    with path.open("wb") as file:
        file.seek(size)
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, size, 0, 0))
    with flat_memory(), pytest.raises(WeightsRefused, match="zip directory takes 1073741824 bytes, at most 4194304"):
        read_torch_zip(path)


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    """Of two entries with the same name no reader could say which counts."""
    twice = _zip({"a/data.pkl": PROGRAM, "a/data.pkX": PROGRAM}).replace(b"a/data.pkX", b"a/data.pkl")
    with pytest.raises(WeightsRefused, match="two entries of the same name"):
        _read(tmp_path, twice)


def test_an_archive_of_gigabytes_costs_no_memory_to_open(tmp_path: Path) -> None:
    """Opening a storage of 4.5 GB, with everything behind it beyond 32-bit offsets, reads none of it."""
    rows, width = 1100 * 1024, 1024
    path = tmp_path / "pytorch_model.bin"
    stored = {"big": tensor(storage("0", "F32", rows * width), 0, [rows, width], c_strides([rows, width]))}
    _write_sparse(path, state_dict(stored), rows * width * 4)
    with flat_memory():
        found = read_torch_zip(path)["big"]
        assert not found.data[rows // 2].any()
    path.unlink()
    assert found.shape == (rows, width)


def _write_sparse(path: Path, program: bytes, size: int) -> None:
    """Write an archive whose storage `0` is a hole of `size` bytes."""
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("abc/data.pkl", program)
        with zipped.open(aligned_entry(zipped, "abc/data/0", zip64=True), "w", force_zip64=True) as entry:
            file.seek(size, io.SEEK_CUR)
            entry._file_size = entry._compress_size = size  # type: ignore[attr-defined]
        zipped.writestr("abc/byteorder", b"little")
