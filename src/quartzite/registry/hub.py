"""Models from a hub: only the files needed, verified, found again without the network. Imports the hub's library late.

Files land in the library's own cache, so that what other tools have downloaded is used and the other way round; a
cache folder that was set by hand gets a cache of its own. Knows nothing of the bundled model or of given folders.
"""

import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from quartzite.config import CacheSettings
from quartzite.errors import DownloadFailed
from quartzite.registry.catalog import CatalogEntry, FileFacts
from quartzite.registry.folder import read_card
from quartzite.registry.hub_failures import HubUnreachable, hub_failures
from quartzite.registry.integrity import recall, remember, verify
from quartzite.registry.selection import Selection, select

LISTING_TIMEOUT_S = 30

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """One revision (branch, tag or commit) of a repository, and what the catalogue knows of its files beforehand."""

    name: str
    repo: str
    revision: str
    entry: CatalogEntry | None
    known: tuple[FileFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository holds at one commit; `facts` lacks files whose size the hub did not tell."""

    commit: str
    paths: tuple[str, ...]
    facts: Mapping[str, FileFacts]


def download(source: Source, cache: Path, progress: bool) -> Path:
    """Return a folder with the files of `source`, downloading those that are missing; `progress` shows a bar.

    A commit that was verified before is not asked for again. A branch or tag is, and when the hub cannot be reached
    the copy from earlier is taken. The descriptions come first and are checked, so that a model that would be refused
    costs no gigabytes.

    Raises DownloadFailed with what to do about it; ModelRefused for a model that cannot be served.
    """
    verified = recall(cache, source.repo, source.revision)
    if verified is not None:
        return verified
    try:
        listing = _listing(source)
    except HubUnreachable as unreachable:
        return _copy_from_earlier(source, cache, unreachable)
    return recall(cache, source.repo, listing.commit) or _fetched(source, listing, cache, progress)


def _listing(source: Source) -> Listing:
    from huggingface_hub import HfApi

    with hub_failures(source.repo, source.revision):
        info = HfApi(library_name="quartzite").model_info(
            source.repo, revision=source.revision, files_metadata=True, timeout=LISTING_TIMEOUT_S
        )
    files = info.siblings or []
    facts = {
        file.rfilename: FileFacts(file.rfilename, file.size, file.lfs.sha256 if file.lfs else None)
        for file in files
        if file.size is not None
    }
    if info.sha is None:
        raise DownloadFailed(f"the hub does not say which commit {source.revision!r} of {source.repo} is")
    return Listing(info.sha, tuple(file.rfilename for file in files), facts)


def _fetched(source: Source, listing: Listing, cache: Path, progress: bool) -> Path:
    selection = select(listing.paths, source.repo)
    facts = _agreed(source, listing, selection)
    store = _store(cache)
    _check_space(source, facts.values(), listing.commit, store)
    # By its name the first time, for the library then notes which commit the name stands for.
    folder = _snapshot(source, source.revision, selection.descriptions, store, progress)
    if folder.name != listing.commit:
        raise DownloadFailed(f"{source.revision!r} of {source.repo} moved while it was downloaded; try again")
    verify(folder, (facts[path] for path in selection.descriptions if path in facts))
    read_card(source.name, folder, source.entry)
    _snapshot(source, listing.commit, selection.weights, store, progress)
    verify(folder, (facts[path] for path in selection.weights if path in facts))
    remember(cache, source.repo, listing.commit, folder, selection.all)
    return folder


def _agreed(source: Source, listing: Listing, selection: Selection) -> dict[str, FileFacts]:
    """What hub and catalogue say of the selected files; the catalogue must not be contradicted."""
    known = {facts.path: facts for facts in source.known}
    for path in known.keys() & listing.facts.keys():
        told = listing.facts[path]
        if told.size_bytes != known[path].size_bytes or told.sha256 not in (known[path].sha256, None):
            raise DownloadFailed(
                f"{source.repo} offers another {path} than the catalogue knows ({told.size_bytes} bytes, SHA-256 "
                f"{told.sha256}); give `revision` to serve it all the same"
            )
    facts = {**listing.facts, **known}
    return {path: facts[path] for path in selection.all if path in facts}


def _check_space(source: Source, facts: Iterable[FileFacts], commit: str, store: Path) -> None:
    from huggingface_hub import try_to_load_from_cache

    needed = sum(
        file.size_bytes
        for file in facts
        if not isinstance(try_to_load_from_cache(source.repo, file.path, store, commit), str)
    )
    existing = next(folder for folder in (store, *store.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise DownloadFailed(
            f"{source.repo} needs {needed / 1e9:.1f} GB in {store}, where {free / 1e9:.1f} GB are free; "
            "make room or set cache.folder"
        )


def _snapshot(source: Source, revision: str, paths: Iterable[str], store: Path, progress: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Silent(tqdm):
        """The library's bar, not shown."""

        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

    with hub_failures(source.repo, source.revision):
        folder = snapshot_download(
            source.repo,
            revision=revision,
            cache_dir=store,
            allow_patterns=list(paths),
            library_name="quartzite",
            tqdm_class=None if progress else Silent,
        )
    return Path(folder)


def _copy_from_earlier(source: Source, cache: Path, unreachable: HubUnreachable) -> Path:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.repo, "config.json", _store(cache), source.revision)
    if not isinstance(found, str):
        raise HubUnreachable(f"{unreachable}; {_store(cache)} holds no copy from earlier") from unreachable
    folder = Path(found).parent
    if recall(cache, source.repo, folder.name) is None:
        _adopt(source, folder, cache)
    logger.warning("%s; the copy from earlier is used: %s", unreachable, folder)
    return folder


def _adopt(source: Source, folder: Path, cache: Path) -> None:
    """Verify files that another tool, or an attempt that was cut short, has left in the library's cache."""
    paths = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    selection = select(paths, str(folder))
    verify(folder, (facts for facts in source.known if facts.path in selection.all))
    remember(cache, source.repo, folder.name, folder, selection.all)


def _store(cache: Path) -> Path:
    """The library's own cache, unless another cache folder than the default was set."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) if cache == CacheSettings().path else cache / "hub"
