"""The one abstract seam: what an engine is. Knows nothing of requests, queues or the web."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from quartzite.domain import Encoded, Vectors


class Block(NamedTuple):
    """A length in tokens that divides the longest row, and the share of the undivided row's cost that is left then."""

    tokens: int
    price: float


@dataclass(frozen=True, slots=True)
class MicroBatchShape:
    """What an engine takes at once.

    `tokens`: total of a packed micro-batch; an item longer than that runs alone. `items`: most items in one.
    `buckets`: ascending packed lengths the engine has graphs for, the last one equal to `tokens`; a micro-batch
    costs as much as the smallest bucket that holds it. Engines without buckets leave the tuple empty.
    `blocks`: ascending; what can be laid in the longest row so that no item crosses a border between blocks is cheaper.
    """

    tokens: int
    items: int
    buckets: tuple[int, ...] = ()
    blocks: tuple[Block, ...] = ()


class Engine(Protocol):
    """Runs one model. All methods are called on the event loop; heavy work happens elsewhere."""

    @property
    def dimensions(self) -> int:
        """Native dimensions D of the vectors."""

    @property
    def streams(self) -> int:
        """How many micro-batches may be under way at the same time.

        While all of them are items over `shape.tokens`, one micro-batch more may come, to be let in between pieces.
        """

    @property
    def ahead(self) -> bool:
        """Whether it takes one micro-batch more than it has streams, which begins the moment that one of them ends."""

    @property
    def spread(self) -> int:
        """How many idle streams one micro-batch can have together, so that it ends earlier; 1 where it cannot."""

    @property
    def shape(self) -> MicroBatchShape:
        """The largest micro-batch, and the lengths that are cheap."""

    @property
    def arithmetic(self) -> str:
        """How it computes and why so, in words for the operator: `bf16 (the processor has amx_bf16)`."""

    async def embed(self, batch: Sequence[Encoded], spread: bool = False) -> Vectors:
        """Return one pooled vector per item, in order: float32 (B, D), not normalised.

        The batch respects `shape`; with `spread` it has the cores of as many streams as the engine's `spread` says.
        Any exception means that the whole micro-batch failed.
        """

    async def close(self) -> None:
        """Release what the engine holds; called once, with nothing under way."""
