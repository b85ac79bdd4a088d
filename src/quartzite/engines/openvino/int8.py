"""Weight matrices as int8 with a scale for every output row, made once and kept in a file beside the other model files.

Kept in a file and not in memory for two reasons: the next start finds them ready, and the plugin packs its own copy of
every matrix, so the pages of this one can be given up while those of a private array could not.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from quartzite.errors import WeightsRefused
from quartzite.weights.safetensors import read_safetensors
from quartzite.weights.tensor import Tensor

RECIPES = {
    "rows": "symmetric rows 1",
    "smoothed": "smoothed symmetric groups 1",
    "smoothed rows": "smoothed symmetric rows 1",
}
"""Part of every file's name: a change of the arithmetic below makes new files."""
SCALE = ".scale"
SMOOTHING = ".smoothing"
GROUP = 128
"""Weights of a row that share a scale where activations are int8 too; rows of other lengths have one scale."""


@dataclass(frozen=True, slots=True, eq=False)
class Smoothing:
    """What the states at one `place` are multiplied with, float32 (in,), before they meet the matrices `products`."""

    place: str
    products: tuple[str, ...]
    multipliers: NDArray[np.float32]


def quantise(matrix: NDArray[np.float32], groups: int = 1) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Split float32 (out, in) into int8 levels (out, in) in -127..127 and float32 scales (out, groups).

    Each scale is that of in / groups neighbouring weights of a row: levels * scales is the matrix.
    """
    apart = matrix.reshape(len(matrix), groups, -1)
    scales = np.abs(apart).max(axis=2, keepdims=True) / np.float32(127)
    scales[scales < np.finfo(np.float32).tiny] = 1  # groups of zeros, or of numbers so small that steps lose their bits
    levels = apart / scales
    return np.rint(levels, out=levels).astype(np.int8).reshape(matrix.shape), scales[:, :, 0]


def with_int8_products(
    tensors: Mapping[str, Tensor],
    names: Sequence[str],
    folder: Path,
    cache: Path,
    smooth: Callable[[], Sequence[Smoothing]] | None = None,
    group: int = GROUP,
) -> dict[str, Tensor]:
    """Return `tensors` with the matrices `names` replaced by int8 levels and joined by `<name>.scale` tensors.

    With `smooth`, which is called when there is no file yet, its multipliers are in there as `<place>.smoothing`,
    the matrices have been divided by them, and there is a scale for each `group` of weights, 0 for whole rows.
    `folder` is where the tensors come from; the quantised file is read from, or first written to, `cache`/int8.
    Raises WeightsRefused when it cannot be written.
    """
    group = group if smooth else 0
    recipe = "rows" if smooth is None else "smoothed" if group else "smoothed rows"
    file = cache / "int8" / f"{_fingerprint(folder, recipe)}.safetensors"
    if not file.exists():
        try:
            _write(file, _Contents({name: tensors[name] for name in names}, group, smooth() if smooth else ()))
        except OSError as error:
            raise WeightsRefused(f"cannot write the int8 weights to {file}: {error.strerror}") from error
    return {**tensors, **read_safetensors(file)}


def _fingerprint(folder: Path, recipe: str) -> str:
    """Name the weights files as they are now: any change of path, size or time of writing gives another name."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return sha256(json.dumps([RECIPES[recipe], facts]).encode()).hexdigest()[:32]


class _Contents:
    """What goes into a file: the small tensors (scales, smoothings) first, then the levels of all matrices."""

    def __init__(self, matrices: Mapping[str, Tensor], group: int, smoothings: Sequence[Smoothing]) -> None:
        self._matrices = matrices
        self._smoothings = smoothings
        self._divisors = {name: smoothing.multipliers for smoothing in smoothings for name in smoothing.products}
        self._groups = {
            name: tensor.shape[1] // group if group and tensor.shape[1] % group == 0 else 1
            for name, tensor in matrices.items()
        }

    def header(self) -> bytes:
        """Return the file's header; the places of all tensors are known before their values."""
        small: dict[str, tuple[int, ...]] = {
            name + SCALE: (tensor.shape[0], self._groups[name]) for name, tensor in self._matrices.items()
        }
        small |= {smoothing.place + SMOOTHING: smoothing.multipliers.shape for smoothing in self._smoothings}
        entries: dict[str, object] = {}
        offset = 0
        for kind, shapes in (("F32", small), ("I8", {name: tensor.shape for name, tensor in self._matrices.items()})):
            for name, shape in shapes.items():
                end = offset + int(np.prod(shape)) * (4 if kind == "F32" else 1)
                entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, end]}
                offset = end
        text = json.dumps(entries).encode()
        return text + b" " * (-len(text) % 8)

    def write(self, out: BinaryIO) -> None:
        """Write all of the data, one matrix in memory at a time."""
        start = out.tell()
        scales_bytes = 4 * sum(tensor.shape[0] * self._groups[name] for name, tensor in self._matrices.items())
        out.seek(start + scales_bytes)
        for smoothing in self._smoothings:
            smoothing.multipliers.astype(np.float32).tofile(out)
        scales = []
        for name, tensor in self._matrices.items():
            matrix = tensor.as_f32()
            if name in self._divisors:
                matrix = matrix / self._divisors[name]
            levels, scale = quantise(matrix, self._groups[name])
            levels.tofile(out)
            scales.append(scale.ravel())
        out.seek(start)
        np.concatenate(scales).tofile(out)


def _write(file: Path, contents: _Contents) -> None:
    """Write the file under another name and rename it when it is whole, so that no half of one is ever read."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=file.parent, suffix=".unfinished")
    try:
        with os.fdopen(handle, "wb") as out:
            header = contents.header()
            out.write(len(header).to_bytes(8, "little") + header)
            contents.write(out)
        Path(unfinished).replace(file)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
