"""Weight matrices as int8 with one scale per output row, made once and kept in a file beside the other model files.

Kept in a file and not in memory for two reasons: the next start finds them ready, and the plugin packs its own copy of
every matrix, so the pages of this one can be given up while those of a private array could not.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from quartzite.errors import WeightsRefused
from quartzite.weights.safetensors import read_safetensors
from quartzite.weights.tensor import Tensor

RECIPE = "symmetric rows 1"
"""Part of every file's name: a change of the arithmetic below makes new files."""
SCALE = ".scale"


def quantise_rows(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Split float32 (out, in) into int8 levels (out, in) in -127..127 and float32 scales (out, 1): levels * scales."""
    scales = np.abs(matrix).max(axis=1, keepdims=True) / np.float32(127)
    scales[scales == 0] = 1  # rows of zeros, or of numbers so small that a 127th of them is none
    levels = matrix / scales
    return np.rint(levels, out=levels).astype(np.int8), scales


def with_int8_products(tensors: Mapping[str, Tensor], names: list[str], folder: Path, cache: Path) -> dict[str, Tensor]:
    """Return `tensors` with the matrices `names` replaced by int8 levels and joined by `<name>.scale` tensors.

    `folder` is where the tensors come from; the quantised file is read from, or first written to, `cache`/int8.
    Raises WeightsRefused when the file cannot be written.
    """
    file = cache / "int8" / f"{_fingerprint(folder)}.safetensors"
    if not file.exists():
        try:
            _write(file, {name: tensors[name] for name in names})
        except OSError as error:
            raise WeightsRefused(f"cannot write the int8 weights to {file}: {error.strerror}") from error
    return {**tensors, **read_safetensors(file)}


def _fingerprint(folder: Path) -> str:
    """Name the weights files as they are now: any change of path, size or time of writing gives another name."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return sha256(json.dumps([RECIPE, facts]).encode()).hexdigest()[:32]


def _write(file: Path, matrices: Mapping[str, Tensor]) -> None:
    """Write the file under another name and rename it when it is whole, so that no half of one is ever read."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=file.parent, suffix=".unfinished")
    try:
        with os.fdopen(handle, "wb") as out:
            _write_matrices(out, matrices)
        Path(unfinished).replace(file)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise


def _write_matrices(out: BinaryIO, matrices: Mapping[str, Tensor]) -> None:
    """Write scales, then levels, one matrix in memory at a time; the scales' places are known before their values."""
    rows = {name: tensor.shape[0] for name, tensor in matrices.items()}
    header, offset = {}, 0
    for name, count in rows.items():
        header[name + SCALE] = {"dtype": "F32", "shape": [count, 1], "data_offsets": [offset, offset + 4 * count]}
        offset += 4 * count
    levels_start = offset
    for name, tensor in matrices.items():
        end = offset + tensor.data.size
        header[name] = {"dtype": "I8", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)
    start = out.tell()
    out.seek(start + levels_start)
    scales = []
    for tensor in matrices.values():
        levels, scale = quantise_rows(tensor.as_f32())
        levels.tofile(out)
        scales.append(scale)
    out.seek(start)
    np.concatenate(scales).tofile(out)
