"""Databases: opened by many at once, migrated once, refused in words that hold no password."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.schema import CreateTable

from quartzite.errors import InvalidConfig, StartFailure
from quartzite.storage.accounts import Accounts
from quartzite.storage.database import Database, open_database
from quartzite.storage.schema import HEAD, metadata

OPEN = "import sys; from quartzite.storage.database import open_database; open_database(sys.argv[1]).close()"


def test_processes_that_start_at_once_migrate_once(database_url: str) -> None:
    """Four processes that open a new database at the same time all succeed, and its tables are there."""
    command = [sys.executable, "-W", "error", "-c", OPEN, database_url]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    errors = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0] * 4, errors
    with open_database(database_url) as database:
        assert not Accounts(database).list()


def test_the_migrations_make_the_tables_that_the_code_expects(database: Database) -> None:
    """Alembic finds no difference between the migrated database and the tables of the code."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == HEAD
    assert all(str(CreateTable(table)) for table in metadata.sorted_tables)


def test_the_newest_migration_is_the_one_that_is_expected() -> None:
    """HEAD names the last of the shipped migrations."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "quartzite.storage:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_an_open_of_a_current_database_needs_no_alembic(tmp_path: Path) -> None:
    """Opening again is light: neither Alembic nor the lock is imported."""
    url = f"sqlite:///{tmp_path}/quartzite.db"
    open_database(url).close()
    code = f"{OPEN}; print(sorted(set(sys.modules) & {{'alembic', 'filelock'}}))"
    ended = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_a_database_of_a_newer_version_is_refused(database: Database, database_url: str) -> None:
    """Tables that a later version has made are left alone, and the message says what to install."""
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StartFailure, match="newer version of quartzite"):
        open_database(database_url)


def test_a_block_that_raises_leaves_nothing(database: Database) -> None:
    """What is written in a transaction that fails is not kept."""

    def fail_half_way() -> None:
        with database.write() as connection:
            connection.execute(text("INSERT INTO accounts (name, level, disabled) VALUES ('half', 0, false)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert not Accounts(database).list()


def test_the_file_is_for_its_user_alone_and_survives_a_power_cut(tmp_path: Path) -> None:
    """SQLite's file can be read by nobody else, is in WAL mode, and a commit waits for the disk."""
    file = tmp_path / "data" / "quartzite.db"
    with open_database(f"sqlite:///{file}") as database, database.read() as connection:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://u@h/d", "sqlite://", "sqlite:///:memory:", "postgresql://h"])
def test_a_url_of_another_kind_is_a_wrong_setting(url: str) -> None:
    """Only SQLite files and PostgreSQL databases are taken."""
    with pytest.raises(InvalidConfig, match=r"storage\.url must be"):
        open_database(url)


def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    """The failure shows where the database should be, and hides the password of the URL."""
    with pytest.raises(StartFailure, match="cannot be opened") as failed:
        open_database(f"postgresql://me:hunter2@/quartz?host={tmp_path}")
    assert "hunter2" not in str(failed.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """A file of something else is not touched and named."""
    file = tmp_path / "quartzite.db"
    file.write_bytes(b"this is no database, whatever its name may say\n" * 30)
    with pytest.raises(StartFailure, match=r"quartzite\.db cannot be opened"):
        open_database(f"sqlite:///{file}")
