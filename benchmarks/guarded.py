"""A server as a provider runs it, for benches: an account with a key, limits that are counted, a ledger."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from client import post
from server import Command
from workloads import PATH

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PLENTY = 2_000_000_000
"""Limits that are counted and never reached."""


@dataclass(frozen=True)
class Site:
    """Where the server keeps its things, and the key of its one account; no database and no key for an open one."""

    folder: Path
    database: str = ""
    key: str = ""

    @property
    def file(self) -> Path:
        """The file of the database, if it is SQLite."""
        return Path(self.database.removeprefix("sqlite:///"))

    def command(self, port: int, *flags: str) -> Command:
        """Return how the server is started."""
        start = [
            sys.executable,
            "-m",
            "quartzite",
            "serve",
            "--port",
            str(port),
            "--config",
            self.folder / "serve.toml",
        ]
        return Command([*start, *flags], {})

    def request(self, text: str) -> bytes:
        """Return the request for the vector of `text`."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else None
        return post(PATH, {"model": MODEL, "input": text, "encoding_format": "base64"}, headers)


def open_site(folder: Path) -> Site:
    """Return a server without keys and without a database."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "serve.toml").write_text(f'[storage]\ndata_folder = "{folder}/none"\n', encoding="utf-8")
    return Site(folder)


def guarded_site(folder: Path, database: str = "", more: str = "") -> Site:
    """Make an account and its key in `database`, SQLite in `folder` unless given; `more` are further settings."""
    folder.mkdir(parents=True, exist_ok=True)
    url = database or f"sqlite:///{folder}/ledger.db"
    periods = ("requests_per_minute", "requests_per_day", "tokens_per_minute", "tokens_per_day")
    limits = "\n".join(f"{name} = {PLENTY}" for name in periods)
    settings = f'[storage]\nurl = "{url}"\n[[levels]]\nlevel = 0\n{limits}\n{more}'
    (folder / "serve.toml").write_text(settings, encoding="utf-8")
    told = ["--config", str(folder / "serve.toml")]
    _quartzite("accounts", "create", "bench", *told)
    shown = _quartzite("keys", "create", "bench", *told)
    key = next(word for word in shown.split() if word.startswith("sk-") and len(word) > 40)
    return Site(folder, url, key)


def _quartzite(*arguments: str) -> str:
    command = [sys.executable, "-m", "quartzite", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
