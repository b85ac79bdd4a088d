"""Access: settings → the gate that requests pass, with the keys, limits and database behind it."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from quartzite.admission.allowance import MonthlyAllowance
from quartzite.admission.authenticate import Authenticator, Principal
from quartzite.admission.gate import Gate, KeyedGate, OpenGate, RecordingGate
from quartzite.admission.late import Found, LateGate
from quartzite.admission.limits import Limits
from quartzite.admission.windows import LocalWindows, Windows
from quartzite.config import Settings
from quartzite.errors import StartFailure
from quartzite.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from quartzite.storage.records import Records


async def build_gate(
    settings: Settings,
    model_levels: Mapping[str, int],
    metrics: Metrics,
    stack: AsyncExitStack,
    clock: Callable[[], float],
) -> tuple[LateGate, "LateDatabase"]:
    """Build the gate that keys and database call for, now and later, and that database; `stack` closes what they need.

    Raises StartFailure where other machines are let in and nobody could have a key.
    """
    # What is opened later is closed where it would be had it been opened now: after the models.
    late = await stack.enter_async_context(AsyncExitStack())
    database = LateDatabase(settings, metrics, late)
    access = _Access(
        settings, model_levels, database, Limits(settings.levels, _windows(settings, metrics, stack)), clock
    )
    await access.refuse_a_start_for_nobody()
    gate = LateGate(access.look, clock)
    await gate.current()
    return gate, database


class _Access:
    """Finds the gate to use for the keys that there are in `database`."""

    def __init__(
        self,
        settings: Settings,
        model_levels: Mapping[str, int],
        database: "LateDatabase",
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._model_levels = model_levels
        self._database = database
        self._limits = limits
        self._clock = clock

    async def refuse_a_start_for_nobody(self) -> None:
        """Raise StartFailure where keys are asked for and there is none, nor a way to make one."""
        server, records = self._settings.server, await self._database.get()
        if server.no_auth or server.is_loopback or self._settings.access.api_keys or self._settings.admin.token:
            return
        if records is None or not await asyncio.to_thread(records.keys.any_valid):
            raise StartFailure(
                f"--host {server.host} lets other machines in, and there is no valid key to ask them for; make "
                "one (quartzite keys create), give one (--api-key), or say --no-auth if anyone may come"
            )

    async def look(self) -> Found:
        """Return the gate for the keys that there are now; it is settled once it can only stay as it is."""
        records = await self._database.get()
        if await self._asks_for_keys(records):
            return Found(self._keyed(records), settled=records is not None)
        if records is None:
            return Found(OpenGate(), settled=False)
        from quartzite.admission.records import LedgerBook

        return Found(RecordingGate(LedgerBook(records.ledger)), settled=self._settings.server.no_auth)

    async def _asks_for_keys(self, records: "Records | None") -> bool:
        server = self._settings.server
        if server.no_auth:
            return False
        if self._settings.access.api_keys or not server.is_loopback:
            return True
        return records is not None and await asyncio.to_thread(records.keys.exist)

    def _keyed(self, records: "Records | None") -> Gate:
        access = self._settings.access
        owner = Principal(access.level)
        if records is None:
            return KeyedGate(Authenticator(access.api_keys, owner, None, self._clock), self._limits, self._model_levels)
        from quartzite.admission.records import KnownKeys, LedgerBook

        return KeyedGate(
            Authenticator(access.api_keys, owner, KnownKeys(records.keys), self._clock),
            self._limits,
            self._model_levels,
            MonthlyAllowance(records.ledger.month_tokens),
            LedgerBook(records.ledger),
        )


class LateDatabase:
    """The database of `settings`, opened as soon as it is asked for and there is one; `stack` closes it.

    Where there is an admin API there is always one.
    """

    def __init__(self, settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> None:
        self._storage = settings.storage
        self._needed = settings.admin.token is not None
        self._metrics = metrics
        self._stack = stack
        self._opening = asyncio.Lock()
        self._records: Records | None = None

    async def get(self) -> "Records | None":
        """Return what is in the database, None while there is none; raises a StartFailure for one that is unusable."""
        async with self._opening:
            if self._records is None and (self._needed or await asyncio.to_thread(lambda: self._storage.in_use)):
                self._records = await self._open()
            return self._records

    async def _open(self) -> "Records":
        """Open it on a thread: its libraries are imported now, and its tables brought up to date."""
        records = await asyncio.to_thread(_open_records, self._storage.database_url, self._stack)
        self._metrics.watch_ledger(lambda: records.ledger.lag)
        from quartzite.storage.ledger import keep_pruned

        pruning = asyncio.create_task(keep_pruned(records.ledger, self._storage.retention_days))
        self._stack.callback(pruning.cancel)
        return records


def _open_records(url: str, stack: AsyncExitStack) -> "Records":
    from quartzite.storage.database import open_database
    from quartzite.storage.records import records_in

    records = records_in(stack.enter_context(open_database(url)))
    stack.enter_context(records.ledger)
    return records


def _windows(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Windows:
    if settings.limits.shared_url is None or not settings.levels:
        return LocalWindows(time.monotonic)
    from quartzite.admission.shared import SharedWindows

    windows = SharedWindows(settings.limits, time.monotonic, metrics.limit_store_failed)
    stack.push_async_callback(windows.close)
    return windows
