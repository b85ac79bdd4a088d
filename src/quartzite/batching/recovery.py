"""Brings a model back that has failed: its engine is tried, ever more seldom, until it answers.

Knows nothing of requests.
"""

import asyncio
from collections.abc import Callable

import numpy as np

from quartzite.domain import Encoded, Vectors
from quartzite.engines.base import Engine

PROBE = Encoded(np.zeros(1, dtype=np.int32))
"""What the engine is tried with: one token that every vocabulary has."""
PROBE_S = 30.0
"""How long the answer to a probe is waited for, in seconds."""
LONGEST_PAUSE_S = 60.0


def longer(pause_s: float) -> float:
    """Return the pause that follows one of `pause_s` seconds: none, 1, 2, 4, ... up to the longest."""
    return min(max(1.0, 2 * pause_s), LONGEST_PAUSE_S)


class Recovery:
    """Tries one engine, at most one probe at a time, while `is_free` says that a stream has room for it.

    `sound` says whether what a probe brought is right; `released` is called whenever a probe has left its stream, and
    `recovered` once one was right.
    """

    def __init__(
        self,
        engine: Engine,
        is_free: Callable[[], bool],
        sound: Callable[[Vectors], bool],
        released: Callable[[], None],
        recovered: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._is_free = is_free
        self._sound = sound
        self._released = released
        self._recovered = recovered
        self._trying: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[Vectors] | None = None

    @property
    def in_engine(self) -> bool:
        """Whether a probe holds a stream of the engine."""
        return self._probe is not None and not self._probe.done()

    @property
    def is_lost(self) -> bool:
        """Whether a probe hangs in the engine, which was not stopped by cancelling it either."""
        return self.in_engine and self._probe is not None and self._probe.cancelling() > 0

    def begin(self, pause_s: float = 0.0) -> None:
        """Try the engine after `pause_s` seconds and from then on, unless it is being tried already."""
        if self._trying is None:
            self._trying = asyncio.get_running_loop().create_task(self._try(pause_s))

    def stop(self) -> list[asyncio.Task[Vectors]]:
        """Try no more; return the probe that is still in the engine, if one is, cancelled."""
        if self._trying:
            self._trying.cancel()
        if not self._probe or self._probe.done():
            return []
        self._probe.cancel()
        return [self._probe]

    async def _try(self, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        while not await self._answers():
            pause_s = longer(pause_s)
            await asyncio.sleep(pause_s)
        self._trying = None
        self._recovered()

    async def _answers(self) -> bool:
        if self.in_engine or not self._is_free():
            return False
        try:
            self._probe = probe = asyncio.get_running_loop().create_task(self._engine.embed([PROBE]))
            probe.add_done_callback(self._ended)
            await asyncio.wait([probe], timeout=PROBE_S)
            if not probe.done():
                probe.cancel()
                return False
            return not probe.cancelled() and self._sound(probe.result())
        except Exception:  # noqa: BLE001  an engine may fail in any way
            return False

    def _ended(self, probe: asyncio.Task[Vectors]) -> None:
        if not probe.cancelled():
            probe.exception()  # the event loop would complain if nobody asked for that of a late one
        self._released()
