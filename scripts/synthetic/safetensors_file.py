"""Write safetensors files, one or many with their index; streams, so memory stays small."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from synthetic.stored import StoredDtype, StoredTensor

CODES: dict[StoredDtype, str] = {"f32": "F32", "f16": "F16", "bf16": "BF16", "i64": "I64"}


def write_safetensors(file: Path, tensors: Sequence[StoredTensor]) -> None:
    """Write one safetensors file."""
    with file.open("wb") as out:
        header = _header(tensors)
        out.write(len(header).to_bytes(8, "little") + header)
        for tensor in tensors:
            out.writelines(tensor.chunks())


def write_shards(folder: Path, tensors: Sequence[StoredTensor], shard_bytes: int) -> None:
    """Write `model-0000x-of-0000n.safetensors`, each of at most `shard_bytes` if its tensors allow, and the index."""
    shards = list(_shards(tensors, shard_bytes))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / name, shard)
        weight_map |= {tensor.name: name for tensor in shard}
    index = {"metadata": {"total_size": sum(tensor.bytes for tensor in tensors)}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _header(tensors: Sequence[StoredTensor]) -> bytes:
    """Return the header, padded with spaces so that the data begin at a multiple of 8."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.bytes
        header[tensor.name] = {"dtype": CODES[tensor.dtype], "shape": tensor.shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return encoded + b" " * (-len(encoded) % 8)


def _shards(tensors: Sequence[StoredTensor], shard_bytes: int) -> Iterator[list[StoredTensor]]:
    shard: list[StoredTensor] = []
    for tensor in tensors:
        if shard and sum(other.bytes for other in shard) + tensor.bytes > shard_bytes:
            yield shard
            shard = []
        shard.append(tensor)
    yield shard
