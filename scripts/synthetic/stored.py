"""A tensor on its way to a file; knows neither models nor formats."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

StoredDtype = Literal["f32", "f16", "bf16", "i64"]
ITEM_BYTES: dict[StoredDtype, int] = {"f32": 4, "f16": 2, "bf16": 2, "i64": 8}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor's name, shape and dtype, and a way to its bytes in C order; `chunks` may be called again."""

    name: str
    dtype: StoredDtype
    shape: tuple[int, ...]
    chunks: Callable[[], Iterator[bytes]]

    @property
    def values(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of the values."""
        return self.values * ITEM_BYTES[self.dtype]
