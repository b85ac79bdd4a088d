"""Access: settings → the gate that requests pass, with the keys, limits and database behind it."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from quartzite.admission.allowance import MonthlyAllowance
from quartzite.admission.authenticate import Authenticator, Principal
from quartzite.admission.gate import Gate, KeyedGate, OpenGate, RecordingGate
from quartzite.admission.limits import Limits
from quartzite.admission.windows import LocalWindows, Windows
from quartzite.config import Settings
from quartzite.errors import StartFailure
from quartzite.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from quartzite.storage.keys import Keys
    from quartzite.storage.ledger import Ledger


async def build_gate(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Gate:
    """Build the gate that the keys and the database of `settings` call for; `stack` closes what it needs."""
    records = await _records(settings, metrics, stack) if settings.storage.in_use else None
    find, allowance, book = None, None, None
    if records:
        from quartzite.admission.records import KnownKeys, LedgerBook

        keys, ledger = records
        find, allowance, book = KnownKeys(keys), MonthlyAllowance(ledger.month_tokens), LedgerBook(ledger)
    if settings.server.no_auth or not await _has_keys(settings, records and records[0]):
        return RecordingGate(book) if book else OpenGate()
    authenticator = Authenticator(settings.access.api_keys, Principal(settings.access.level), find)
    limits = Limits(settings.levels, _windows(settings, metrics, stack))
    model_levels = {model.name: model.level for model in settings.models if model.level}
    return KeyedGate(authenticator, limits, model_levels, allowance, book)


async def _has_keys(settings: Settings, keys: "Keys | None") -> bool:
    """Say whether anyone could come in with a key; raises StartFailure where nobody could, and anyone would."""
    if settings.access.api_keys or (keys is not None and await asyncio.to_thread(keys.any_valid)):
        return True
    if not settings.server.is_loopback:
        raise StartFailure(
            f"--host {settings.server.host} lets other machines in, and there is no valid key to ask them for; make "
            "one (quartzite keys create), give one (--api-key), or say --no-auth if anyone may come"
        )
    return False


async def _records(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> "tuple[Keys, Ledger]":
    """Open the database, on a thread: its libraries are imported now, and its tables brought up to date."""
    keys, ledger = await asyncio.to_thread(_open_records, settings, stack)
    metrics.watch_ledger(lambda: ledger.lag)
    from quartzite.storage.ledger import keep_pruned

    pruning = asyncio.create_task(keep_pruned(ledger, settings.storage.retention_days))
    stack.callback(pruning.cancel)
    return keys, ledger


def _open_records(settings: Settings, stack: AsyncExitStack) -> "tuple[Keys, Ledger]":
    from quartzite.storage.database import open_database
    from quartzite.storage.keys import Keys
    from quartzite.storage.ledger import Ledger

    database = stack.enter_context(open_database(settings.storage.database_url))
    return Keys(database), stack.enter_context(Ledger(database))


def _windows(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Windows:
    if settings.limits.shared_url is None or not settings.levels:
        return LocalWindows(time.monotonic)
    from quartzite.admission.shared import SharedWindows

    windows = SharedWindows(settings.limits, time.monotonic, metrics.limit_store_failed)
    stack.push_async_callback(windows.close)
    return windows
