"""Files in the safetensors format, mapped and checked; knows nothing of models.

The format: 8 bytes N (little-endian), N bytes of JSON `{name: {dtype, shape, data_offsets}}` and optionally
`__metadata__`, then the data, every byte of it belonging to exactly one tensor.
https://huggingface.co/docs/safetensors
"""

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from quartzite.errors import WeightsRefused
from quartzite.weights.mapped import element_count, item_bytes, map_private, settled, view
from quartzite.weights.strict_json import LARGEST_JSON_BYTES, converted, read_object
from quartzite.weights.tensor import DType, Tensor
from quartzite.weights.wording import naming, shown

LENGTH_BYTES = 8
Natural = Annotated[int, Meta(ge=0)]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a header says of one tensor; offsets are bytes from the start of the data, the second exclusive."""

    dtype: DType
    shape: tuple[Natural, ...]
    data_offsets: tuple[Natural, Natural]


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of the file by name, as views of it; raise WeightsRefused naming what is wrong with it.

    Tensors that do not start at a multiple of their item size, which today's writers see to, are copied.
    """
    with naming(path):
        mapped = map_private(path)
        start = LENGTH_BYTES + _header_length(mapped)
        entries = _entries(mapped[LENGTH_BYTES:start])
        _check_coverage(entries, len(mapped) - start)
        return {name: _tensor(mapped, name, entry, start) for name, entry in entries.items()}


def _header_length(mapped: mmap.mmap) -> int:
    length = int.from_bytes(mapped[:LENGTH_BYTES], "little")
    if length > LARGEST_JSON_BYTES:
        raise WeightsRefused(
            f"is no safetensors file, or has a header of {length} bytes; at most {LARGEST_JSON_BYTES} are read"
        )
    if LENGTH_BYTES + length > len(mapped):
        raise WeightsRefused(f"is truncated: the header has {length} bytes, the file {len(mapped)}")
    return length


def _entries(header: bytes) -> dict[str, Entry]:
    if not header.startswith(b"{"):
        raise WeightsRefused("is no safetensors file: the header does not begin with '{'")
    described = read_object(header)
    converted(described.pop("__metadata__", {}), dict[str, str], "`__metadata__`")
    entries = {name: converted(value, Entry, f"tensor {shown(name)}") for name, value in described.items()}
    for name, entry in entries.items():
        _check_entry(name, entry)
    return entries


def _check_entry(name: str, entry: Entry) -> None:
    begin, end = entry.data_offsets
    size = element_count(entry.shape) * item_bytes(entry.dtype)
    if end - begin != size:
        raise WeightsRefused(
            f"tensor {shown(name)} needs {size} bytes for {entry.dtype} {shown(entry.shape)}, "
            f"its data_offsets span {shown(end - begin)}"
        )


def _check_coverage(entries: Mapping[str, Entry], data_bytes: int) -> None:
    """Check that the tensors, in order of their offsets, follow each other without gap from first byte to last."""
    covered = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, end = entry.data_offsets
        if begin != covered:
            fault = "overlaps the one before it" if begin < covered else "leaves a gap before it"
            raise WeightsRefused(f"tensor {shown(name)} at data offset {shown(begin)} {fault}")
        covered = end
    if covered != data_bytes:
        fault = "is truncated" if covered > data_bytes else "has bytes that belong to no tensor"
        raise WeightsRefused(f"{fault}: the tensors take {covered} bytes, the file holds {data_bytes}")


def _tensor(mapped: mmap.mmap, name: str, entry: Entry, start: int) -> Tensor:
    array = view(mapped, entry.dtype, entry.shape, start + entry.data_offsets[0])
    return Tensor(name, entry.dtype, settled(array))
