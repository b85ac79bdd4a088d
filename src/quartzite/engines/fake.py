"""An engine without a model, for tests and demonstrations of the service. Knows nothing of weights.

Vectors come from the token ids alone: the same ids give the same vector in any batch, another order gives another
vector, and items that share tokens come out alike, so that even a search over it looks sensible.
"""

import asyncio
from collections.abc import Sequence

import numpy as np

from quartzite.domain import Encoded, Ids, Vectors
from quartzite.engines.base import MicroBatchShape

_SHAPE = MicroBatchShape(tokens=512, items=32)
_ROWS = 4099  # prime, so that neighbouring products of ids spread over all rows


class FakeEngine:
    """Computes nothing learnt, in no time, and fails on demand.

    `fail_on`, `nan_on` and `misshape_on` are token ids: a micro-batch that holds one raises, returns NaN in place of
    that item's vector, or returns a vector too few. `hold()` keeps micro-batches inside until `release()`;
    `entered` is set as soon as one is inside. `batches` lists the token counts of every micro-batch taken.
    """

    def __init__(
        self,
        dimensions: int = 8,
        streams: int = 1,
        shape: MicroBatchShape = _SHAPE,
        *,
        fail_on: int | None = None,
        nan_on: int | None = None,
        misshape_on: int | None = None,
    ) -> None:
        self.dimensions = dimensions
        self.streams = streams
        self.ahead = False
        self.spread = 1
        self.shape = shape
        self.arithmetic = "f32 (nothing is computed)"
        self.batches: list[tuple[int, ...]] = []
        self.entered = asyncio.Event()
        self.closed = False
        self._fail_on, self._nan_on, self._misshape_on = fail_on, nan_on, misshape_on
        self._open = asyncio.Event()
        self._open.set()
        self._table = np.random.default_rng(0).standard_normal((_ROWS, dimensions), dtype=np.float32)

    def hold(self) -> None:
        """Keep every micro-batch that comes in until `release()`."""
        self._open.clear()
        self.entered.clear()

    def release(self) -> None:
        """Let all that are held go on."""
        self._open.set()

    async def embed(self, batch: Sequence[Encoded], spread: bool = False) -> Vectors:  # noqa: ARG002
        """Return float32 (B, D) made of the token ids alone, or fail as provoked."""
        self.batches.append(tuple(item.tokens for item in batch))
        self.entered.set()
        await self._open.wait()
        if _holds(batch, self._fail_on):
            raise RuntimeError("provoked failure")
        vectors = np.stack([self._vector(item.ids) for item in batch])
        return vectors[1:] if _holds(batch, self._misshape_on) else vectors

    async def close(self) -> None:
        """Note that it was closed."""
        self.closed = True

    def _vector(self, ids: Ids) -> Vectors:
        if self._nan_on is not None and self._nan_on in ids:
            return np.full(self.dimensions, np.nan, dtype=np.float32)
        wide = ids.astype(np.int64)
        pairs = wide[:-1] * 31 + wide[1:] + 1
        rows = np.concatenate([wide, pairs]) % _ROWS
        total: Vectors = self._table[rows].sum(axis=0)
        return total


def _holds(batch: Sequence[Encoded], token: int | None) -> bool:
    return token is not None and any(token in item.ids for item in batch)
