"""Reads settings from one TOML file, overridden by flags; tells of every fault at once."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from quartzite.config import ModelSettings, Section, ServerSettings, Settings
from quartzite.errors import InvalidConfig

_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/?#@\s]+")  # as browsers send it: no path, not even a slash

S = TypeVar("S", bound=Section)


_LINK = re.compile(r"https?://[!#-;=?-~]+")
_SECRET_TEXT = re.compile("[!-~]+")


def read_settings(file: Path | None, overrides: Mapping[str, Any]) -> Settings:
    """Return the settings of `file` (TOML, or None for the defaults) with `overrides` laid over them.

    `overrides` has the file's form, `{"server": {"port": 8123}, "models": [...]}`, and wins key by key; a list
    replaces the file's list. Raises InvalidConfig with every fault of both in one message.
    """
    table = _parsed(file) if file else {}
    merged = _merged(table, overrides)
    faults: list[str] = []
    settings = _section(Settings, merged, "", faults)
    if settings is not None:
        faults += _contradictions(settings)
    if settings is None or faults:
        count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
        source = f"{file} and the flags have" if file else "the settings have"
        raise InvalidConfig(f"{source} {count}:\n" + "\n".join(f"  - {fault}" for fault in faults))
    return settings


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidConfig(f"cannot read the settings file {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{file} is not valid TOML: {error}") from error


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return merged


def _section(kind: type[S], table: object, path: str, faults: list[str]) -> S | None:
    """Build one table field by field, so that every fault is found and not only the first."""
    if not isinstance(table, Mapping):
        faults.append(f"{path or 'the file'} must be a table")
        return None
    hints = get_type_hints(kind, include_extras=True)
    prefix = f"{path}." if path else ""
    before = len(faults)
    faults += [f"{prefix}{key} is not a setting" + _nearest(key, hints) for key in table if key not in hints]
    values = {key: _field(hints[key], value, f"{prefix}{key}", faults) for key, value in table.items() if key in hints}
    faults += [
        f"{prefix}{field.name} is required"
        for field in msgspec.structs.fields(kind)
        if field.required and field.name not in table
    ]
    return kind(**values) if len(faults) == before else None


def _field(hint: Any, value: object, path: str, faults: list[str]) -> Any:
    if isinstance(hint, type) and issubclass(hint, Section):
        return _section(hint, value, path, faults)
    if get_origin(hint) is tuple:
        return _tables(get_args(hint)[0], value, path, faults)
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        faults.append(f"{path}: {error}")
        return None


def _tables(kind: type[S], value: object, path: str, faults: list[str]) -> tuple[S | None, ...]:
    if not isinstance(value, list | tuple) or not (value or path == "levels"):
        faults.append(f"{path} must be a list of at least one [[{path}]] table")
        return ()
    return tuple(_section(kind, entry, f"{path}[{i}]", faults) for i, entry in enumerate(value))


def _contradictions(settings: Settings) -> list[str]:
    names = [model.name for model in settings.models]
    faults = [f"models: the name {name!r} is given twice" for name in sorted({n for n in names if names.count(n) > 1})]
    tables = [(level.level, level.model) for level in settings.levels]
    faults += [
        f"levels: the limits of L{level} for {'each model' if model is None else repr(model)} are given twice"
        for level, model in sorted({table for table in tables if tables.count(table) > 1}, key=str)
    ]
    if settings.access.api_keys and settings.server.no_auth:
        faults.append("server.no_auth: nobody would be asked for the keys of access.api_keys; leave one of them out")
    if any(not _SECRET_TEXT.fullmatch(key) for key in settings.access.api_keys):
        faults.append("access.api_keys: a key must have printable ASCII characters only, at least one, and no space")
    faults += [
        f"server.cors_origins: {origin!r} is no origin; write `*` or scheme, host and port alone, as https://example.org"
        for origin in settings.server.cors_origins
        if not _ORIGIN.fullmatch(origin)
    ]
    faults += [
        f"models[{index}].{field}: {words}"
        for index, model in enumerate(settings.models)
        for field, words in model_faults(model)
    ]
    requests = settings.requests
    if requests.max_bodies_bytes < requests.max_body_bytes:
        faults.append(
            f"requests.max_bodies_bytes: {requests.max_bodies_bytes} bytes leave no room for one body of "
            f"requests.max_body_bytes ({requests.max_body_bytes})"
        )
    if settings.admin.token is not None and not _SECRET_TEXT.fullmatch(settings.admin.token):
        faults.append("admin.token: it must have printable ASCII characters only, at least one, and no space")
    images = settings.images
    if images.min_pixels > images.max_pixels:
        faults.append(f"images.min_pixels: {images.min_pixels} is more than images.max_pixels, {images.max_pixels}")
    return faults + ([] if settings.keys_possible else _open_to_others(settings.server))


def model_faults(model: ModelSettings) -> Iterator[tuple[str, str]]:
    """Yield the fields of `model` that cannot be as they are, each with what is the matter."""
    if not model.name.isprintable() or model.name != model.name.strip():
        yield "name", "it must have printable characters only, and no space at its ends"
    if model.folder == "":
        yield "folder", "it must not be empty"
    if model.deprecated and model.sunset and model.sunset < model.deprecated:
        yield "sunset", f"{model.sunset} is before {model.deprecated}, the day of `deprecated`"
    if model.deprecation_link is not None:
        if not _LINK.fullmatch(model.deprecation_link):
            yield "deprecation_link", "it must be an address such as https://example.org/page, without spaces and <>"
        elif not (model.deprecated or model.sunset):
            yield "deprecation_link", "it goes with `deprecated` or `sunset`, and there is neither"


def _open_to_others(server: ServerSettings) -> list[str]:
    if server.no_auth or server.is_loopback:
        return []
    return [
        f"server.host: {server.host!r} lets other machines in, and there is no key to ask them for; make one "
        "(quartzite keys create), give one (--api-key), or set server.no_auth (--no-auth) if anyone may come"
    ]


def _nearest(key: str, known: Mapping[str, Any]) -> str:
    import difflib

    near = difflib.get_close_matches(key, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
