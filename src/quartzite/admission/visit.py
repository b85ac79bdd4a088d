"""One request from its admission to its record. Knows the gate, and which status every failure has."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from quartzite.admission.gate import Caller, Gate, Permit
from quartzite.domain import Outcome, Timings
from quartzite.errors import DatabaseDown, EngineFault, NotRecorded, RequestFailure, Stopping, WireRow, wire_row
from quartzite.telemetry.logs import fields
from quartzite.telemetry.trace import Trace

logger = logging.getLogger(__name__)


@asynccontextmanager
async def visit(gate: Gate, caller: Caller, trace: Trace, clock: Callable[[], float]) -> AsyncIterator[Permit]:
    """Let `caller` in for one request, and have what became of it recorded before the `async with` ends.

    An answer that cannot be recorded fails with the error of the recording; a failure stays the failure that it is,
    and where it is that the database does not answer, there is nobody to record it.
    """
    begun = clock()
    permit = Permit(caller)
    try:
        permit = await gate.admit(caller)
        trace.allowances = permit.left
        yield permit
    except DatabaseDown:
        raise
    except BaseException as error:
        try:
            await gate.record(permit, _outcome(trace, _row(error), clock() - begun))
        except NotRecorded as failure:
            said = fields(trace_id=trace.id, cause=failure.__cause__)
            logger.error("a failed request could not be recorded", extra=said)
        except Exception:
            logger.exception("a failed request could not be recorded", extra=fields(trace_id=trace.id))
        raise
    await gate.record(permit, _outcome(trace, None, clock() - begun))


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
