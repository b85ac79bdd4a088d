"""Keys, allowances and the ledger of the database as the gate uses them. Imported only where there is a database."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from quartzite.admission.authenticate import Principal
from quartzite.admission.gate import Permit
from quartzite.domain import Outcome
from quartzite.storage.keys import Key, Keys
from quartzite.storage.ledger import Ledger, LedgerRow

_USE_NOTED_EVERY = timedelta(minutes=1)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class KnownKeys:
    """Finds principals by the keys of `keys`, and notes once a minute that a key is in use."""

    def __init__(self, keys: Keys, clock: Callable[[], datetime] = _utc_now) -> None:
        self._keys = keys
        self._clock = clock

    def __call__(self, secret: str) -> Principal | None:
        """Return whom `secret` stands for, None for a key unknown, revoked or expired; blocks."""
        found = self._keys.find(secret)
        if found is None:
            return None
        key, account = found
        self._note_use(key)
        return Principal(account.level, account.id, key.id, account.disabled, account.monthly_tokens)

    def _note_use(self, key: Key) -> None:
        now = self._clock()
        if key.last_used is None or now - key.last_used >= _USE_NOTED_EVERY:
            self._keys.touch([key.id], now)


class LedgerBook:
    """Writes what became of requests into `ledger`."""

    def __init__(self, ledger: Ledger, clock: Callable[[], datetime] = _utc_now) -> None:
        self._ledger = ledger
        self._clock = clock

    async def record(self, permit: Permit, outcome: Outcome) -> None:
        """Return when the row is on the disk; raises NotRecorded."""
        principal, caller, timings = permit.principal, permit.caller, outcome.timings
        row = LedgerRow(
            trace_id=caller.trace_id,
            at=self._clock() - timedelta(seconds=outcome.total_s),
            account_id=principal.account_id if principal else None,
            key_id=principal.key_id if principal else None,
            model=outcome.model,
            user=outcome.user,
            items=outcome.items,
            tokens=outcome.tokens,
            images=outcome.images,
            status=outcome.status,
            code=outcome.code,
            queue_ms=timings.queue_s * 1000,
            engine_ms=timings.engine_s * 1000,
            total_ms=outcome.total_s * 1000,
            client=caller.address,
        )
        await self._ledger.record(row)
