"""What a look-up said, believed for a short time. Knows nothing of what is looked up."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from quartzite.errors import DatabaseDown

REMEMBERED_S = 2.0
"""How long the answer of a look-up is believed: a revoked key dies within this time in every process."""
LOOK_UP_S = 10.0
"""How long a look-up is waited for, in seconds: a database that hangs must not hold requests for ever."""

T = TypeVar("T")


class Remembered(Generic[T]):
    """One answer, believed for REMEMBERED_S counted from before it was asked for; a failure is not believed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = 0.0
        self._asked: asyncio.Task[T] | None = None

    async def get(self, look: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what is remembered, or what `look` says now, asked once for all that come in the meantime.

        Raises DatabaseDown when that takes longer than LOOK_UP_S.
        """
        now = self._clock()
        if self._asked is None or now - self._since >= REMEMBERED_S or _failed(self._asked):
            self._since, self._asked = now, asyncio.create_task(look())
            self._asked.add_done_callback(_failed)  # an error is told to those who wait, or to nobody
        if self._asked.done():
            return self._asked.result()
        return await in_time(asyncio.shield(self._asked))


async def in_time(look_up: Awaitable[T]) -> T:
    """Return what a look-up says; raises DatabaseDown when that takes longer than LOOK_UP_S."""
    try:
        async with asyncio.timeout(LOOK_UP_S):
            return await look_up
    except TimeoutError:
        raise DatabaseDown from TimeoutError(f"no answer within {LOOK_UP_S:g} s")


def _failed(asked: "asyncio.Task[Any]") -> bool:
    return asked.done() and (asked.cancelled() or asked.exception() is not None)
