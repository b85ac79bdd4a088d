"""The models known by name: where their files are, what may be asked of them, what was published about their vectors.

The table itself is `catalog.toml`. Knows nothing of folders, downloads or engines.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from quartzite.registry.card import Pooling

Kind = Literal["text", "text and images"]


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known of a file beforehand; `path` is relative to the model's folder, `sha256` is lower-case hex."""

    path: str
    size_bytes: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """An installable package that carries a model in a zip archive.

    `package` is its import name, `archive` the file beside its code, `requirement` what to tell pip.
    """

    package: str
    archive: str
    requirement: str


@dataclass(frozen=True, slots=True)
class PublishedCheck:
    """Cosines that others published for this model's weights, Q queries against N documents.

    `query_prompt` goes before every query and nothing before a document; `expected` is (Q, N); a figure passes within
    `tolerance` (absolute), which allows for the precision, f32 to bf16, at which either side computed.
    """

    source: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    expected: tuple[tuple[float, ...], ...]
    tolerance: float
    query_prompt: str = ""


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model known by name.

    `repo` and `revision` are its place on the hub (no revision: the main branch); `dimensions` its native size D;
    `max_tokens` and `allowed_dimensions` are the API document's; `pooling` is used where the folder does not tell.
    """

    name: str
    repo: str
    kind: Kind
    pooling: Pooling
    dimensions: int
    max_tokens: int
    allowed_dimensions: tuple[int, ...] = ()
    revision: str | None = None
    bundle: Bundle | None = None
    files: tuple[FileFacts, ...] = ()
    checks: tuple[PublishedCheck, ...] = ()

    @property
    def size_bytes(self) -> int | None:
        """What its files take; None where its weights are not among those that are known."""
        known = any(file.path.endswith((".safetensors", ".bin")) for file in self.files)
        return sum(file.size_bytes for file in self.files) if known else None


@cache
def catalog() -> Mapping[str, CatalogEntry]:
    """Return all entries by the name clients send, in the order of the table."""
    table = tomllib.loads(resources.files(__package__).joinpath("catalog.toml").read_text(encoding="utf-8"))
    entries: dict[str, CatalogEntry] = {}
    for row in table["models"]:
        name, model = row["name"], row.get("same_as")
        entries[name] = replace(entries[model], name=name) if model else _entry(row, table)
    return MappingProxyType(entries)


def _entry(row: Mapping[str, Any], table: Mapping[str, Any]) -> CatalogEntry:
    checks = [_spelled_out(check, table) for check in row.get("checks", ())]
    return msgspec.convert({**row, "checks": checks}, CatalogEntry)


def _spelled_out(check: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    prompt = check.get("query_prompt")
    return {**check, **table["texts"][check["texts"]], "query_prompt": table["prompts"][prompt] if prompt else ""}
