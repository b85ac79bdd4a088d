"""The settings in force written as a settings file, for `quartzite serve --show-settings`."""

import json
from collections.abc import Iterator
from datetime import date

from msgspec.structs import fields

from quartzite.config import Section, Settings, explain


def as_toml(settings: Settings) -> str:
    """Return `settings` as TOML that `--config` takes, every value under the sentence that explains it."""
    return "\n".join(_tables(settings))


def _tables(settings: Settings) -> Iterator[str]:
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, Section):
            yield from _table(f"[{field.name}]", value)
        else:
            for entry in value:
                yield from _table(f"[[{field.name}]]", entry)


def _table(title: str, section: Section) -> Iterator[str]:
    yield title
    for setting in explain(type(section)):
        value = getattr(section, setting.path)
        yield f"# {setting.description}"
        if value is None:
            yield f"# {setting.path} is not set"
        elif setting.secret and value:
            yield f"# {setting.path} is set, and not shown"
        else:
            yield f"{setting.path} = {_literal(value)}"
    yield ""


def _literal(value: str | int | bool | date | tuple[str, ...]) -> str:
    if isinstance(value, date):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False)
