"""Small writers of weight files, for tests: the formats byte by byte, so that files can also be wrong on purpose."""

import io
import json
import mmap
import struct
import tracemalloc
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from quartzite.weights.tensor import STORED_AS, Tensor

FIXTURES = Path(__file__).parent / "fixtures" / "weights"
Array = NDArray[np.generic]
Tensors = dict[str, tuple[str, Array]]  # name to dtype and values

STORAGE_NAMES = {
    "F32": "FloatStorage",
    "F16": "HalfStorage",
    "BF16": "BFloat16Storage",
    "F64": "DoubleStorage",
    "I64": "LongStorage",
    "I32": "IntStorage",
    "I16": "ShortStorage",
    "I8": "CharStorage",
    "U8": "ByteStorage",
    "BOOL": "BoolStorage",
}


def counted(*shape: int) -> NDArray[np.float32]:
    """Return 0, 1/4, 2/4, ... in `shape`: exact in every float dtype."""
    return (np.arange(np.prod(shape, dtype=int)) / 4).astype(np.float32).reshape(shape)


def bf16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the bfloat16 bit patterns of values that are exact in bfloat16."""
    return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16).reshape(values.shape)


def one_of_each_dtype() -> Tensors:
    """Return name to dtype and values: what scripts/make_weight_fixtures.py saved under the same names."""
    small = np.arange(3) - 1
    return {
        "f32": ("F32", counted(2, 3)),
        "f16": ("F16", counted(5).astype(np.float16)),
        "bf16": ("BF16", bf16_bits(counted(3, 2))),
        "f64": ("F64", counted(2).astype(np.float64)),
        "i64": ("I64", small.astype(np.int64)),
        "i32": ("I32", small.astype(np.int32)),
        "i16": ("I16", small.astype(np.int16)),
        "i8": ("I8", small.astype(np.int8)),
        "u8": ("U8", np.arange(3, dtype=np.uint8)),
        "bool": ("BOOL", np.array([True, False, True])),
        "scalar": ("F32", np.array(2.5, np.float32)),
        "empty": ("F32", np.zeros((0, 4), np.float32)),
    }


def assert_same(found: Mapping[str, Tensor], expected: Tensors) -> None:
    """Assert that names, dtypes, shapes and every value agree."""
    assert sorted(found) == sorted(expected)
    for name, (dtype, values) in expected.items():
        tensor = found[name]
        assert (tensor.name, tensor.dtype, tensor.shape) == (name, dtype, values.shape)
        assert tensor.data.dtype == STORED_AS[dtype]
        assert tensor.data.tobytes() == values.tobytes()


@contextmanager
def flat_memory(allowed: int = 16_000_000) -> Iterator[None]:
    """Assert that what happens inside neither allocates nor makes resident more than `allowed` bytes."""
    tracemalloc.start()
    before = _resident_bytes()
    try:
        yield
        grown, (_, peak) = _resident_bytes() - before, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert max(grown, peak) < allowed


def _resident_bytes() -> int:
    """Return the pages of this process in memory, those of mapped files included; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * mmap.PAGESIZE if statm.exists() else 0


# --- safetensors ---


def entry(dtype: str, shape: Sequence[object], begin: object, end: object) -> dict[str, object]:
    """Return one entry of a safetensors header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def header_of(entries: Mapping[str, object]) -> bytes:
    """Return a header in JSON, padded with spaces to a multiple of 8 bytes as the library does."""
    raw = json.dumps(entries).encode()
    return raw + b" " * (-len(raw) % 8)


def safetensors(header: Mapping[str, object] | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """Return the bytes of a safetensors file; `header` as bytes and `length` may lie."""
    raw = header if isinstance(header, bytes) else header_of(header)
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def safetensors_of(tensors: Tensors, metadata: Mapping[str, str] | None = None, shift: int = 0) -> bytes:
    """Return the bytes of a safetensors file with `tensors` in order; `shift` more spaces follow the header."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    data = b""
    for name, (dtype, values) in tensors.items():
        header[name] = entry(dtype, values.shape, len(data), len(data) + values.nbytes)
        data += values.tobytes()
    return safetensors(header_of(header) + b" " * shift, data)


# --- the pickle of a torch file, in the opcodes torch.save writes ---


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def integers(values: Sequence[int]) -> bytes:
    return tuple_of(*map(integer, values))


