"""The command line: flags become settings, and every end has its exit code and a message without a traceback."""

import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path

import pytest

from command_line import run
from quartzite.cli.options import model_of, settings_of
from quartzite.cli.settings import as_toml
from quartzite.cli.table import table
from quartzite.config import ModelSettings, Settings
from quartzite.config.reading import read_settings
from quartzite.errors import InvalidConfig


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("org/name", {"name": "org/name"}),
        ("org/name@v1.5", {"name": "org/name", "revision": "v1.5"}),
        ("mine=/models/a=b@c", {"name": "mine", "folder": "/models/a=b@c"}),
    ],
)
def test_a_model_is_a_name_with_a_folder_or_a_revision(text: str, parts: dict[str, str]) -> None:
    """The first equals sign begins the folder; without one, an at sign begins the revision."""
    assert model_of(text) == parts


@pytest.mark.parametrize("text", ["", "=folder", "name=", "name@", "@v1"])
def test_an_empty_part_of_a_model_is_refused(text: str) -> None:
    """A model without name, or with a folder or revision of nothing, is wrong usage."""
    with pytest.raises(InvalidConfig, match="must be NAME, NAME=FOLDER or NAME@REVISION"):
        model_of(text)


def test_flags_not_given_leave_the_file_as_it_is(tmp_path: Path) -> None:
    """None stands for a flag that was not given; all others win over the file."""
    file = tmp_path / "quartzite.toml"
    file.write_text("[server]\nport = 1\nhost = '127.0.0.3'\n", encoding="utf-8")
    settings = settings_of(file, [], {"server.port": 0, "server.host": None, "engine.precision": "f32"})
    assert (settings.server.port, settings.server.host, settings.engine.precision) == (0, "127.0.0.3", "f32")


def test_shown_settings_are_a_settings_file(tmp_path: Path) -> None:
    """What is shown can be saved, read again, and is the same."""
    settings = Settings(
        models=(ModelSettings(name='a "b"', folder="/ü"), ModelSettings(name="c", sunset=date(2027, 3, 1)))
    )
    file = tmp_path / "shown.toml"
    file.write_text(as_toml(settings), encoding="utf-8")
    assert read_settings(file, {}) == settings
    assert "\n# TCP port to listen on; 0 takes a free one.\nport = 8000\n" in as_toml(settings)


def test_each_flag_is_an_environment_variable_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables act like flags, several models are separated by spaces, and a flag wins over its variable."""
    monkeypatch.setenv("QUARTZITE_PORT", "1234")
    monkeypatch.setenv("QUARTZITE_MODEL", "a b=/folder")
    monkeypatch.setenv("QUARTZITE_PRECISION", "f32")
    monkeypatch.setenv("QUARTZITE_MAX_VECTOR_BYTES", "5000000")
    ended = run("serve", "--precision", "int8", "--show-settings")
    assert ended.code == 0
    shown = tomllib.loads(ended.out)
    assert shown["server"]["port"] == 1234
    assert [(model["name"], model.get("folder")) for model in shown["models"]] == [("a", None), ("b", "/folder")]
    assert shown["engine"]["precision"] == "int8"
    assert shown["cache"]["max_vector_bytes"] == 5_000_000


def test_the_server_finds_the_database_of_the_other_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """What names the database for accounts and keys names it for serve too; a variable of nothing is told."""
    monkeypatch.setenv("QUARTZITE_STORAGE_URL", "postgresql://me@db/q")
    monkeypatch.setenv("QUARTZITE_PROT", "8123")
    ended = run("serve", "--data-folder", "/data", "--show-settings")
    shown = tomllib.loads(ended.out)
    assert shown["storage"]["data_folder"] == "/data"
    assert "# url is set, and not shown" in ended.out
    assert "QUARTZITE_PROT is set, and no flag has such a variable" in ended.err
    assert "QUARTZITE_STORAGE_URL" not in ended.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serve", "--port", "70000"], "server.port: Expected `int` <= 65535"),
        (["serve", "--port", "many"], "not a valid int"),
        (["serve", "--precision", "fp8"], "'fp8' is not one of"),
        (["serve", "--host", "0.0.0.0"], "--no-auth"),
        (["serve", "--config", "absent.toml"], "cannot read the settings file absent.toml"),
        (["serve", "--model", "a", "--model", "a"], "the name 'a' is given twice"),
        (["embed", "--dimensions", "many", "text"], "not a valid int"),
        (["dance"], "No such command"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], told: str) -> None:
    """Wrong flags and settings are told on stderr, and end with exit code 2."""
    ended = run(*arguments)
    assert ended.code == 2
    assert told in ended.err
    assert "Traceback" not in ended.err + ended.out


def test_failed_work_ends_with_1(tmp_path: Path) -> None:
    """A model that cannot be had is told in one message, and ends with exit code 1."""
    command = [sys.executable, "-m", "quartzite", "models", "pull", f"mine={tmp_path / 'absent'}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"quartzite: {tmp_path / 'absent'}, given as the folder of mine, does not exist; a model is a folder\n"
    )


def test_the_version_is_printed() -> None:
    """`--version` prints the version and nothing else."""
    from quartzite import __version__

    assert run("--version") == (0, f"quartzite {__version__}\n", "")


def test_tables_are_aligned() -> None:
    """Columns are as wide as their widest cell, and no line ends with spaces."""
    assert table(("a", "long title"), [("wide cell", "b"), ("c", "")]) == "a          long title\nwide cell  b\nc"
