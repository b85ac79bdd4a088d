"""Which files of a model folder hold its weights; knows nothing of what the tensors mean."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from quartzite.errors import WeightsRefused
from quartzite.weights.mapped import map_private
from quartzite.weights.safetensors import read_safetensors
from quartzite.weights.strict_json import LARGEST_JSON_BYTES, converted, read_object
from quartzite.weights.tensor import Tensor
from quartzite.weights.torch_zip import read_torch_zip
from quartzite.weights.wording import listed, naming, shown

Read = Callable[[Path], dict[str, Tensor]]

# In order of preference. Beside each may stand `<file>.index.json`, which spreads the tensors over several files.
READERS: Mapping[str, Read] = {"model.safetensors": read_safetensors, "pytorch_model.bin": read_torch_zip}
INDEX_SUFFIX = ".index.json"
# A shard is a file beside its index: letters, digits, dots and dashes, no way out of the folder.
SHARD_NAME = re.compile(r"\w[\w.-]{0,199}\.(safetensors|bin)", re.ASCII)
OTHER_FORMATS = ("*.onnx", "*.gguf", "*.h5", "*.msgpack", "*.pt", "*.pth", "*.ckpt", "*.xml", "*.safetensors", "*.bin")


class Index(msgspec.Struct, frozen=True):
    """The part of an index file that matters: tensor name to shard file name."""

    weight_map: dict[str, str]


def open_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a Hugging Face folder by name, as views of its files.

    The first of model.safetensors, its index, pytorch_model.bin and its index that is there counts. Raises
    WeightsRefused naming the file and what is wrong with it, or what was looked for and what is there instead.
    """
    for file, read in READERS.items():
        if os.path.lexists(folder / file):  # a dangling link counts: another format would be a surprise
            return read(folder / file)
        if os.path.lexists(folder / (file + INDEX_SUFFIX)):
            return _read_shards(folder / (file + INDEX_SUFFIX), read)
    raise WeightsRefused(_nothing_found(folder))


def _read_shards(index: Path, read: Read) -> dict[str, Tensor]:
    with naming(index):
        shards = _shards(index)
        _check_presence(index.parent, list(shards))
    tensors: dict[str, Tensor] = {}
    for shard, promised in shards.items():
        found = read(index.parent / shard)
        with naming(index):
            _check_agreement(shard, promised, set(found))
        tensors |= found
    return tensors


def _shards(index: Path) -> dict[str, set[str]]:
    """Return the shards an index names, in the order of their names, each with the tensors it is said to hold."""
    mapped = map_private(index)
    if len(mapped) > LARGEST_JSON_BYTES:
        raise WeightsRefused(f"has {len(mapped)} bytes, at most {LARGEST_JSON_BYTES} are read")
    shards: dict[str, set[str]] = defaultdict(set)
    for tensor, shard in converted(read_object(mapped[:]), Index, "the index").weight_map.items():
        if not SHARD_NAME.fullmatch(shard):
            raise WeightsRefused(f"tensor {shown(tensor)} is said to be in {shown(shard)}, which is no plain file name")
        shards[shard].add(tensor)
    return dict(sorted(shards.items()))


def _check_presence(folder: Path, shards: list[str]) -> None:
    missing = [shown(shard) for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise WeightsRefused(f"{len(missing)} of {len(shards)} files are not in the folder: {listed(missing)}")


def _check_agreement(shard: str, promised: set[str], found: set[str]) -> None:
    if absent := sorted(promised - found):
        raise WeightsRefused(
            f"{shard} lacks tensors the index places there: {listed([shown(name) for name in absent])}"
        )
    if extra := sorted(found - promised):
        raise WeightsRefused(f"{shard} holds tensors the index does not: {listed([shown(name) for name in extra])}")


def _nothing_found(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder}: there is no such folder"
    looked_for = ", ".join(f"{file} and {file}{INDEX_SUFFIX}" for file in READERS)
    others = sorted({path.relative_to(folder).as_posix() for form in OTHER_FORMATS for path in _nearby(folder, form)})
    instead = f"; what is there is not read: {listed(others)}" if others else ""
    return f"{folder}: no weights; looked for {looked_for}{instead}"


def _nearby(folder: Path, form: str) -> list[Path]:
    return [*folder.glob(form), *folder.glob(f"*/{form}")]
