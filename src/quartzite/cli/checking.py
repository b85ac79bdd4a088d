"""What `quartzite models check` finds out about a loaded model, through the same pipeline that serves requests.

Published similarities where the catalogue has some; always, that vectors are sound and do not depend on their batch.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from quartzite.domain import Vectors
from quartzite.registry.catalog import PublishedCheck

Embed = Callable[[Sequence[str]], Awaitable[Vectors]]
"""Texts to unit-length vectors float32 (B, D)."""

SAMPLES = (
    "The quick brown fox jumps over the lazy dog.",
    "Which planet is known as the Red Planet?",
    "北京是中华人民共和国的首都。",
    "def area(radius): return 3.14159 * radius ** 2",
    "Quartz",
    "It had rained all night, and the river, brown and swift, carried branches and a single red boat towards the sea.",
)
LENGTH_TOLERANCE = 1e-3
BATCH_TOLERANCE = 1e-3
"""bf16 rounds differently in differently shaped products; f32 stays within a millionth."""
SAME_ABOVE = 0.98
"""Cosine above which two of the samples, which mean different things, count as one vector."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure: what it is, the value wanted, the value found, and how far apart they may be."""

    what: str
    wanted: float
    found: float
    tolerance: float

    @property
    def difference(self) -> float:
        """The distance of the value found from the value wanted; NaN if it is no number."""
        return abs(self.found - self.wanted)

    @property
    def passed(self) -> bool:
        """Whether the difference is a number within the tolerance."""
        return self.difference <= self.tolerance


async def published(check: PublishedCheck, embed: Embed) -> list[Finding]:
    """Return the cosine of every query with every document beside the published one."""
    queries = await embed([check.query_prompt + query for query in check.queries])
    cosines = queries @ (await embed(check.documents)).T
    return [
        Finding(f"query {row + 1}, document {column + 1}", wanted, float(cosines[row, column]), check.tolerance)
        for row, line in enumerate(check.expected)
        for column, wanted in enumerate(line)
    ]


async def soundness(embed: Embed) -> list[Finding]:
    """Return what must hold for any model: unit length, one vector per text in any batch, several for several texts."""
    together = await embed(SAMPLES)
    alone = np.concatenate([await embed([text]) for text in SAMPLES])
    lengths = np.linalg.norm(together, axis=1)
    farthest = float(lengths[np.argmax(np.abs(lengths - 1))])
    same = float((together * alone).sum(axis=1).min())
    closest = float((together @ together.T)[~np.eye(len(SAMPLES), dtype=bool)].max())
    return [
        Finding("length farthest from 1", 1.0, farthest, LENGTH_TOLERANCE),
        Finding("cosine of a text alone and in a batch", 1.0, same, BATCH_TOLERANCE),
        Finding("highest cosine of different texts", 0.0, closest, SAME_ABOVE),
    ]