ORDERED_DICT = name("collections", "OrderedDict") + b")R"


def storage(key: str, dtype: str, elements: int, kind: str = "storage") -> bytes:
    identity = (text(kind), name("torch", STORAGE_NAMES[dtype]), text(key), text("cpu"), integer(elements))
    return tuple_of(*identity) + b"Q"


def tensor(stored: bytes, offset: int, shape: Sequence[int], strides: Sequence[int]) -> bytes:
    arguments = (stored, integer(offset), integers(shape), integers(strides), b"\x89", ORDERED_DICT)
    return name("torch._utils", "_rebuild_tensor_v2") + tuple_of(*arguments) + b"R"


def parameter(of: bytes) -> bytes:
    return name("torch._utils", "_rebuild_parameter") + tuple_of(of, b"\x88", ORDERED_DICT) + b"R"


def state_dict(tensors: Mapping[str, bytes], metadata: bytes = b"") -> bytes:
    items = b"".join(text(key) + value for key, value in tensors.items())
    return b"\x80\x02" + ORDERED_DICT + b"(" + items + b"u" + metadata + b"."


# What a state_dict() carries as an attribute: {"_metadata": OrderedDict({"": {"version": 1}})}, set by BUILD.
METADATA = b"}" + text("_metadata") + ORDERED_DICT + b"(" + text("") + b"}" + text("version") + b"K\x01su" + b"sb"


def c_strides(shape: Sequence[int]) -> list[int]:
    return [int(np.prod(shape[axis + 1 :], dtype=int)) for axis in range(len(shape))]


# --- the zip archive around it ---


def archive(
    program: bytes, storages: Mapping[str, bytes], folder: str = "archive", alignment: int = 64, **extra: bytes
) -> bytes:
    """Return the bytes of a torch file; `extra` are further entries of the folder, `byteorder` among them."""
    entries = {"data.pkl": program, "byteorder": b"little", "version": b"3\n"} | extra
    entries |= {f"data/{key}": data for key, data in storages.items()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for path, data in entries.items():
            zipped.writestr(aligned_entry(zipped, f"{folder}/{path}", alignment), data)
    return file.getvalue()


def aligned_entry(zipped: zipfile.ZipFile, path: str, alignment: int = 64, zip64: bool = False) -> zipfile.ZipInfo:
    """Return the next entry, its bytes at a multiple of `alignment` by an extra field of padding, as torch does it."""
    assert zipped.fp is not None
    info = zipfile.ZipInfo(path)
    padding = -(zipped.fp.tell() + 30 + len(path.encode()) + 4 + (20 if zip64 else 0)) % alignment
    info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    return info


def torch_zip_of(tensors: Tensors, metadata: bytes = METADATA) -> bytes:
    """Return the bytes of a torch file with `tensors`, each in a storage of its own."""
    storages = {str(place): values.tobytes() for place, (_, values) in enumerate(tensors.values())}
    pickled = {
        key: tensor(storage(str(place), dtype, values.size), 0, values.shape, c_strides(values.shape))
        for place, (key, (dtype, values)) in enumerate(tensors.items())
    }
    return archive(state_dict(pickled, metadata), storages)


# --- what hypothesis draws ---


@st.composite
def stored_values(draw: st.DrawFn) -> tuple[str, Array]:
    """Draw a dtype, and small values of it in a shape that may be empty or a scalar's."""
    dtype = draw(st.sampled_from(sorted(STORED_AS)))
    shape = draw(st_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    return dtype, draw(st_numpy.arrays(STORED_AS[dtype], shape))


@st.composite
def mutations(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw `content` with a bit or byte changed, bytes lost, doubled or added, or its end cut, once or twice."""
    damaged = bytearray(content)
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, max(0, len(damaged) - 1)))
        match draw(st.sampled_from(["bit", "byte", "bit", "byte", "bit", "lose", "double", "add", "cut"])):
            case "bit" if damaged:
                damaged[place] ^= 1 << draw(st.integers(0, 7))
            case "byte" if damaged:
                damaged[place] = draw(st.integers(0, 255))
            case "lose":
                del damaged[place : place + draw(st.integers(1, 20))]
            case "double":
                damaged[place:place] = damaged[place : place + draw(st.integers(1, 200))]
            case "add":
                damaged[place:place] = draw(st.binary(min_size=1, max_size=8))
            case "cut":
                del damaged[place:]
    return bytes(damaged)
