"""What a look-up said, believed for a short time. Knows nothing of what is looked up."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from quartzite.errors import Overloaded

REMEMBERED_S = 2.0
"""How long the answer of a look-up is believed: a revoked key dies within this time in every process."""

T = TypeVar("T")
logger = logging.getLogger(__name__)


async def answered(look: Awaitable[T]) -> T:
    """Return what a look-up brings; one that fails is logged, and raises Overloaded: ask again later."""
    try:
        return await look
    except Exception as error:
        logger.exception("who may come in could not be looked up")
        raise Overloaded from error


class Remembered(Generic[T]):
    """One answer, believed for REMEMBERED_S counted from before it was asked for; a failure is not believed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = 0.0
        self._asked: asyncio.Task[T] | None = None

    async def get(self, look: Callable[[], Awaitable[T]]) -> T:
        """Return what is remembered, or what `look` says now, asked once for all that come in the meantime.

        Raises Overloaded when `look` fails.
        """
        now = self._clock()
        if self._asked is None or now - self._since >= REMEMBERED_S or _failed(self._asked):
            self._since, self._asked = now, asyncio.create_task(answered(look()))
            self._asked.add_done_callback(_failed)  # an error is told to those who wait, or to nobody
        return await asyncio.shield(self._asked)


def _failed(asked: "asyncio.Task[Any]") -> bool:
    return asked.done() and (asked.cancelled() or asked.exception() is not None)
