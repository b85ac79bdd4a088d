"""`quartzite usage` and `quartzite trace`: what the ledger says."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quartzite.cli.database import accounts_of, opened
from quartzite.cli.options import ConfigFile, DataFolder, StorageUrl
from quartzite.cli.table import table

if TYPE_CHECKING:
    from quartzite.storage.ledger import LedgerRow

_SUMS = ("requests", "failed", "items", "tokens", "images")


def usage(
    by: Annotated[
        Literal["account", "key", "model", "user", "day"], typer.Option("--by", help="What to sum up by. Default: day.")
    ] = "day",
    since: Annotated[
        datetime | None, typer.Option("--since", formats=["%Y-%m-%d"], help="First day (UTC), such as 2026-11-01.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--until", formats=["%Y-%m-%d"], help="Last day (UTC), counted in.")
    ] = None,
    form: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="table, csv or json. Default: table.")
    ] = "table",
    storage_url: StorageUrl = None,
    data_folder: DataFolder = None,
    config: ConfigFile = None,
) -> None:
    """Sum up what was used: requests, those that failed among them, items, tokens and images."""
    from quartzite.storage.ledger import Ledger
    from quartzite.storage.usage import headings

    after = None if until is None else _utc(until) + timedelta(days=1)
    with opened(storage_url, data_folder, config) as database:
        rows = Ledger(database).usage(by, None if since is None else _utc(since), after)
    header = (*headings(by), *_SUMS)
    typer.echo(_written(form, header, [(*row.group, *(getattr(row, name) for name in _SUMS)) for row in rows]))


def trace(
    trace_id: Annotated[str, typer.Argument(metavar="TRACE_ID", help="The x-siliconcloud-trace-id of an answer.")],
    storage_url: StorageUrl = None,
    data_folder: DataFolder = None,
    config: ConfigFile = None,
) -> None:
    """Show what is known of one request; exit with 1 if there is no record of it."""
    from quartzite.storage.ledger import Ledger

    with opened(storage_url, data_folder, config) as database:
        row = Ledger(database).trace(trace_id)
        names = {account.id: account.name for account in accounts_of(database).list()}
    if row is None:
        typer.echo(f"quartzite: there is no record of {trace_id!r}", err=True)
        raise typer.Exit(1)
    typer.echo("\n".join(f"{name:<11} {value}" for name, value in _lines(row, names)))


def _lines(row: "LedgerRow", accounts: dict[int, str]) -> list[tuple[str, object]]:
    from dataclasses import asdict

    facts = asdict(row) | {"at": row.at.isoformat(timespec="milliseconds")}
    if row.account_id in accounts:
        facts["account_id"] = f"{row.account_id} ({accounts[row.account_id]})"
    return [(name, "-" if value is None else _quoted(value)) for name, value in facts.items()]


def _quoted(value: object) -> object:
    """Return `value` such that what a client made up cannot steer the terminal."""
    return value if not isinstance(value, str) or value.isprintable() else repr(value)


def _utc(day: datetime) -> datetime:
    return day.replace(tzinfo=UTC)


def _written(form: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if form == "json":
        import json

        return json.dumps([dict(zip(header, row, strict=True)) for row in rows], ensure_ascii=False, indent=1)
    if form == "csv":
        import csv
        import io

        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([header, *rows])
        return lines.getvalue().rstrip("\n")
    return table(header, [[str(_quoted(cell)) for cell in row] for row in rows])
