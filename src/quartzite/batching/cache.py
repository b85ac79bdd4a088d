"""The vectors of the items that were asked for last, in bounded memory. Pure: no clock, no event loop, no threads."""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from quartzite.domain import Vectors

KEPT_BESIDE = 288
"""Bytes that a vector takes at most besides its numbers: its fingerprint, and its places in the order of use."""


class VectorCache:
    """Vectors by fingerprint, float32 (D,) each, of one model; what was used longest ago makes room for what comes.

    All of it takes `max_bytes` at most, fingerprints and order included. Memory for the numbers is set aside at once
    and taken as it is used. Raises ValueError when there is no room for one vector.
    """

    def __init__(self, max_bytes: int, dimensions: int) -> None:
        self._entry_bytes = dimensions * np.dtype(np.float32).itemsize + KEPT_BESIDE
        self._most = max_bytes // self._entry_bytes
        if not self._most:
            raise ValueError(f"{max_bytes} bytes have no room for one vector, which takes {self._entry_bytes}")
        self._rows = np.empty((self._most, dimensions), dtype=np.float32)
        self._places: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    @property
    def held_bytes(self) -> int:
        """The memory that is in use."""
        return len(self._places) * self._entry_bytes

    def __bool__(self) -> bool:
        return True

    def find(self, fingerprint: bytes) -> Vectors | None:
        """Return the vector with that `fingerprint`, valid until the next is kept, or None; it counts as used now."""
        place = self._places.get(fingerprint)
        if place is None:
            return None
        self._places.move_to_end(fingerprint)
        row: Vectors = self._rows[place]
        return row

    def keep(self, fingerprint: bytes, vector: Vectors) -> bool:
        """Keep a copy of `vector`, float32 (D,); return whether another had to go for it."""
        place = self._places.pop(fingerprint, None)
        evicted = place is None and len(self._places) == self._most
        if evicted:
            _, place = self._places.popitem(last=False)
        elif place is None:
            place = len(self._places)
        self._places[fingerprint] = place
        self._rows[place] = vector
        return evicted


@dataclass(frozen=True, slots=True)
class Reuse:
    """What equal items share: one computation if they come at the same time, and the vectors of a cache."""

    sharing: bool = True
    cache: VectorCache | None = None


COMPUTED_ONCE = Reuse()
