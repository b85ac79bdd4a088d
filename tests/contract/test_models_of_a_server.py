"""`quartzite models load` and `unload` with a real server: its words, its faults, and the memory it gives back."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from command_line import Ended, run

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TOKEN = "the-admin-token"
GROWTH_MB = 25
"""How much more memory the process may have after four more rounds: the model has 45 MB of bf16 weights in graphs of
several lengths, so that one round that is not given back adds more than 100."""


class Server:
    """A server process on a free port."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self.process = process
        self.url = url

    def models(self, *words: str) -> Ended:
        """Run `quartzite models` with `words` against it."""
        return run("models", *words, "--url", self.url, "--admin-token", TOKEN)

    def embed(self) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/embeddings", json={"model": MODEL, "input": ["a text", "b " * 200]})

    def private_mb(self) -> int:
        """Return the memory that is not backed by files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) // 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the bundled model with an admin API."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "settings.toml").write_text(f"[storage]\ndata_folder = '{folder}'\n", encoding="utf-8")
    command = [sys.executable, "-m", "quartzite", "serve", "--port", "0", "--config", str(folder / "settings.toml")]
    environment = os.environ | {"QUARTZITE_ADMIN_TOKEN": TOKEN, "QUARTZITE_CACHE": str(folder / "cache")}
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        found = re.search(r"listens on (http://\S+)", process.stdout.readline())
        assert found is not None
        yield Server(process, found[1])
        process.send_signal(signal.SIGTERM)
        process.communicate()


def test_a_model_comes_and_goes_and_its_memory_with_it(server: Server) -> None:
    """Five times loaded, used and unloaded: the last times leave no more behind than the first.

    The C library keeps some 20 MB more or less from time to time; what is lost stays, and grows with every time.
    """
    left: list[int] = []
    for _ in range(5):
        assert server.embed().status_code == 200
        assert server.models("unload", MODEL) == (0, f"{MODEL} is served no more\n", "")
        left.append(server.private_mb())
        assert "model.safetensors" not in Path(f"/proc/{server.process.pid}/maps").read_text(encoding="utf-8")
        assert server.embed().json()["code"] == 20012
        loaded = server.models("load", MODEL)
        assert (loaded.code, loaded.err) == (0, "")
        assert re.fullmatch(rf"{MODEL} is served: (bf16|f32) \(.*\), loaded in \d+\.\d\d s\n", loaded.out)
    assert min(left[2:]) - left[0] < GROWTH_MB, left
    assert server.embed().status_code == 200


def test_the_server_s_refusal_is_told(server: Server, tmp_path: Path) -> None:
    """What the server says is printed as it is, with exit code 1."""
    refusals = [
        (["load", MODEL], f"the model '{MODEL}' is served already"),
        (["unload", "no/such"], "no model 'no/such' is served"),
        (["load", f"mine={tmp_path}"], "config.json"),
        (["load", "mine", "--level", "9"], "`level`"),
    ]
    for words, told in refusals:
        ended = server.models(*words)
        assert (ended.code, ended.out) == (1, "")
        assert ended.err.startswith(f"quartzite: the server at {server.url} refuses: ")
        assert told in ended.err
    wrong = run("models", "unload", MODEL, "--url", server.url, "--admin-token", "wrong")
    assert (wrong.code, wrong.err) == (1, f"quartzite: the server at {server.url} refuses: Admin token is invalid\n")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--url", "http://127.0.0.1:9", "--admin-token", "x"], 1, "the server at http://127.0.0.1:9 does not answer"),
        (["--url", "ftp://host", "--admin-token", "x"], 2, "must be http://HOST:PORT or https://HOST:PORT"),
        (["--url", "http://127.0.0.1:99999", "--admin-token", "x"], 2, "must be http://HOST:PORT"),
        (["--url", "http://127.0.0.1:9"], 2, "give the server's admin token"),
    ],
)
def test_a_server_that_cannot_be_asked_is_told(arguments: list[str], code: int, told: str) -> None:
    """An address where nobody answers, one that is none, and a missing token."""
    ended = run("models", "unload", "m", *arguments)
    assert (ended.code, told in ended.err, ended.err.count("\n")) == (code, True, 1), ended.err
