"""What a look-up said, believed for a short time. Knows nothing of what is looked up."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

REMEMBERED_S = 2.0
"""How long the answer of a look-up is believed: a revoked key dies within this time in every process."""

T = TypeVar("T")


class Remembered(Generic[T]):
    """One answer, believed for REMEMBERED_S counted from before it was asked for; a failure is not believed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = 0.0
        self._asked: asyncio.Task[T] | None = None

    async def get(self, look: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what is remembered, or what `look` says now, asked once for all that come in the meantime."""
        now = self._clock()
        if self._asked is None or now - self._since >= REMEMBERED_S or _failed(self._asked):
            self._since, self._asked = now, asyncio.create_task(look())
            self._asked.add_done_callback(_failed)  # an error is told to those who wait, or to nobody
        return await asyncio.shield(self._asked)


def _failed(asked: "asyncio.Task[Any]") -> bool:
    return asked.done() and (asked.cancelled() or asked.exception() is not None)
