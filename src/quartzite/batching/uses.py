"""Counts who uses something, so that it is not taken away from under them. Knows nothing of what it is."""

import asyncio
from types import TracebackType


class Uses:
    """The requests that use one engine, from when they have found it to when they have their vectors.

    A request enters with `with uses:`, on the event loop.
    """

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    def __enter__(self) -> None:
        self._count += 1
        self._none.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()

    async def ended(self) -> None:
        """Return when nobody uses it; whoever may still find it must be kept from doing so before."""
        await self._none.wait()
