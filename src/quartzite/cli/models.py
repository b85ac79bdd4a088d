"""`quartzite models`: what is known by name, what is on disk, and whether it computes what it should."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quartzite.cli.options import (
    CacheFolder,
    ConfigFile,
    Device,
    PrecisionFlag,
    settings_of,
)
from quartzite.cli.table import table
from quartzite.config import Settings
from quartzite.telemetry.logs import set_up_logging

if TYPE_CHECKING:
    from quartzite.cli.checking import Finding
    from quartzite.domain import Vectors
    from quartzite.pipeline import Pipeline


def list_models(cache: CacheFolder = None, config: ConfigFile = None) -> None:
    """List the models of the catalogue: their limits, and what of them is on disk."""
    from quartzite.registry.catalog import catalog
    from quartzite.registry.files import on_disk

    folder = settings_of(config, [], {"cache.folder": cache}).cache.path
    rows = []
    for entry in catalog().values():
        found = on_disk(entry, folder)
        rows.append(
            (
                entry.name,
                entry.kind,
                str(entry.dimensions),
                str(entry.max_tokens),
                _in_units(entry.size_bytes) if entry.size_bytes else "unknown",
                "yes" if entry.checks else "no",
                str(found or "no"),
            )
        )
    typer.echo(table(("name", "takes", "dimensions", "max tokens", "size", "published numbers", "on disk"), rows))


def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="NAME or NAME@REVISION.")],
    cache: CacheFolder = None,
    config: ConfigFile = None,
) -> None:
    """Fetch the files of a model, verify them, and print the folder they are in."""
    from quartzite.registry.files import locate

    settings = settings_of(config, [name], {"cache.folder": cache})
    set_up_logging(settings.server.log_format)
    folder = locate(settings.models[0], settings.cache.path, progress=True)
    typer.echo(f"{settings.models[0].name} is here and verified, {_in_units(_size_bytes(folder))}:", err=True)
    typer.echo(folder)


def check(
    model: Annotated[str, typer.Argument(metavar="NAME", help="NAME, NAME=FOLDER or NAME@REVISION.")],
    precision: PrecisionFlag = None,
    device: Device = None,
    cache: CacheFolder = None,
    config: ConfigFile = None,
) -> None:
    """Load a model and compare its vectors with what was published about them; exit with 1 if they differ."""
    import asyncio

    flags = {"engine.precision": precision, "engine.device": device, "cache.folder": cache}
    settings = settings_of(config, [model], flags)
    set_up_logging(settings.server.log_format)
    if not asyncio.run(_check(settings)):
        raise typer.Exit(1)


async def _check(settings: Settings) -> bool:
    """Print every finding about the one model of `settings`; return whether all passed."""
    from quartzite.bootstrap import running
    from quartzite.cli.checking import published, soundness
    from quartzite.registry.catalog import catalog

    name = settings.models[0].name
    entry = catalog().get(name)
    async with running(settings) as service:
        (loaded,) = service.models.loaded.values()
        typer.echo(f"{name} from {loaded.card.folder}, {loaded.arithmetic}")
        embed = partial(_vectors, service.pipeline, name)
        passed = [
            _report(f"Published by {figures.source}", await published(figures, embed))
            for figures in (entry.checks if entry else ())
        ]
        if not passed:
            typer.echo("\nThe catalogue has no published numbers of this model, so only its soundness is checked.")
        passed.append(_report("Soundness", await soundness(embed)))
    typer.echo("\npassed" if all(passed) else "\nFAILED")
    return all(passed)


async def _vectors(pipeline: "Pipeline", name: str, texts: Sequence[str]) -> "Vectors":
    from quartzite.admission.gate import Caller, Permit
    from quartzite.domain import EmbeddingRequest, TextItem

    request = EmbeddingRequest(name, tuple(map(TextItem, texts)))
    return (await pipeline.embed(request, Permit(Caller(None, "check")))).vectors


def _report(title: str, findings: "Sequence[Finding]") -> bool:
    rows = [
        (
            finding.what,
            f"{finding.wanted:.5f}",
            f"{finding.found:.5f}",
            f"{finding.difference:.5f}",
            f"{finding.tolerance:.5f}",
            "pass" if finding.passed else "FAIL",
        )
        for finding in findings
    ]
    typer.echo(f"\n{title}\n" + table(("", "wanted", "found", "difference", "at most", ""), rows))
    return all(finding.passed for finding in findings)


def _size_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _in_units(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"
