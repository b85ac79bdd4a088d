"""Files written by torch.save (torch >= 1.6), mapped and checked without running any of their pickle.

Such a file is a zip archive of one folder: `data.pkl` describes the tensors, `data/<key>` hold the bytes of their
storages, uncompressed. Knows nothing of models.
"""

import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quartzite.errors import WeightsRefused
from quartzite.weights.mapped import element_count, is_settled, item_bytes, map_private, settled, view
from quartzite.weights.pickled import Storage, StoredTensor, read_state_dict
from quartzite.weights.tensor import Tensor
from quartzite.weights.wording import clipped, naming, shown

LARGEST_PICKLE_BYTES = 1024 * 1024  # about 6,500 tensors; what refusing the worst of them may take grows with it
LARGEST_DIRECTORY_BYTES = 4 * 1024 * 1024
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, length of the name, length of the extra field
LOCAL_SIGNATURE = b"PK\x03\x04"
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of torch < 1.6, pickled
UTF8_NAME = 0x800
PLAIN_FLAGS = UTF8_NAME | 0x8  # 0x8: sizes follow the data, as torch writes; other flags change what the bytes mean
SAVE_AGAIN = "load it with torch and save it again with torch.save, or as safetensors"
# What zipfile raises for damaged directories; the last two have not been seen, but it computes with foreign numbers.
ZIP_FAULTS = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error)


def read_torch_zip(path: Path) -> dict[str, Tensor]:
    """Return all tensors of the file by name, views of it where memory order allows.

    Raises WeightsRefused naming what is wrong, and for the format of torch < 1.6. Tensors that lie transposed or
    unaligned are copied, together no more bytes than the file has.
    """
    with naming(path):
        archive = _Archive(map_private(path))
        arrays = _Arrays(archive, copies_left=len(archive.mapped))
        return {name: _tensor(name, stored, arrays) for name, stored in read_state_dict(archive.pickle()).items()}


def _tensor(name: str, stored: StoredTensor, arrays: "_Arrays") -> Tensor:
    try:
        return Tensor(name, stored.storage.dtype, arrays.of(stored))
    except WeightsRefused as refusal:
        raise WeightsRefused(f"tensor {shown(name)}: {refusal}") from refusal


class _Archive:
    """The entries of the zip file, all below the one folder that holds `data.pkl`, and where their bytes lie."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self.mapped = mapped
        self._entries = _directory(mapped)
        self._folder = _only_folder(self._entries)
        self._check_byte_order()

    def locate(self, name: str) -> tuple[int, int]:
        """Return where the bytes of an entry start in the file, and how many they are."""
        entry = self._entries.get(f"{self._folder}/{name}")
        if entry is None:
            raise WeightsRefused(f"has no entry {shown(name)}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & ~PLAIN_FLAGS:
            raise WeightsRefused(f"the entry {shown(name)} is compressed or encrypted; {SAVE_AGAIN}")
        start = _data_start(self.mapped, entry)
        if entry.file_size != entry.compress_size or start + entry.file_size > len(self.mapped):
            raise WeightsRefused(f"the entry {shown(name)} reaches beyond the end of the file, or has two sizes")
        return start, entry.file_size

    def pickle(self) -> bytes:
        """Return the bytes of `data.pkl`, of bounded length; its checksum is optional in files written by torch."""
        program = self._small("data.pkl", LARGEST_PICKLE_BYTES)
        if self._entries[f"{self._folder}/data.pkl"].CRC not in (0, zlib.crc32(program)):
            raise WeightsRefused("the entry 'data.pkl' is damaged: its checksum differs")
        return program

    def _check_byte_order(self) -> None:
        if f"{self._folder}/byteorder" in self._entries and self._small("byteorder", 100) != b"little":
            raise WeightsRefused(f"was not written in little-endian byte order; {SAVE_AGAIN}")

    def _small(self, name: str, most: int) -> bytes:
        start, size = self.locate(name)
        if size > most:
            raise WeightsRefused(f"the entry {shown(name)} has {size} bytes, at most {most} are read")
        return self.mapped[start : start + size]


class _BoundedReads:
    """The file as zipfile reads its directory; a damaged length cannot make it read gigabytes."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._mapped = mapped

    def seek(self, offset: int, whence: int = 0) -> int:
        self._mapped.seek(offset, whence)  # type: ignore[arg-type]  # zipfile's protocol says int
        return self._mapped.tell()

    def tell(self) -> int:
        return self._mapped.tell()

    def read(self, size: int = -1) -> bytes:
        wanted = len(self._mapped) - self._mapped.tell() if size < 0 else size
        if wanted > LARGEST_DIRECTORY_BYTES:
            raise WeightsRefused(f"its zip directory takes {wanted} bytes, at most {LARGEST_DIRECTORY_BYTES} are read")
        return self._mapped.read(wanted)


