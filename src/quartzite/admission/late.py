"""A gate that is not settled at the start: keys, and the database itself, may be made while the service runs.

Knows gates and how to look for the one to use; nothing of keys and databases.
"""

import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from quartzite.admission.gate import Caller, Gate, OpenGate, Permit
from quartzite.admission.remembered import Remembered
from quartzite.domain import EmbeddingRequest, Outcome
from quartzite.errors import DatabaseDown, StartFailure


class Found(NamedTuple):
    """The gate to use now; one that is `settled` is used from now on."""

    gate: Gate
    settled: bool


Look = Callable[[], Coroutine[Any, Any, Found]]


class LateGate:
    """Uses the gate that `look` finds, which is asked every REMEMBERED_S, and by requests only, until it is settled.

    Nothing settled opens again: not when the last key is revoked, and not when it expires. Requests that came in
    before go on as they began. While `look` fails nobody comes in, for there may be keys that cannot be read.
    """

    def __init__(self, look: Look, clock: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._found = Found(OpenGate(), settled=False)
        self._remembered: Remembered[Found] = Remembered(clock)

    async def current(self) -> Gate:
        """Return the gate to use now; raises what `look` raises."""
        if not self._found.settled:
            found = await self._remembered.get(self._look)
            if not self._found.settled:  # a newer look may have ended before this one
                self._found = found
        return self._found.gate

    async def admit(self, caller: Caller) -> Permit:
        """Ask the gate of now; raises DatabaseDown when there is no telling which one it is."""
        try:
            gate = await self.current()
        except StartFailure as failure:
            raise DatabaseDown from failure
        return await gate.admit(caller)

    async def count(self, permit: Permit, request: EmbeddingRequest) -> None:
        """Count a request of a principal."""
        if permit.principal is not None:
            await self._found.gate.count(permit, request)

    async def charge(self, permit: Permit, request: EmbeddingRequest, tokens: int) -> None:
        """Charge a principal."""
        if permit.principal is not None:
            await self._found.gate.charge(permit, request, tokens)

    async def record(self, permit: Permit, outcome: Outcome) -> None:
        """Write the request down, where there is a book by now."""
        await self._found.gate.record(permit, outcome)
