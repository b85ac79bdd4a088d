"""Random values by the gigabyte, the same on every machine; knows nothing of models."""

import zlib
from collections.abc import Iterator
from functools import lru_cache
from itertools import repeat
from math import prod

import numpy as np
from numpy.typing import NDArray

from synthetic.blueprint import Dtype
from synthetic.tensors import Counting, TensorPlan

BLOCK = 4_194_301
"""Values drawn in all. A prime, so that no two rows of a matrix hold the same values however often it repeats."""


class RandomSource:
    """Values for the tensors of one folder.

    One block of values, near enough to normal, is drawn per seed; each tensor reads it round and round from a place
    that its name decides. So a tensor of a gigabyte costs no more than its writing. The draw is sums of random
    integers, exact on every machine and independent of numpy's own distributions, which may change.
    """

    def __init__(self, seed: int) -> None:
        block = _block(seed)
        self._twice = np.concatenate([block, block])

    def chunks(self, plan: TensorPlan, dtype: Dtype) -> Iterator[bytes]:
        """Yield the stored bytes of a tensor in pieces of at most 17 MB."""
        size = prod(plan.shape)
        if isinstance(plan.content, Counting):
            yield np.arange(size, dtype="<i8").tobytes()
            return
        start = zlib.crc32(plan.name.encode()) % BLOCK
        once = self._twice[start : start + min(size, BLOCK)]
        stored = encode(once * np.float32(plan.content.deviation) + np.float32(plan.content.mean), dtype)
        repeats, rest = divmod(size, BLOCK)
        yield from repeat(stored.tobytes(), repeats)
        yield stored[:rest].tobytes()


@lru_cache(maxsize=2)
def _block(seed: int) -> NDArray[np.float32]:
    """Draw the block of a seed: sums of four 16-bit integers, moved and scaled to mean 0 and deviation 1."""
    words = np.random.PCG64(seed).random_raw(BLOCK).astype("<u8", copy=False).view("<u2").reshape(BLOCK, 4)
    sums = words.sum(axis=1, dtype=np.int32) - 2 * 65535
    block: NDArray[np.float32] = sums.astype(np.float32) / np.float32(65536 / np.sqrt(3))
    return block


def encode(values: NDArray[np.float32], dtype: Dtype) -> NDArray[np.generic]:
    """Return the values as they are stored, little-endian; bf16, rounded to nearest even, as uint16 bit patterns."""
    if dtype == "bf16":
        bits = values.view(np.uint32)
        to_even = (bits >> np.uint32(16)) & np.uint32(1)
        return ((bits + to_even + np.uint32(0x7FFF)) >> np.uint32(16)).astype("<u2")
    return values.astype("<f4" if dtype == "f32" else "<f2")
