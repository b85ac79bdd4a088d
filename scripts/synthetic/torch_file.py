"""Write `pytorch_model.bin` without PyTorch: a zip file of uncompressed storages and the pickle that names them.

The layout is that of `torch.save(model.state_dict(), file)` since PyTorch 1.6; only what a state dictionary of
contiguous tensors on the CPU needs of it.
"""

import struct
import zipfile
from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import mul
from pathlib import Path

from synthetic.stored import StoredDtype, StoredTensor

STORAGES: dict[StoredDtype, str] = {
    "f32": "FloatStorage",
    "f16": "HalfStorage",
    "bf16": "BFloat16Storage",
    "i64": "LongStorage",
}
ALIGNMENT = 64
LOCAL_HEADER_BYTES = 30


def write_torch(file: Path, tensors: Sequence[StoredTensor]) -> None:
    """Write the tensors as a state dictionary; each storage begins at a multiple of 64 bytes, as PyTorch has it."""
    entries: list[tuple[str, Iterable[bytes]]] = [
        ("archive/data.pkl", [_pickle(tensors)]),
        ("archive/byteorder", [b"little"]),
        *((f"archive/data/{key}", tensor.chunks()) for key, tensor in enumerate(tensors)),
        ("archive/version", [b"3\n"]),
    ]
    with file.open("wb") as out, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, chunks in entries:
            with archive.open(_aligned_entry(name, out.tell()), "w") as entry:
                entry.writelines(chunks)


def _aligned_entry(name: str, position: int) -> zipfile.ZipInfo:
    """Describe an entry at `position` whose data are aligned by an extra field of filling, marked as PyTorch does."""
    entry = zipfile.ZipInfo(name)
    filling = -(position + LOCAL_HEADER_BYTES + len(name) + 4) % ALIGNMENT
    entry.extra = b"FB" + struct.pack("<H", filling) + b"Z" * filling
    return entry


def _pickle(tensors: Sequence[StoredTensor]) -> bytes:
    """Return the pickle (protocol 2) of an OrderedDict from names to tensors, with the metadata modules leave in it."""
    memo = _Memo()
    opening = b"\x80\x02" + _ordered_dict(memo) + b"("
    items = b"".join(_text(tensor.name) + _tensor(tensor, key, memo) for key, tensor in enumerate(tensors))
    metadata = b"}" + _text("_metadata") + b"}" + _text("") + b"}" + _text("version") + _integer(1) + b"sss"
    return opening + items + b"u" + metadata + b"b."


class _Memo:
    """Globals already written, which are then named by number, as every pickler does."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def named(self, module: str, name: str) -> bytes:
        known = self._numbers.get(name)
        if known is not None:
            return b"h" + bytes([known])
        self._numbers[name] = number = len(self._numbers)
        return f"c{module}\n{name}\n".encode() + b"q" + bytes([number])


def _tensor(tensor: StoredTensor, key: int, memo: _Memo) -> bytes:
    """Return a call of `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks)`."""
    rebuild = memo.named("torch._utils", "_rebuild_tensor_v2")
    storage_type = memo.named("torch", STORAGES[tensor.dtype])
    storage = b"(" + _text("storage") + storage_type + _text(str(key)) + _text("cpu") + _integer(tensor.values) + b"tQ"
    strides = [1, *accumulate(reversed(tensor.shape[1:]), mul)][::-1] if tensor.shape else []
    arguments = storage + _integer(0) + _tuple(tensor.shape) + _tuple(strides) + b"\x89" + _ordered_dict(memo)
    return rebuild + b"(" + arguments + b"tR"


def _ordered_dict(memo: _Memo) -> bytes:
    return memo.named("collections", "OrderedDict") + b")R"


def _tuple(numbers: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_integer, numbers)) + b"t"


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _integer(number: int) -> bytes:
    """Return a signed integer of 4 bytes, or of 8 where that is too small (a storage of more than 2^31 values)."""
    if number < 2**31:
        return b"J" + struct.pack("<i", number)
    return b"\x8a\x08" + struct.pack("<q", number)
