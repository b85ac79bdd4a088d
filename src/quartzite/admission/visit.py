"""One request from its admission to its record. Knows the gate, and which status every failure has."""

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType

from quartzite.admission.gate import Caller, Gate, Permit
from quartzite.domain import Outcome, Timings
from quartzite.errors import DatabaseDown, EngineFault, NotRecorded, RequestFailure, Stopping, WireRow, wire_row
from quartzite.telemetry.logs import fields
from quartzite.telemetry.trace import Trace

logger = logging.getLogger(__name__)


class Visit:
    """One request, let in for the length of an `async with`, before whose end is recorded what became of it.

    An answer that cannot be recorded fails with the error of the recording; a failure stays the failure that it is,
    and where it is that the database does not answer, there is nobody to record it.
    """

    def __init__(self, gate: Gate, caller: Caller, trace: Trace, clock: Callable[[], float]) -> None:
        self._gate = gate
        self._permit = Permit(caller)
        self._trace = trace
        self._clock = clock
        self._begun = clock()

    async def __aenter__(self) -> Permit:
        try:
            self._permit = await self._gate.admit(self._permit.caller)
        except BaseException as error:
            await self._failed(error)
            raise
        self._trace.allowances = self._permit.left
        return self._permit

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self._record(None)
        else:
            await self._failed(error)

    async def _failed(self, error: BaseException) -> None:
        if isinstance(error, DatabaseDown):
            return
        try:
            await self._record(_row(error))
        except NotRecorded as failure:
            said = fields(trace_id=self._trace.id, cause=failure.__cause__)
            logger.error("a failed request could not be recorded", extra=said)
        except Exception:
            logger.exception("a failed request could not be recorded", extra=fields(trace_id=self._trace.id))

    async def _record(self, failed: WireRow | None) -> None:
        await self._gate.record(self._permit, _outcome(self._trace, failed, self._clock() - self._begun))


def _outcome(trace: Trace, failed: WireRow | None, total_s: float) -> Outcome:
    return Outcome(
        status=failed.status if failed else 200,
        code=failed.code if failed else None,
        model=trace.model,
        user=trace.user,
        items=trace.items or 0,
        tokens=trace.tokens or 0,
        timings=trace.timings or Timings(),
        total_s=total_s,
        images=trace.images or 0,
    )


def _row(error: BaseException) -> WireRow:
    """Return how `error` is answered: the end of the service as such, what nobody foresaw as a fault."""
    if isinstance(error, RequestFailure):
        return wire_row(error)
    return wire_row(Stopping() if isinstance(error, asyncio.CancelledError) else EngineFault())
