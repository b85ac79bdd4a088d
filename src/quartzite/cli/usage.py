"""`quartzite usage` and `quartzite trace`: what the ledger says."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quartzite.cli.database import opened
from quartzite.cli.options import ConfigFile, DataFolder, StorageUrl
from quartzite.cli.table import table

if TYPE_CHECKING:
    from quartzite.storage.ledger import LedgerRow


def usage(
    by: Annotated[
        Literal["account", "key", "model", "user", "day"],
        typer.Option("--by", help="What to sum up by. Default: day.", show_default=False),
    ] = "day",
    since: Annotated[
        datetime | None, typer.Option("--since", formats=["%Y-%m-%d"], help="First day (UTC), such as 2026-11-01.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--until", formats=["%Y-%m-%d"], help="Last day (UTC), counted in.")
    ] = None,
    form: Annotated[
        Literal["table", "csv", "json"],
        typer.Option("--format", help="table, csv or json. Default: table.", show_default=False),
    ] = "table",
    storage_url: StorageUrl = None,
    data_folder: DataFolder = None,
    config: ConfigFile = None,
) -> None:
    """Sum up what was used: requests, those that failed among them, items, tokens and images."""
    from quartzite.storage.usage import as_csv, as_objects, as_table

    with opened(storage_url, data_folder, config) as records:
        rows = records.usage(by, since and since.date(), until and until.date())
    if form == "json":
        typer.echo(json.dumps(as_objects(by, rows), ensure_ascii=False, indent=1))
    elif form == "csv":
        typer.echo(as_csv(by, rows), nl=False)
    else:
        titles, *cells = [[str(_quoted(cell)) for cell in row] for row in as_table(by, rows)]
        typer.echo(table(titles, cells))


def trace(
    trace_id: Annotated[str, typer.Argument(metavar="TRACE_ID", help="The x-siliconcloud-trace-id of an answer.")],
    storage_url: StorageUrl = None,
    data_folder: DataFolder = None,
    config: ConfigFile = None,
) -> None:
    """Show what is known of one request; exit with 1 if there is no record of it."""
    with opened(storage_url, data_folder, config) as records:
        row, account = records.trace(trace_id)
    typer.echo("\n".join(f"{name:<11} {value}" for name, value in _lines(row, account)))


def _lines(row: "LedgerRow", account: str | None) -> Iterator[tuple[str, object]]:
    facts = asdict(row) | {"at": row.at.isoformat(timespec="milliseconds")}
    if account is not None:
        facts["account_id"] = f"{row.account_id} ({account})"
    for name, value in facts.items():
        shown = round(value, 2) if isinstance(value, float) else value
        yield name, "-" if shown is None else _quoted(shown)


def _quoted(value: object) -> object:
    """Return `value` such that what a client made up cannot steer the terminal."""
    return value if not isinstance(value, str) or value.isprintable() else repr(value)
