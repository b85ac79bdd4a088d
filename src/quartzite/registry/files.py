"""From a served model's settings to the folder with its files: given, bundled or downloaded.

Knows nothing of what the files hold; the hub's library is imported only when the hub is needed.
"""

import re
from difflib import get_close_matches
from pathlib import Path

from quartzite.config import ModelSettings
from quartzite.errors import DownloadFailed
from quartzite.registry.bundled import unpacked, unpacked_before
from quartzite.registry.catalog import CatalogEntry, catalog
from quartzite.registry.integrity import recall_any

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")


def locate(model: ModelSettings, cache: Path, progress: bool) -> Path:
    """Return the folder that holds the files of `model`, fetching them into `cache` where that is needed.

    A folder in the settings is taken as it is. The bundled model comes out of its package, unless a revision is asked
    for. Any other name of the catalogue, or of the form `org/name`, is downloaded from the hub at the revision of the
    settings, else of the catalogue, else of the main branch; `progress` shows a bar while it is.

    Raises DownloadFailed for names that lead nowhere and files that cannot be had, and MissingExtra when
    the bundled model is not installed.
    """
    entry = catalog().get(model.name)
    if model.folder is not None:
        return _given(model.name, Path(model.folder).expanduser())
    if entry is not None and entry.bundle is not None and model.revision is None:
        return unpacked(entry.bundle, entry.files, cache)
    if entry is None and not HUB_NAME.fullmatch(model.name):
        raise DownloadFailed(_unknown(model.name))
    return _downloaded(model, entry, cache, progress)


def on_disk(entry: CatalogEntry, cache: Path) -> Path | None:
    """Return a folder with verified files of `entry` that are there already, of whichever revision; fetches nothing."""
    if entry.bundle is not None:
        before = unpacked_before(entry.bundle, entry.files, cache)
        if before is not None:
            return before
    return recall_any(cache, entry.repo)


def _given(name: str, folder: Path) -> Path:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DownloadFailed(f"{folder}, given as the folder of {name}, {what}; a model is a folder")
    return folder.absolute()


def _downloaded(model: ModelSettings, entry: CatalogEntry | None, cache: Path, progress: bool) -> Path:
    from quartzite.registry.hub import Source, download

    pinned = entry.revision if entry else None
    source = Source(
        name=model.name,
        repo=entry.repo if entry else model.name,
        revision=model.revision or pinned or "main",
        entry=entry,
        known=entry.files if entry and model.revision in (None, pinned) else (),
    )
    return download(source, cache, progress)


def _unknown(name: str) -> str:
    if Path(name).expanduser().is_dir():
        return f"{name} is a folder; say which name it is served under: --model NAME={name}"
    near = _near(name)
    known = f"did you mean {' or '.join(near)}?" if near else f"the catalogue has {', '.join(catalog())}."
    return (
        f"no model {name!r} is known: {known} A model of the hub is named org/name, a folder is given as NAME=FOLDER."
    )


def _near(name: str) -> list[str]:
    """Names of the catalogue like `name`, which may lack the part before the slash."""
    spellings: dict[str, str] = {}
    for known in catalog():
        spellings.setdefault(known.rpartition("/")[2].lower(), known)
        spellings.setdefault(known.lower(), known)
    return list(dict.fromkeys(spellings[match] for match in get_close_matches(name.lower(), spellings)))
