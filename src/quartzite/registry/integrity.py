"""Whether files on disk are the files they should be, and a record of it so that gigabytes are hashed only once.

Knows nothing of hubs or packages.
"""

import hashlib
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from quartzite.errors import DownloadFailed
from quartzite.registry.catalog import FileFacts


class RecordedFile(msgspec.Struct, frozen=True):
    """A verified file as it was then; another size or time of change means that it may be another file now."""

    path: str
    size_bytes: int
    changed_ns: int


class Record(msgspec.Struct, frozen=True):
    """The verified files of one revision of one repository, and the folder they stand in."""

    folder: str
    files: tuple[RecordedFile, ...]


def verify(folder: Path, files: Iterable[FileFacts]) -> None:
    """Compare files in `folder` with what is known of them: the size first, then the SHA-256 where it is known.

    A file that differs is removed, so that the next attempt fetches it anew. Raises DownloadFailed naming the file.
    """
    for facts in files:
        fault = _fault(folder / facts.path, facts)
        if fault:
            _remove(folder / facts.path)
            raise DownloadFailed(f"{folder / facts.path} {fault}; try again to fetch it anew")


def _fault(file: Path, facts: FileFacts) -> str | None:
    if not file.exists():
        return "is missing"
    size = file.stat().st_size
    if size != facts.size_bytes:
        return f"is damaged and has been removed: {size} bytes, {facts.size_bytes} were expected"
    if facts.sha256 is None:
        return None
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return (
        None
        if digest == facts.sha256
        else f"is damaged and has been removed: SHA-256 {digest}, {facts.sha256} was expected"
    )


def _remove(file: Path) -> None:
    """Remove a file and, in a cache of links, every link on the way to it."""
    while file.is_symlink():
        target = file.parent / file.readlink()
        file.unlink()
        file = target
    file.unlink(missing_ok=True)


def remember(cache: Path, repo: str, commit: str, folder: Path, paths: Iterable[str]) -> None:
    """Record that the files `paths` of `folder` have been verified."""
    record = Record(str(folder), tuple(_as_recorded(folder, path) for path in paths))
    file = _record_file(cache, repo, commit)
    # Without a record the next start hashes again; a cache that cannot be written is no reason not to serve.
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
            temporary.write(msgspec.json.encode(record))
        Path(temporary.name).replace(file)


def recall(cache: Path, repo: str, commit: str) -> Path | None:
    """Return the folder whose files were verified before and have not changed since, if there is one."""
    try:
        record = msgspec.json.decode(_record_file(cache, repo, commit).read_bytes(), type=Record)
        folder = Path(record.folder)
        unchanged = all(_as_recorded(folder, file.path) == file for file in record.files)
    except (OSError, msgspec.DecodeError):
        return None
    return folder if unchanged else None


def recall_any(cache: Path, repo: str) -> Path | None:
    """Return a folder of any commit of `repo` whose files were verified before and have not changed since."""
    records = _record_file(cache, repo, "").parent.glob(_record_file(cache, repo, "*").name)
    folders = (recall(cache, repo, record.stem.rpartition("@")[2]) for record in sorted(records))
    return next((folder for folder in folders if folder), None)


def _as_recorded(folder: Path, path: str) -> RecordedFile:
    status = (folder / path).stat()
    return RecordedFile(path, status.st_size, status.st_mtime_ns)


def _record_file(cache: Path, repo: str, commit: str) -> Path:
    return cache / "verified" / f"{repo.replace('/', '--')}@{commit}.json"
