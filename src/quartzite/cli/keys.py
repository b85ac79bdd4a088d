"""`quartzite keys`: the secrets by which accounts come in. A secret is printed once, when it is made."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from quartzite.cli.accounts import AccountName
from quartzite.cli.database import accounts_of, opened
from quartzite.cli.options import ConfigFile, DataFolder, StorageUrl
from quartzite.cli.table import table

if TYPE_CHECKING:
    from quartzite.storage.keys import Key

KeyId = Annotated[int, typer.Argument(metavar="ID", help="The key's id; quartzite keys list shows it.")]


def create(
    account: AccountName,
    name: Annotated[str, typer.Option("--name", help="What the key is for. Default: default.")] = "default",
    expires_days: Annotated[
        int | None, typer.Option("--expires-days", min=1, help="Days until it expires; without it, it never does.")
    ] = None,
    storage_url: StorageUrl = None,
    data_folder: DataFolder = None,
    config: ConfigFile = None,
) -> None:
    """Make a key of an account and print its secret: the only time that it can be seen."""
    from quartzite.storage.keys import Keys

    expires = None if expires_days is None else datetime.now(UTC) + timedelta(days=expires_days)
    with opened(storage_url, data_folder, config) as database:
        key, secret = Keys(database).create(accounts_of(database).get(account).id, name, expires)
    _hand_over(key, secret, account)


def list_keys(
    account: Annotated[str | None, typer.Option("--account", help="Only the keys of this account.")] = None,
    storage_url: StorageUrl = None,
    data_folder: DataFolder = None,
    config: ConfigFile = None,
) -> None:
    """List keys by how they begin, with their state and last use."""
    from quartzite.storage.keys import Keys

    with opened(storage_url, data_folder, config) as database:
        accounts = accounts_of(database)
        only = None if account is None else accounts.get(account).id
        names = {found.id: found.name for found in accounts.list()}
        typer.echo(key_table(Keys(database).list(only), names))


def revoke(
    key_id: KeyId, storage_url: StorageUrl = None, data_folder: DataFolder = None, config: ConfigFile = None
) -> None:
    """Make a key useless."""
    from quartzite.storage.keys import Keys

    with opened(storage_url, data_folder, config) as database:
        key = Keys(database).revoke(key_id)
    typer.echo(f"The key {key.id} ({key.shown}...) is revoked.")


def rotate(
    key_id: KeyId,
    grace_hours: Annotated[
        float, typer.Option("--grace-hours", min=0, help="How long the old key goes on working. Default: 0.")
    ] = 0,
    storage_url: StorageUrl = None,
    data_folder: DataFolder = None,
    config: ConfigFile = None,
) -> None:
    """Replace a key by a new one of the same account, name and lifetime, and print the new secret."""
    from quartzite.storage.keys import Keys

    with opened(storage_url, data_folder, config) as database:
        key, secret = Keys(database).rotate(key_id, timedelta(hours=grace_hours))
        names = {found.id: found.name for found in accounts_of(database).list()}
    _hand_over(key, secret, names[key.account_id])


def _hand_over(key: "Key", secret: str, account: str) -> None:
    """Print the secret alone on the output, so that a script can take it, and what is to be said about it beside."""
    typer.echo(f"Key {key.id} ({key.name}) of {account}. Keep the secret now, it is not shown again:", err=True)
    typer.echo(secret)


def key_table(keys: "Sequence[Key]", accounts: Mapping[int, str]) -> str:
    """Return the lines that show `keys`; `accounts` gives the names of accounts by id."""
    now = datetime.now(UTC)
    rows = [
        (
            str(key.id),
            accounts[key.account_id],
            key.name,
            f"{key.shown}...",
            _state(key, now),
            _day(key.created),
            _day(key.expires),
            _day(key.last_used),
        )
        for key in keys
    ]
    return table(("id", "account", "name", "begins", "state", "created", "expires", "last used"), rows)


def _state(key: "Key", now: datetime) -> str:
    if key.revoked is not None:
        return "revoked"
    return "valid" if key.is_valid(now) else "expired"


def _day(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%d %H:%M}"
