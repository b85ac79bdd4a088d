"""From pooled vectors to what an answer holds: cut, normalised, encoded. Knows nothing of engines, requests or JSON."""

import binascii

import numpy as np

from quartzite.domain import Vectors
from quartzite.errors import EngineFault


def finish(vectors: Vectors, dimensions: int | None) -> Vectors:
    """Cut pooled `vectors` float32 (B, D) to `dimensions` d, then give each unit length.

    None keeps all D; d is at most D. Returns float32 (B, d), C-contiguous, so that each row can be serialised where
    it lies. Raises EngineFault when a value is not finite, or when nothing but zeros is left of a vector.
    """
    cut = vectors[:, :dimensions].astype(np.float64)  # squares of float32 values cannot overflow or vanish here
    norms = np.sqrt(np.vecdot(cut, cut))
    if not np.isfinite(vectors).all() or not norms.all():
        raise EngineFault
    unit: Vectors = (cut / norms[:, np.newaxis]).astype(np.float32, order="C")
    return unit


def encode_base64(vectors: Vectors) -> list[str]:
    """Return each row of `vectors` float32 (B, d) as the base64 text of its d little-endian float32 values."""
    rows = np.ascontiguousarray(vectors, dtype="<f4")
    return [binascii.b2a_base64(row, newline=False).decode("ascii") for row in rows]
