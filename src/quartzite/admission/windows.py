"""Counters over sliding windows, of this process or shared by several. Knows keys and amounts, not what they limit.

A sliding window is approximated by two fixed ones, the current and the one before, of which the part counts that the
sliding window still covers. So a counter costs two numbers, however much it counts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Count:
    """What was counted in the window before and in the current one, of whose `period_s` seconds `left_s` are left."""

    previous: int
    current: int
    left_s: float
    period_s: int

    @property
    def used(self) -> int:
        """What counts now, rounded down."""
        return math.floor(self.previous * self.left_s / self.period_s) + self.current

    @property
    def reset_s(self) -> float:
        """In how many seconds nothing counts any more, if nothing is added."""
        if self.current:
            return self.left_s + self.period_s
        return self.left_s if self.previous else 0.0

    def wait_s(self, limit: int, amount: int) -> float:
        """Return in how many seconds `amount` fits under `limit`, if nothing is added; `amount` is at most `limit`."""
        if self.used + amount <= limit:
            return 0.0
        room = limit - amount + 1  # what counts is rounded down, and must stay below this
        if self.current < room:
            return self.left_s - self.period_s * (room - self.current) / self.previous
        return self.left_s + self.period_s * (1 - room / self.current)


class Windows(Protocol):
    """Counts amounts per key over sliding windows."""

    async def take(self, key: str, limit: int, period_s: int, amount: int) -> tuple[bool, Count]:
        """Add `amount` to `key` unless that exceeds `limit` per `period_s`; return whether it was, and the count."""


class LocalWindows:
    """Counters of this process, on a clock of any origin in seconds.

    Forgets counters that no longer count when there are twice as many as after the last time, so that the cost of one
    `take` does not grow with the number of keys.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counters: dict[tuple[str, int], list[int]] = {}  # (key, period) → number of the window, current, previous
        self._sweep_at = 1024

    def __len__(self) -> int:
        """Return how many counters are kept."""
        return len(self._counters)

    async def take(self, key: str, limit: int, period_s: int, amount: int) -> tuple[bool, Count]:
        """Add `amount` to `key` unless that exceeds `limit` per `period_s`; return whether it was, and the count."""
        now = self._clock()
        number, into_s = int(now // period_s), now % period_s
        counter = self._counters.get((key, period_s))
        if counter is None:
            counter = self._add((key, period_s), number, now)
        elif counter[0] != number:
            counter[:] = number, 0, counter[1] if counter[0] == number - 1 else 0
        left_s = period_s - into_s
        fits = math.floor(counter[2] * left_s / period_s) + counter[1] + amount <= limit
        if fits:
            counter[1] += amount
        return fits, Count(counter[2], counter[1], left_s, period_s)

    def _add(self, key: tuple[str, int], number: int, now: float) -> list[int]:
        if len(self._counters) >= self._sweep_at:
            self._counters = {
                other: counter for other, counter in self._counters.items() if counter[0] >= int(now // other[1]) - 1
            }
            self._sweep_at = max(1024, 2 * len(self._counters))
        counter = self._counters[key] = [number, 0, 0]
        return counter
