"""A `quartzite serve` in a process of its own whose engine holds every micro-batch until it is told to let go.

Or, where `slow` is said, one that takes 10 ms for two items, and a disk that takes 30 ms for a commit.
"""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

import model_folders
from serving import WORDPIECE

MODEL = "tests/held"
_PROGRAM = """
import asyncio, functools, sys, threading, time
from quartzite import bootstrap
from quartzite.cli import main, server
from quartzite.engines.base import MicroBatchShape
from quartzite.engines.fake import FakeEngine
from quartzite.storage.ledger import Ledger

class Held(FakeEngine):
    async def embed(self, batch, spread=False):
        if "slow" in sys.argv:
            await asyncio.sleep(0.01)
            return await super().embed(batch)
        if not self._told:
            self._told = True
            asyncio.get_running_loop().add_reader(sys.stdin, self.release)
        print("entered", flush=True)
        if "hang" in sys.argv:
            await asyncio.to_thread(threading.Event().wait)
        return await super().embed(batch)

def load(card, settings, cache):
    engine = Held(card.dimensions, shape=MicroBatchShape(512, 2))
    engine._told = False
    if "slow" not in sys.argv:
        engine.hold()
    return engine

if "slow" in sys.argv:
    commit = Ledger._commit
    Ledger._commit = lambda ledger, rows: (time.sleep(0.03), commit(ledger, rows))
if "hang" in sys.argv:
    server.LAST_CALL_S = 1.0
bootstrap.running = functools.partial(bootstrap.running, source=bootstrap.EngineSource("__main__:load", "", ""))
sys.argv, arguments = ["quartzite", *sys.argv], sys.argv[1:]
main.app([argument for argument in arguments if argument not in {"hang", "slow"}])
"""


class HeldServer:
    """The process, the address it listens on, and what it has printed."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log
        self.url = ""

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.url.rpartition(":")[2])

    def logged(self) -> str:
        """Return all that it has logged so far."""
        return self._log.read_text(encoding="utf-8")

    def said(self) -> str:
        """Return the next line that the process prints, waiting for it."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def wait_until_listening(self) -> None:
        """Read the greeting up to its end, the command that tries the service."""
        while not (line := self.said()).startswith("curl "):
            assert self.process.poll() is None, "the server has ended"
        self.url = re.findall(r"http://[\d.]+:\d+", line)[0]
        assert self.said() == ""

    def release(self) -> None:
        """Let all micro-batches go on."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def stop(self) -> None:
        """Send the first signal."""
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def held_server(
    folder: Path, settings: Mapping[str, Mapping[str, object]], *more: str, files: int | None = None, blocks: int = 0
) -> Iterator[HeldServer]:
    """Run a server with `settings` by table, its own files below `folder`.

    `hang` holds it so that it cannot be stopped, `slow` does not hold it; `files` is how many the system lets it open,
    and `blocks` of 512 bytes how large it lets each of them become.
    """
    config = model_folders.BERT | {"vocab_size": 1188}
    model_folders.write(
        folder / "model", model_folders.descriptions(config, {"tokenizer.json": WORDPIECE.read_bytes()})
    )
    (folder / "settings.toml").write_text(_toml(settings), encoding="utf-8")
    flags = [
        "serve",
        "--port",
        "0",
        "--model",
        f"{MODEL}={folder / 'model'}",
        "--config",
        str(folder / "settings.toml"),
    ]
    command = [sys.executable, "-c", _PROGRAM, *flags, *more]
    if files:
        command = ["sh", "-c", f'ulimit -n {files}; exec "$0" "$@"', *command]
    if blocks:
        command = ["sh", "-c", f'ulimit -S -f {blocks}; exec "$0" "$@"', *command]
    pipe = subprocess.PIPE
    # A pipe that nobody reads would hold a server that logs.
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True) as process,
    ):
        server = HeldServer(process, folder / "log")
        try:
            server.wait_until_listening()
            yield server
        finally:
            process.kill()


def embedding(server: HeldServer, client: httpx.Client, text: str = "text") -> httpx.Response:
    """Ask `server` for the vector of `text`."""
    return client.post(f"{server.url}/v1/embeddings", json={"model": MODEL, "input": text}, timeout=30)


def _toml(settings: Mapping[str, Mapping[str, object]]) -> str:
    lines = []
    for table, values in settings.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines)
