"""Sums over the ledger, for people and for bills."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import BigInteger, ColumnElement, Connection, case, func, literal_column, select, type_coerce
from sqlalchemy.sql.expression import FromClause

from quartzite.storage.schema import accounts, keys, requests

Grouping = Literal["account", "key", "model", "user", "day"]

_DAY_MS: ColumnElement[int] = literal_column("86400000")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = type_coerce(requests.c.at, BigInteger) // _DAY_MS

_COLUMNS: dict[Grouping, dict[str, ColumnElement[Any]]] = {
    "account": {"account": accounts.c.name},
    "key": {"account": accounts.c.name, "key": keys.c.name, "begins": keys.c.shown},
    "model": {"model": requests.c.model},
    "user": {"account": accounts.c.name, "user": requests.c.user},
    "day": {"day": _DAY},
}
_COUNTS = ("requests", "failed", "items", "tokens", "images")
_SUMMED = [requests.c[name] for name in ("items", "tokens", "images")]


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What one group used; `group` has a value for each of `headings(by)`, empty where a request had none.

    `failed` are the requests of `requests` that were answered with a status of 400 or more.
    """

    group: tuple[str, ...]
    requests: int
    failed: int
    items: int
    tokens: int
    images: int


def headings(by: Grouping) -> Sequence[str]:
    """Return what the values of `UsageRow.group` are."""
    return tuple(_COLUMNS[by])


def as_table(by: Grouping, rows: Iterable[UsageRow]) -> Iterator[Sequence[str | int]]:
    """Yield the titles of the columns, then each of `rows` as their values."""
    yield (*headings(by), *_COUNTS)
    for row in rows:
        yield (*row.group, *(getattr(row, count) for count in _COUNTS))


def as_objects(by: Grouping, rows: Iterable[UsageRow]) -> Sequence[dict[str, str | int]]:
    """Return each of `rows` as its values by the titles of the columns."""
    titles, *values = as_table(by, rows)
    return [dict(zip(map(str, titles), row, strict=True)) for row in values]


def as_csv(by: Grouping, rows: Iterable[UsageRow]) -> str:
    """Return `rows` as comma-separated values under their titles."""
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(as_table(by, rows))
    return lines.getvalue()


def usage(connection: Connection, by: Grouping, since: datetime | None, until: datetime | None) -> Sequence[UsageRow]:
    """Sum up the ledger from `since` on and before `until`; rows are in the order of their groups."""
    columns = list(_COLUMNS[by].values())
    sums = [func.sum(column) for column in _SUMMED]
    failed = func.sum(case((requests.c.status >= 400, 1), else_=0))
    query = select(*columns, func.count(), failed, *sums).select_from(_joined(by)).group_by(*columns)
    if since is not None:
        query = query.where(requests.c.at >= since)
    if until is not None:
        query = query.where(requests.c.at < until)
    width = len(columns)
    found = [UsageRow(_shown(by, row[:width]), *map(int, row[width:])) for row in connection.execute(query)]
    return sorted(found, key=lambda row: row.group)


def _joined(by: Grouping) -> FromClause:
    """Return the ledger with the names that `by` needs; rows of nobody stay in."""
    joined: FromClause = requests
    if by in ("account", "key", "user"):
        joined = joined.outerjoin(accounts, accounts.c.id == requests.c.account_id)
    if by == "key":
        joined = joined.outerjoin(keys, keys.c.id == requests.c.key_id)
    return joined


def _shown(by: Grouping, values: Sequence[Any]) -> tuple[str, ...]:
    if by == "day":
        return ((_EPOCH + timedelta(days=int(values[0]))).date().isoformat(),)
    return tuple("" if value is None else str(value) for value in values)
