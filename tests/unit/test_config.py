"""Settings: read from a file under flags, and refused with all their faults at once."""

from pathlib import Path
from typing import Any

import pytest

from quartzite.config import DEFAULT_MODEL, ModelSettings, Settings, explain
from quartzite.config.reading import read_settings
from quartzite.errors import InvalidConfig


def written(folder: Path, content: str) -> Path:
    file = folder / "quartzite.toml"
    file.write_text(content, encoding="utf-8")
    return file


def faults(file: Path | None = None, overrides: dict[str, Any] | None = None) -> list[str]:
    """Return the lines of the message by which the settings are refused, the first one left out."""
    with pytest.raises(InvalidConfig) as caught:
        read_settings(file, overrides or {})
    return [line.removeprefix("  - ") for line in str(caught.value).splitlines()[1:]]


def test_without_a_file_everything_has_its_default() -> None:
    """No file and no flags give the bundled model on this machine."""
    settings = read_settings(None, {})
    assert settings == Settings()
    assert settings.models == (ModelSettings(name=DEFAULT_MODEL),)
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8000)


def test_flags_win_over_the_file_key_by_key(tmp_path: Path) -> None:
    """A flag replaces its own key and leaves the others of its table as the file has them."""
    file = written(tmp_path, "[server]\nport = 1\nlog_format = 'json'\n[engine]\nstreams = 3\n")
    settings = read_settings(file, {"server": {"port": 2}})
    assert (settings.server.port, settings.server.log_format, settings.engine.streams) == (2, "json", 3)


def test_models_given_by_flags_replace_those_of_the_file(tmp_path: Path) -> None:
    """A list is taken whole, never merged."""
    file = written(tmp_path, "[[models]]\nname = 'a'\n[[models]]\nname = 'b'\n")
    assert [model.name for model in read_settings(file, {}).models] == ["a", "b"]
    assert [model.name for model in read_settings(file, {"models": [{"name": "c"}]}).models] == ["c"]


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    """Unknown keys, wrong types, values out of range and missing keys stand in one message, with a likely meaning."""
    file = written(
        tmp_path,
        """
        colour = "red"
        [server]
        prot = 1
        port = 70000
        [engine]
        precision = "fp8"
        [[models]]
        folder = "x"
        """,
    )
    told = faults(file)
    assert [line.partition(":")[0].partition(" ")[0] for line in told] == [
        "colour",
        "server.prot",
        "server.port",
        "engine.precision",
        "models[0].name",
    ]
    assert told[1] == "server.prot is not a setting (did you mean port?)"
    assert told[4] == "models[0].name is required"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"server": 5}, "server must be a table"),
        ({"models": []}, "models must be a list of at least one [[models]] table"),
        ({"models": "a"}, "models must be a list of at least one [[models]] table"),
        ({"models": [{"name": "a"}, {"name": "a"}]}, "models: the name 'a' is given twice"),
        ({"models": [{"name": ""}]}, "models[0].name: Expected `str` of length >= 1"),
        ({"requests": {"timeout_ms": 0}}, "requests.timeout_ms: Expected `int` >= 1"),
        *[
            (
                {"server": {"cors_origins": ["https://example.org:8443", "null://x", "*", origin]}},
                f"server.cors_origins: {origin!r} is no origin; write `*` or scheme, host and port alone, "
                "as https://example.org",
            )
            for origin in ("example.org", "https://example.org/", "https://example.org/page", "HTTPS://x", "")
        ],
        (
            {"models": [{"name": "a", "deprecated": "2027-03-02", "sunset": "2027-03-01"}]},
            "models[0].sunset: 2027-03-01 is before 2027-03-02, the day of `deprecated`",
        ),
        ({"models": [{"name": "a", "sunset": "2027-13-01"}]}, "models[0].sunset: Invalid RFC3339 encoded date"),
        *[
            (
                {"models": [{"name": name}]},
                "models[0].name: it must have printable characters only, and no space at its ends",
            )
            for name in (" a", "a ", "a\nb", "a\0", "a\ud800")
        ],
        ({"models": [{"name": "a", "folder": ""}]}, "models[0].folder: it must not be empty"),
        *[
            (
                {"models": [{"name": "a", "sunset": "2027-03-01", "deprecation_link": link}]},
                "models[0].deprecation_link: it must be an address such as https://example.org/page, "
                "without spaces and <>",
            )
            for link in ("example.org", "https://example.org/a b", "https://x/>; rel=next", "https://x/\r\nx: y")
        ],
        (
            {"models": [{"name": "a", "deprecation_link": "https://example.org"}]},
            "models[0].deprecation_link: it goes with `deprecated` or `sunset`, and there is neither",
        ),
        (
            {"requests": {"max_body_bytes": 100, "max_bodies_bytes": 99}},
            "requests.max_bodies_bytes: 99 bytes leave no room for one body of requests.max_body_bytes (100)",
        ),
    ],
)
def test_a_fault_is_named(overrides: dict[str, Any], told: str) -> None:
    """Each kind of fault names the setting and what is wrong with it."""
    assert faults(None, overrides) == [told]


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    """A file that is not there, or is no TOML, is named with the reason."""
    with pytest.raises(InvalidConfig, match=r"cannot read the settings file .*absent\.toml: No such file"):
        read_settings(tmp_path / "absent.toml", {})
    with pytest.raises(InvalidConfig, match=r"quartzite\.toml is not valid TOML: .*line 1"):
        read_settings(written(tmp_path, "port 8000"), {})
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(InvalidConfig, match="is not valid TOML"):
        read_settings(tmp_path / "latin.toml", {})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_other_machines_are_let_in_only_when_that_is_said(host: str) -> None:
    """Listening on more than this machine needs `no_auth`, for nobody is asked for a key."""
    (told,) = faults(None, {"server": {"host": host}})
    assert "--no-auth" in told
    assert read_settings(None, {"server": {"host": host, "no_auth": True}}).server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_needs_no_leave(host: str) -> None:
    """Loopback addresses are served without further words."""
    assert read_settings(None, {"server": {"host": host}}).server.host == host


def test_every_setting_explains_itself() -> None:
    """Each setting has a path, a type in words, its default, and a sentence."""
    settings = {setting.path: setting for setting in explain()}
    port = settings["server.port"]
    assert (port.type, port.default, port.required) == ("integer, 0 to 65535", 8000, False)
    assert settings["models[].name"].required
    assert settings["models[].folder"].type == "text"
    assert settings["engine.precision"].type == "auto, f32, bf16, int8, int8-dynamic"
    assert settings["server.no_auth"].type == "true or false"
    assert settings["queue.max_tokens"].type == "integer, at least 1"
    assert all(setting.description.endswith(".") for setting in settings.values())


def test_the_cache_folder_may_be_below_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tilde stands for the home of the user who runs the service."""
    monkeypatch.setenv("HOME", "/home/someone")
    assert Settings().cache.path == Path("/home/someone/.cache/quartzite")
