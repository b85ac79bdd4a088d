"""One row for each request, without content, on the disk before the answer leaves. Knows nothing of the web."""

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from operator import attrgetter, itemgetter
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from quartzite.errors import DatabaseDown, NotRecorded
from quartzite.storage.database import DOWN, Database, words_of
from quartzite.storage.group_commit import GroupCommit
from quartzite.storage.keys import utc_now
from quartzite.storage.schema import requests, unix_ms
from quartzite.storage.usage import Grouping, UsageRow, usage

RECORD_S = 10.0
"""How long an answer waits for its row, in seconds: a database that hangs must not hold it for ever."""

LONGEST_TEXT = 200
"""Of what a client chose itself, `model` and `user`, so many characters are kept: a body may be all one such text."""

_log = logging.getLogger(__name__)
_PRUNED_AT_ONCE = 5000
_TRACE_ID = re.compile(r"\w{1,100}", re.ASCII)


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What is kept of one request; `at` is its arrival in UTC, `tokens` what it was charged, `client` an address.

    `status` and `code` are those of the answer; what was not known when it ended is None, or 0 where it is a count.
    """

    trace_id: str
    at: datetime
    account_id: int | None
    key_id: int | None
    model: str | None
    user: str | None
    items: int
    tokens: int
    images: int
    status: int
    code: int | None
    queue_ms: float
    engine_ms: float
    total_ms: float
    client: str | None


_COLUMNS = [field.name for field in fields(LedgerRow)]
_READ = attrgetter(*_COLUMNS)


class Ledger:
    """The record of requests in `database`. Rows are written inside of `with ledger:`; reading needs no `with`.

    All methods but `record` block.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = _Insertion(database)
        self._connection: Connection | None = None
        self._group = GroupCommit(self._commit, everyones=DOWN)

    def __enter__(self) -> Self:
        self._connection = self._database.writer()
        self._group.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit the rows that wait, and stop writing."""
        self._group.close()
        if self._connection is not None:
            self._connection.close()

    @property
    def lag(self) -> float:
        """For how long the oldest row that is not committed has been waiting, in seconds."""
        return self._group.lag_s

    async def record(self, row: LedgerRow) -> None:
        """Return when `row` is committed and survives the end of this process; raises NotRecorded when it is not.

        Rows that wait at the same time share one transaction. A row is kept also when its waiter is cancelled, or when
        it is not committed within RECORD_S.
        """
        try:
            await self._group.add(row, RECORD_S)
        except TimeoutError:
            raise NotRecorded from TimeoutError(f"not committed within {RECORD_S:g} s")
        except DBAPIError as error:
            raise NotRecorded from error.orig
        except Exception as error:
            raise NotRecorded from error

    def usage(self, by: Grouping, since: datetime | None = None, until: datetime | None = None) -> Sequence[UsageRow]:
        """Return what was used from `since` on and before `until`, summed up by account, key, model, user or day."""
        with self._database.read() as connection:
            return usage(connection, by, since, until)

    def trace(self, trace_id: str) -> LedgerRow | None:
        """Return the row of one request, None if there is none."""
        if not _TRACE_ID.fullmatch(trace_id):
            return None  # nor can a database be asked for every text
        query = select(*(requests.c[column] for column in _COLUMNS)).where(requests.c.trace_id == trace_id)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else LedgerRow(*row)

    def month_tokens(self, account_id: int, month: date) -> int:
        """Return the tokens charged to an account in the month, by UTC, in which the day `month` lies."""
        first = datetime(month.year, month.month, 1, tzinfo=UTC)
        after = (first + timedelta(days=31)).replace(day=1)
        query = select(func.sum(requests.c.tokens)).where(
            requests.c.account_id == account_id, requests.c.at >= first, requests.c.at < after
        )
        with self._database.read() as connection:
            return int(connection.execute(query).scalar() or 0)

    def prune(self, before: datetime) -> int:
        """Delete the rows from before that time and return how many; in pieces, so that writers wait for none long."""
        old = select(requests.c.trace_id).where(requests.c.at < before).limit(_PRUNED_AT_ONCE)
        pruned = 0
        while True:
            with self._database.write() as connection:
                count = connection.execute(delete(requests).where(requests.c.trace_id.in_(old))).rowcount
            pruned += count
            if count < _PRUNED_AT_ONCE:
                return pruned

    def _commit(self, rows: Sequence[LedgerRow]) -> None:
        assert self._connection is not None, "a row outside of `with ledger:`"  # noqa: S101  told by GroupCommit before
        parameters = self._insert.parameters(rows)
        try:
            self._transact(self._connection, parameters)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            # The server has closed the connection, perhaps after the commit: rows that are there are not doubled.
            self._transact(self._connection, parameters)

    def _transact(self, connection: Connection, parameters: list[Any]) -> None:
        with connection.begin():
            connection.exec_driver_sql(self._insert.sql, parameters)


class _Insertion:
    """The statement that adds rows but those that are there, as the driver takes it.

    It is compiled once and goes past SQLAlchemy's work for each execution, which took half the time of a commit.
    """

    def __init__(self, database: Database) -> None:
        dialect = database.engine.dialect
        insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
        compiled = insert(requests).on_conflict_do_nothing().compile(dialect=dialect, column_keys=_COLUMNS)
        self.sql = str(compiled)
        order = compiled.positiontup  # None where the driver takes names
        self._arrange = None if order is None else itemgetter(*map(_COLUMNS.index, order))

    def parameters(self, rows: Sequence[LedgerRow]) -> list[Any]:
        """Return the values of `rows` as the statement names them, or in its order."""
        values = [_values(row) for row in rows]
        if self._arrange is None:
            return [dict(zip(_COLUMNS, row, strict=True)) for row in values]
        return [self._arrange(row) for row in values]


def _values(row: LedgerRow) -> tuple[Any, ...]:
    """Return the values by column."""
    trace_id, at, account_id, key_id, model, user, *others = _READ(row)
    return trace_id, unix_ms(at), account_id, key_id, _kept(model), _kept(user), *others


def _kept(text: str | None) -> str | None:
    """Return what is kept of a text that a client chose; a digest keeps those apart that begin alike.

    PostgreSQL keeps no text with a zero character.
    """
    if text is None:
        return None
    if len(text) > LONGEST_TEXT:
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        text = f"{text[:LONGEST_TEXT]}...{digest}"
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


async def keep_pruned(
    ledger: Ledger, retention_days: int, pause_s: float = 3600, clock: Callable[[], datetime] = utc_now
) -> None:
    """Prune what is older than `retention_days`, now and after every pause, until cancelled; 0 days prune nothing."""
    while retention_days:
        try:
            pruned = await asyncio.to_thread(ledger.prune, clock() - timedelta(days=retention_days))
        except DatabaseDown as failure:
            _log.warning("old rows of the ledger could not be deleted: %s", words_of(failure))
        else:
            if pruned:
                _log.info("deleted %d rows of the ledger older than %d days", pruned, retention_days)
        await asyncio.sleep(pause_s)
