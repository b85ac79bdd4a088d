"""The database that the settings name, opened for one command."""

from pathlib import Path
from typing import TYPE_CHECKING

from quartzite.cli.options import settings_of

if TYPE_CHECKING:
    from quartzite.storage.accounts import Accounts
    from quartzite.storage.database import Database


def opened(url: str | None, data_folder: str | None, config: Path | None) -> "Database":
    """Open the database of the settings under these flags, to be closed by the caller's `with`."""
    settings = settings_of(config, [], {"storage.url": url, "storage.data_folder": data_folder})
    from quartzite.storage.database import open_database

    return open_database(settings.storage.database_url)


def accounts_of(database: "Database") -> "Accounts":
    """Return the accounts in `database`."""
    from quartzite.storage.accounts import Accounts

    return Accounts(database)
