"""Equal items are computed once: which of those that wait are equal, and whether one had better wait for another's end.

Pure: no clock, no event loop, no threads. An item keeps its own place among those that wait until an equal one is in
the engine; so it is never later than if it were alone in the world, but for what `is_sooner` misjudges.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

R = TypeVar("R", bound=Hashable)

NO_LONGER = 2
"""So many times the work that an item would have to wait for is how long it waits for an equal one instead."""


class Repeats(Generic[R]):
    """The items that wait, by fingerprint: each is a request and the item's index in it.

    Items without a fingerprint are equal to none.
    """

    def __init__(self) -> None:
        self._waiting: dict[bytes, list[tuple[R, int]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, fingerprint: bytes, item: tuple[R, int]) -> None:
        """Note that `item` waits from now on."""
        if fingerprint:
            self._waiting.setdefault(fingerprint, []).append(item)

    def remove(self, fingerprint: bytes, item: tuple[R, int]) -> None:
        """Note that `item` waits no more, if it did."""
        equal = self._waiting.get(fingerprint)
        if equal and item in equal:
            equal.remove(item)
            if not equal:
                del self._waiting[fingerprint]

    def equal(self, fingerprint: bytes) -> tuple[tuple[R, int], ...]:
        """Return the items with that `fingerprint` that wait, in the order they came."""
        return tuple(self._waiting.get(fingerprint, ()))


def is_sooner(left: float, free_in: float, work: float, row: float) -> bool:
    """Say whether an item should wait for an equal one in the engine, whose micro-batch ends after `left`.

    Else it would begin when a stream is free, after `free_in`, and end when the `work` up to and with it is done, which
    cannot be before a micro-batch of `row` is. All four are in tokens that one stream computes.
    """
    return left <= free_in + NO_LONGER * max(work, row)
