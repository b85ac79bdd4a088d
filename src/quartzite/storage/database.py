"""One open database: transactions on SQLite or PostgreSQL behind the same two verbs. Knows no table.

SQLAlchemy is imported when a database is opened, never by a server that has none.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
    SQLAlchemyError,
)

from quartzite.config.extras import missing_extra
from quartzite.errors import DatabaseDown, InvalidConfig, StartFailure

WAIT_FOR_LOCK_S = 30
"""How long one writer of SQLite waits for another, of this process or of another one."""

_CONNECT_S = 10
_POSTGRESQL = ("postgresql", "postgresql+psycopg", "postgres")


DOWN = (OperationalError, InterfaceError, InternalError)
"""What a database raises that is down, full or locked: no statement is to blame."""


def words_of(failure: DatabaseDown) -> str:
    """Return what the database said before it was found to be down."""
    return str(failure.__cause__)


class Database:
    """An open database, safe to use from several threads; made by `open_database`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writing = engine.execution_options(begin="BEGIN IMMEDIATE")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection that sees one state of the database; nothing it writes is kept. Raises DatabaseDown."""
        with _answering(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Give a connection whose changes are all kept at the end, or none of them when the block raises.

        Raises DatabaseDown.
        """
        with _answering(), self._writing.begin() as connection:
            yield connection

    def writer(self) -> Connection:
        """Return a connection for many small transactions of one thread, to be closed by it.

        What it commits survives this process. On SQLite it does not wait for the disk, which takes most of the time of
        a commit: a power cut may take what the system had not written yet, some seconds, and leaves no damage.
        """
        connection = self._writing.connect()
        if self.engine.dialect.name == "sqlite":
            _run_of(connection.connection.driver_connection)("PRAGMA synchronous = NORMAL")
            connection.detach()  # nobody else gets a connection that commits so
        return connection

    def close(self) -> None:
        """Give back all connections."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_database(url: str) -> Database:
    """Open the database at `url` and bring its tables up to date, safely with others that do the same at once.

    `url` is `sqlite:///FILE` or `postgresql://USER@HOST/NAME`. Raises InvalidConfig for a url that is neither,
    MissingExtra without PostgreSQL's driver, and StartFailure for a database that cannot be opened; no message holds
    a password.
    """
    from quartzite.storage.migrating import bring_up_to_date

    parsed = _parsed(url)
    make = _sqlite if parsed.get_backend_name() == "sqlite" else _postgresql
    with _opening(parsed):
        database = Database(make(parsed))
        try:
            bring_up_to_date(database)
        except BaseException:
            database.close()
            raise
    return database


@contextmanager
def _answering() -> Iterator[None]:
    """Tell a database that is down, full, locked or damaged from a statement that is at fault."""
    try:
        yield
    except DBAPIError as error:
        if isinstance(error, DOWN) or type(error) is DatabaseError:
            raise DatabaseDown from error.orig
        raise


@contextmanager
def _opening(url: URL) -> Iterator[None]:
    where = url.render_as_string(hide_password=True)
    try:
        yield
    except DatabaseDown as failure:
        raise StartFailure(f"the database {where} cannot be opened: {words_of(failure)}") from failure
    except DBAPIError as error:
        raise StartFailure(f"the database {where} cannot be opened: {error.orig}") from error
    except (SQLAlchemyError, OSError) as error:
        raise StartFailure(f"the database {where} cannot be opened: {error}") from error


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is not None and parsed.drivername in _POSTGRESQL and parsed.database:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed is not None and parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    raise InvalidConfig("storage.url must be sqlite:///FILE or postgresql://USER@HOST/NAME")


def _postgresql(url: URL) -> Engine:
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise missing_extra("a database of PostgreSQL", "postgres") from error
    # Connections that died while idle are noticed before they are used: the server may have restarted.
    return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": _CONNECT_S}, hide_parameters=True)


def _sqlite(url: URL) -> Engine:
    _make_private(Path(url.database or "").expanduser())
    engine = create_engine(
        url.set(database=str(Path(url.database or "").expanduser())),
        connect_args={"timeout": WAIT_FOR_LOCK_S, "isolation_level": None},
        hide_parameters=True,
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_private(file: Path) -> None:
    """Make the folder and the file for this user alone: hashes of keys and names of customers will be in it."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.touch(mode=0o600)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Make a commit mean that the rows are on the disk, and foreign keys mean something at all."""
    run = _run_of(connection)
    run("PRAGMA synchronous = FULL")
    run("PRAGMA foreign_keys = ON")


def _run_of(connection: Any) -> Callable[[str], object]:
    run: Callable[[str], object] = connection.execute
    return run


def _begin_sqlite(connection: Connection) -> None:
    """Begin where SQLAlchemy says so, which Python's sqlite3 would not; writers take their lock at once.

    Taking it later, after a read, fails without waiting when another writer was faster.
    """
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))
