"""Files mapped into memory, and arrays that view them; knows nothing of what the files hold.

The mappings are private and copy-on-write: writable for libraries that insist on it, while pages that are only read
stay clean, shared with the page cache and evictable.
"""

import math
import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quartzite.errors import WeightsRefused
from quartzite.weights.tensor import STORED_AS, DType
from quartzite.weights.wording import shown

MOST_AXES = 64  # numpy's own limit
MOST_ELEMENTS = 2**59  # of eight bytes at most: every size and offset fits a signed 64-bit number
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def map_private(path: Path) -> mmap.mmap:
    """Map the whole regular file `path`; raise WeightsRefused when it cannot be read, is empty or a Git LFS pointer."""
    try:
        if not path.is_file():
            raise WeightsRefused("there is no such file")
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as fault:  # ValueError: mmap refuses empty files
        raise WeightsRefused(f"cannot be mapped into memory: {fault}") from fault
    if mapped[: len(LFS_POINTER)] == LFS_POINTER:
        raise WeightsRefused("holds a Git LFS pointer instead of the weights; run `git lfs pull` in its folder")
    return mapped


def element_count(shape: tuple[int, ...]) -> int:
    """Return the number of elements of `shape`, all sizes >= 0; raise WeightsRefused when no array can have it."""
    if len(shape) > MOST_AXES or math.prod(max(size, 1) for size in shape) > MOST_ELEMENTS:
        raise WeightsRefused(f"shape {shown(shape)} is larger than any array")
    return math.prod(shape)


def item_bytes(dtype: DType) -> int:
    """Return the size of one element, in bytes."""
    return np.dtype(STORED_AS[dtype]).itemsize


def view(
    mapped: mmap.mmap, dtype: DType, shape: tuple[int, ...], offset: int, strides: tuple[int, ...] | None = None
) -> NDArray[np.generic]:
    """Return the array of `dtype` and `shape` that starts `offset` bytes into the file, as a view of it.

    `strides` are in bytes, C order without them. The caller has checked that all of it lies inside the file.
    """
    return np.ndarray(shape, STORED_AS[dtype], buffer=mapped, offset=offset, strides=strides)


def is_settled(array: NDArray[np.generic]) -> bool:
    """Tell whether `array` is C-contiguous and aligned to its items, as engines take for granted."""
    return array.flags.c_contiguous and array.flags.aligned


def settled(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return `array` itself when it is settled, else a copy that is."""
    return array if is_settled(array) else array.copy(order="C")
