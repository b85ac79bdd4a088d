"""`quartzite accounts`: who may use the service, at which level and with what allowance."""

from typing import TYPE_CHECKING, Annotated

import typer

from quartzite.cli.database import opened
from quartzite.cli.options import ConfigFile, DataFolder, StorageUrl
from quartzite.cli.table import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quartzite.storage.accounts import Account, Changes

AccountName = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's name.")]
Level = Annotated[
    int | None, typer.Option("--level", help="0 to 5: chooses the limits. Default: 0.", show_default=False)
]
MonthlyTokens = Annotated[
    str | None,
    typer.Option("--monthly-tokens", metavar="COUNT", help="Tokens per month (UTC), or none for any number."),
]


def create(
    name: AccountName,
    level: Level = 0,
    monthly_tokens: MonthlyTokens = None,
    storage_url: StorageUrl = None,
    data_folder: DataFolder = None,
    config: ConfigFile = None,
) -> None:
    """Make an account; the database, too, if there is none."""
    with opened(storage_url, data_folder, config, make=True) as records:
        _show([records.accounts.create(name, level or 0, _allowance(monthly_tokens))])


def list_accounts(storage_url: StorageUrl = None, data_folder: DataFolder = None, config: ConfigFile = None) -> None:
    """List all accounts."""
    with opened(storage_url, data_folder, config) as records:
        _show(records.accounts.list())


def show(
    name: AccountName, storage_url: StorageUrl = None, data_folder: DataFolder = None, config: ConfigFile = None
) -> None:
    """Show one account with its keys and what it used in this month."""
    from quartzite.cli.keys import key_table

    with opened(storage_url, data_folder, config) as records:
        statement = records.statement(name)
    _show([statement.account])
    typer.echo(f"\nTokens in this month: {statement.month_tokens}\n")
    typer.echo(key_table(statement.keys))


def set_account(
    name: AccountName,
    level: Level = None,
    monthly_tokens: MonthlyTokens = None,
    storage_url: StorageUrl = None,
    data_folder: DataFolder = None,
    config: ConfigFile = None,
) -> None:
    """Change the level or the allowance of an account; what is not given stays as it is."""
    changes: Changes = {} if level is None else {"level": level}
    if monthly_tokens is not None:
        changes["monthly_tokens"] = _allowance(monthly_tokens)
    with opened(storage_url, data_folder, config) as records:
        _show([records.accounts.change(name, **changes)])


def disable(
    name: AccountName, storage_url: StorageUrl = None, data_folder: DataFolder = None, config: ConfigFile = None
) -> None:
    """Shut an account out: requests with any of its keys are answered 403."""
    with opened(storage_url, data_folder, config) as records:
        _show([records.accounts.change(name, disabled=True)])


def enable(
    name: AccountName, storage_url: StorageUrl = None, data_folder: DataFolder = None, config: ConfigFile = None
) -> None:
    """Let a disabled account in again."""
    with opened(storage_url, data_folder, config) as records:
        _show([records.accounts.change(name, disabled=False)])


def _allowance(text: str | None) -> int | None:
    if text is None or text == "none":
        return None
    if not text.isdecimal():
        raise typer.BadParameter(f"{text!r} is neither a number nor none", param_hint="--monthly-tokens")
    return int(text)


def _show(accounts: "Sequence[Account]") -> None:
    rows = [
        (
            account.name,
            f"L{account.level}",
            "any" if account.monthly_tokens is None else str(account.monthly_tokens),
            "disabled" if account.disabled else "enabled",
        )
        for account in accounts
    ]
    typer.echo(table(("account", "level", "tokens per month", "state"), rows))