def _directory(mapped: mmap.mmap) -> dict[str, zipfile.ZipInfo]:
    if mapped[: len(LEGACY_START)] == LEGACY_START:
        raise WeightsRefused(f"has the format of torch older than 1.6, which is not supported; {SAVE_AGAIN}")
    try:
        with zipfile.ZipFile(_BoundedReads(mapped)) as archive:
            entries = archive.infolist()
    except ZIP_FAULTS as fault:
        raise WeightsRefused(f"is no intact zip archive, as torch.save writes them: {clipped(str(fault))}") from fault
    by_name = {entry.filename: entry for entry in entries}
    if len(by_name) < len(entries):
        raise WeightsRefused("is a zip archive with two entries of the same name")
    return by_name


def _only_folder(names: Iterable[str]) -> str:
    folders = [name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(folders) != 1:
        raise WeightsRefused(f"is a zip archive with {len(folders)} entries <folder>/data.pkl, torch.save writes one")
    return folders[0]


def _data_start(mapped: mmap.mmap, entry: zipfile.ZipInfo) -> int:
    """Return where the bytes of `entry` start: behind its local header, whose lengths the directory does not know."""
    name_start = entry.header_offset + LOCAL_HEADER.size
    if not 0 <= entry.header_offset <= len(mapped) - LOCAL_HEADER.size:
        raise WeightsRefused(f"the entry {shown(entry.filename)} lies outside of the file")
    signature, name_bytes, extra_bytes = LOCAL_HEADER.unpack_from(mapped, entry.header_offset)
    name = entry.orig_filename.encode("utf-8" if entry.flag_bits & UTF8_NAME else "cp437")
    if signature != LOCAL_SIGNATURE or mapped[name_start : name_start + name_bytes] != name:
        raise WeightsRefused(f"the entry {shown(entry.filename)} is not where the zip directory says")
    return name_start + int(name_bytes) + int(extra_bytes)


@dataclass(slots=True)
class _Arrays:
    """Arrays made of stored tensors; `copies_left` bytes may still be copied, so that no file can swell in memory."""

    archive: _Archive
    copies_left: int
    _made: dict[StoredTensor, NDArray[np.generic]] = field(default_factory=dict)
    _starts: dict[Storage, int] = field(default_factory=dict)

    def of(self, stored: StoredTensor) -> NDArray[np.generic]:
        """Return the values of `stored`, one array for all names that share them."""
        if stored not in self._made:
            self._made[stored] = self._make(stored)
        return self._made[stored]

    def _make(self, stored: StoredTensor) -> NDArray[np.generic]:
        _check_inside_storage(stored)
        item = item_bytes(stored.storage.dtype)
        start = self._start(stored.storage) + stored.offset * item
        steps = tuple(stride * item for stride in _effective_strides(stored))
        array = view(self.archive.mapped, stored.storage.dtype, stored.shape, start, steps)
        if not is_settled(array):
            self._allow_copy(array.nbytes)
        return settled(array)

    def _start(self, storage: Storage) -> int:
        if storage not in self._starts:
            start, size = self.archive.locate(f"data/{storage.key}")
            if size != storage.elements * item_bytes(storage.dtype):
                promised = f"{shown(storage.elements)} elements of {storage.dtype}"
                raise WeightsRefused(f"its storage has {size} bytes where {promised} were expected")
            self._starts[storage] = start
        return self._starts[storage]

    def _allow_copy(self, size: int) -> None:
        if size > self.copies_left:
            raise WeightsRefused(f"laid out in order it would take more memory than its file; {SAVE_AGAIN}")
        self.copies_left -= size


def _check_inside_storage(stored: StoredTensor) -> None:
    count = element_count(stored.shape)
    reach = sum((size - 1) * stride for size, stride in zip(stored.shape, stored.strides, strict=True)) if count else -1
    if stored.offset + reach >= stored.storage.elements:
        raise WeightsRefused(f"reaches beyond the {shown(stored.storage.elements)} elements of its storage")


def _effective_strides(stored: StoredTensor) -> tuple[int, ...]:
    """Return the strides that are ever taken; those of axes of size 1 and of empty tensors may be any number."""
    if 0 in stored.shape:
        return (0,) * len(stored.shape)
    return tuple(stride if size > 1 else 0 for size, stride in zip(stored.shape, stored.strides, strict=True))
