"""Flags that several commands share, and how they become settings: their help and defaults are those of `config`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.models import OptionInfo

from quartzite.config import LogFormat, Precision, Settings, explain
from quartzite.config.reading import read_settings
from quartzite.errors import InvalidConfig

_SETTINGS = {setting.path: setting for setting in explain()}
CONFIG_ENV = "QUARTZITE_CONFIG"


def setting(path: str, flag: str, help_text: str | None = None) -> OptionInfo:
    """Return the option `flag` that overrides the setting `path`, also from the environment as QUARTZITE_<FLAG>."""
    known = _SETTINGS[path]
    default = "" if known.default in (None, False) else f" Default: {known.default}."
    words = help_text or known.description.replace("`", "") + default
    variable = "QUARTZITE_" + flag.removeprefix("--").upper().replace("-", "_")
    return cast(OptionInfo, typer.Option(flag, envvar=variable, help=words, show_default=False))


ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", envvar=CONFIG_ENV, help="Settings file (TOML); flags win over it.", show_default=False),
]
Models = Annotated[
    list[str] | None,
    setting(
        "models[].name",
        "--model",
        "NAME, NAME=FOLDER or NAME@REVISION; repeat it for several. NAME is what clients send; FOLDER a Hugging Face "
        "folder; without it NAME is looked up in the catalogue (quartzite models list) and downloaded.",
    ),
]
OneModel = Annotated[
    str | None,
    typer.Option("--model", help="NAME, NAME=FOLDER or NAME@REVISION; without it the first of the settings."),
]
Host = Annotated[str | None, setting("server.host", "--host")]
PortFlag = Annotated[int | None, setting("server.port", "--port")]
NoAuth = Annotated[bool | None, setting("server.no_auth", "--no-auth")]
ApiKeys = Annotated[
    list[str] | None,
    setting(
        "access.api_keys",
        "--api-key",
        "A key that callers must have; repeat it for several. Needs no database, and makes one account of all of them.",
    ),
]
Spans = Annotated[bool | None, setting("telemetry.spans", "--spans")]
AdminToken = Annotated[
    str | None,
    setting("admin.token", "--admin-token", "What callers of /admin must have; without it there are no such paths."),
]
LogFormatFlag = Annotated[LogFormat | None, setting("server.log_format", "--log-format")]
PrecisionFlag = Annotated[Precision | None, setting("engine.precision", "--precision")]
Streams = Annotated[int | None, setting("engine.streams", "--streams")]
Threads = Annotated[int | None, setting("engine.threads", "--threads")]
Device = Annotated[str | None, setting("engine.device", "--device")]
StorageUrl = Annotated[str | None, setting("storage.url", "--storage-url")]
DataFolder = Annotated[str | None, setting("storage.data_folder", "--data-folder")]
CacheFolder = Annotated[str | None, setting("cache.folder", "--cache")]
MaxVectorBytes = Annotated[int | None, setting("cache.max_vector_bytes", "--max-vector-bytes")]


def settings_of(config: Path | None, models: Sequence[str], flags: dict[str, Any]) -> Settings:
    """Return the settings of the file `config` under `flags`, keyed by path; None stands for a flag not given.

    `models`, unless empty, replace those of the file. Raises InvalidConfig.
    """
    overrides: dict[str, Any] = {"models": [model_of(text) for text in models]} if models else {}
    for path, value in flags.items():
        if value is not None:
            table, key = path.split(".")
            overrides.setdefault(table, {})[key] = value
    return read_settings(config, overrides)


def model_of(text: str) -> dict[str, str]:
    """Return the [[models]] table of NAME, NAME=FOLDER or NAME@REVISION; raises InvalidConfig for an empty part."""
    name, equals, folder = text.partition("=")
    if equals:
        parts = {"name": name, "folder": folder}
    else:
        name, at, revision = text.partition("@")
        parts = {"name": name, "revision": revision} if at else {"name": name}
    if not all(parts.values()):
        raise InvalidConfig(f"--model {text!r} must be NAME, NAME=FOLDER or NAME@REVISION")
    return parts
