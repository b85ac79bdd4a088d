"""`quartzite keys`: the secrets by which accounts come in. A secret is printed once, when it is made."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from quartzite.cli.accounts import AccountName
from quartzite.cli.database import opened
from quartzite.cli.options import ConfigFile, DataFolder, StorageUrl
from quartzite.cli.table import table

if TYPE_CHECKING:
    from quartzite.storage.records import NamedKey

KeyId = Annotated[int, typer.Argument(metavar="ID", help="The key's id; quartzite keys list shows it.")]


def create(
    account: AccountName,
    name: Annotated[
        str, typer.Option("--name", help="What the key is for. Default: default.", show_default=False)
    ] = "default",
    expires_days: Annotated[
        int | None, typer.Option("--expires-days", help="Days until it expires; without it, it never does.")
    ] = None,
    storage_url: StorageUrl = None,
    data_folder: DataFolder = None,
    config: ConfigFile = None,
) -> None:
    """Make a key of an account and print its secret: the only time that it can be seen."""
    with opened(storage_url, data_folder, config) as records:
        created = records.create_key(account, name, expires_days)
    _hand_over(*created)


def list_keys(
    account: Annotated[str | None, typer.Option("--account", help="Only the keys of this account.")] = None,
    storage_url: StorageUrl = None,
    data_folder: DataFolder = None,
    config: ConfigFile = None,
) -> None:
    """List keys by how they begin, with their state and last use."""
    with opened(storage_url, data_folder, config) as records:
        typer.echo(key_table(records.all_keys(account)))


def revoke(
    key_id: KeyId, storage_url: StorageUrl = None, data_folder: DataFolder = None, config: ConfigFile = None
) -> None:
    """Make a key useless."""
    with opened(storage_url, data_folder, config) as records:
        key = records.revoke_key(key_id).key
    typer.echo(f"The key {key.id} ({key.shown}...) is revoked.")


def rotate(
    key_id: KeyId,
    grace_hours: Annotated[
        float,
        typer.Option("--grace-hours", help="How long the old key goes on working. Default: 0.", show_default=False),
    ] = 0,
    storage_url: StorageUrl = None,
    data_folder: DataFolder = None,
    config: ConfigFile = None,
) -> None:
    """Replace a key by a new one of the same account, name and lifetime, and print the new secret."""
    with opened(storage_url, data_folder, config) as records:
        replaced = records.rotate_key(key_id, grace_hours)
    _hand_over(*replaced)


def _hand_over(named: "NamedKey", secret: str) -> None:
    """Print the secret alone on the output, so that a script can take it, and what is to be said about it beside."""
    key = named.key
    typer.echo(f"Key {key.id} ({key.name}) of {named.account}. Keep the secret now, it is not shown again:", err=True)
    typer.echo(secret)


def key_table(keys: "Sequence[NamedKey]") -> str:
    """Return the lines that show `keys`."""
    now = datetime.now(UTC)
    rows = [
        (
            str(key.id),
            account,
            key.name,
            f"{key.shown}...",
            key.state(now),
            _day(key.created),
            _day(key.expires),
            _day(key.last_used),
        )
        for account, key in keys
    ]
    return table(("id", "account", "name", "begins", "state", "created", "expires", "last used"), rows)


def _day(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%d %H:%M}"
