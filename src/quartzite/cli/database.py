"""The database that the settings name, opened for one command."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from quartzite.cli.options import settings_of
from quartzite.errors import StartFailure

if TYPE_CHECKING:
    from quartzite.storage.records import Records


@contextmanager
def opened(url: str | None, data_folder: str | None, config: Path | None, make: bool = False) -> "Iterator[Records]":
    """Open the database of the settings under these flags and give what is in it; `make` it if there is none.

    Raises StartFailure when there is none and none is to be made.
    """
    settings = settings_of(config, [], {"storage.url": url, "storage.data_folder": data_folder})
    if not (make or settings.storage.in_use):
        file = settings.storage.file
        raise StartFailure(f"there is no database {file}; quartzite accounts create makes it with the first account")
    from quartzite.storage.database import open_database
    from quartzite.storage.records import records_in

    with open_database(settings.storage.database_url) as database:
        yield records_in(database)
