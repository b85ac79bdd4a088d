"""Brings the tables of a database up to date, once, however many processes start at the same time.

Knows the lock and Alembic; the steps themselves stand in `migrations/versions`.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from quartzite.errors import StartFailure
from quartzite.storage.database import WAIT_FOR_LOCK_S, Database
from quartzite.storage.schema import HEAD

_ADVISORY_LOCK = 0x71756172747A  # "quartz": any number that others do not take


def bring_up_to_date(database: Database) -> None:
    """Run the migrations that `database` lacks, all or none. Raises StartFailure when a newer version wrote it."""
    if _is_current(database):
        return
    with _alone(database) as connection:
        _refuse_newer(connection)
        _upgrade(connection)


def _is_current(database: Database) -> bool:
    with database.read() as connection:
        return _revision(connection) == HEAD


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


@contextmanager
def _alone(database: Database) -> Iterator[Connection]:
    """Give a transaction beside which no other process migrates; a process that dies leaves nothing locked."""
    if database.engine.dialect.name == "postgresql":
        with database.write() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _ADVISORY_LOCK})
            yield connection
        return
    from filelock import FileLock

    with FileLock(f"{Path(database.engine.url.database or '')}.lock", timeout=WAIT_FOR_LOCK_S, mode=0o600):
        _switch_to_wal(database)
        with database.write() as connection:
            yield connection


def _switch_to_wal(database: Database) -> None:
    """Let readers go on while one writes; the file remembers it. Not possible inside of a transaction."""
    with closing(database.engine.raw_connection()) as connection:
        connection.cursor().execute("PRAGMA journal_mode = WAL")


def _refuse_newer(connection: Connection) -> None:
    revision = _revision(connection)
    if revision is not None and revision > HEAD:
        raise StartFailure(
            f"the database has the tables of a newer version of quartzite ({revision}, here {HEAD}); "
            "install that version"
        )


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "quartzite.storage:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
