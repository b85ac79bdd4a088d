"""The commands with the bundled model: real weights, from the first start to vectors that equal published ones."""

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

QUARTZITE = (sys.executable, "-m", "quartzite")
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for all tests of this file, so that the model is unpacked once."""
    return tmp_path_factory.mktemp("cache")


def run(*arguments: str, cache: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [*QUARTZITE, *arguments, "--cache", str(cache)]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


@asynccontextmanager
async def serving(cache: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run `quartzite serve` on a free port; yield the process and all it said until it took requests."""
    command = [*QUARTZITE, "serve", "--port", "0", "--cache", str(cache)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    try:
        greeting = ""
        while "curl" not in greeting:
            line = await process.stdout.readline()
            assert line, greeting
            greeting += line.decode()
        yield process, greeting
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_line_that_cannot_be_read_is_named(cache: Path, errors: str) -> None:
    """What is not in the encoding of the terminal is told by its line, in every locale."""
    command = [*QUARTZITE, "embed", "--cache", str(cache)]
    environment = os.environ | {"PYTHONIOENCODING": f"utf-8:{errors}"}
    ended = subprocess.run(command, input=b"good\ncaf\xe9\n", capture_output=True, env=environment, check=False)
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert ended.stderr == b"quartzite: text 2 is not in utf-8: unexpected end of data at byte 3\n"


async def test_the_server_greets_with_a_command_that_works(cache: Path) -> None:
    """The greeting names the model and its limits, and its curl line, pasted, is answered with a unit vector."""
    async with serving(cache) as (process, greeting):
        assert re.search(rf"{MODEL} +384 +256 +(bf16|f32) \(.*\) +\d+\.\d\d s", greeting)
        command = shlex.split(next(line for line in greeting.splitlines() if line.startswith("curl ")))
        assert (command[2], command[4]) == ("-H", "-d")
        async with httpx.AsyncClient() as client:
            answer = await client.post(command[1], headers=[tuple(command[3].split(": "))], content=command[5])
        vector = answer.json()["data"][0]["embedding"]
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        process.send_signal(signal.SIGTERM)
        stdout, _ = await process.communicate()
        assert stdout.decode().splitlines()[-1] == "Stopped."
        assert process.returncode == 0


async def test_the_openai_client_gets_what_the_command_prints(cache: Path) -> None:
    """Floats and base64 from a server, and the vector that `quartzite embed` prints, are the same vector."""
    printed = np.array(json.loads(run("embed", "Hello, world!", cache=cache).stdout))
    async with serving(cache) as (_, greeting):
        url = re.findall(r"http://[\d.:]+", greeting)[0]
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            base64 = await client.embeddings.create(model=MODEL, input="Hello, world!")
            floats = await client.embeddings.create(model=MODEL, input="Hello, world!", encoding_format="float")
    assert base64.data[0].embedding == pytest.approx(floats.data[0].embedding)
    assert printed @ np.array(floats.data[0].embedding) > 0.9999


def test_each_line_of_the_input_is_embedded(cache: Path) -> None:
    """Without texts on the command line there is one line of JSON for each line of the input."""
    ended = run("embed", "--truncate", "right", cache=cache, text=f"first\n{'second ' * 300}\n")
    assert ended.returncode == 0
    first, second = (np.array(json.loads(line)) for line in ended.stdout.splitlines())
    assert first.shape == (384,)
    assert first @ second < 0.99


def test_a_text_that_cannot_be_embedded_is_counted(cache: Path) -> None:
    """An empty text, and one that is too long, are named by their number; exit code 1."""
    empty = run("embed", "fine", "", cache=cache)
    assert (empty.returncode, empty.stdout) == (1, "")
    assert "text 2: " in empty.stderr
    long = run("embed", "fine", "word " * 300, cache=cache)
    assert (long.returncode, long.stdout) == (1, "")
    assert "`text 2` " in long.stderr


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_real_weights_pass_the_published_figures(cache: Path, precision: str) -> None:
    """`models check` finds the bundled model's similarities where sentence-transformers has them."""
    ended = run("models", "check", MODEL, "--precision", precision, cache=cache)
    assert ended.returncode == 0
    assert ended.stdout.endswith("\npassed\n")
    assert len(re.findall(r"^query 1, document \d .* pass$", ended.stdout, re.MULTILINE)) == 4


def test_pulled_models_are_listed_as_on_disk(cache: Path) -> None:
    """What `pull` fetched is where it says, and `list` finds it there."""
    pulled = run("models", "pull", MODEL, cache=cache)
    assert pulled.returncode == 0
    folder = pulled.stdout.strip()
    assert (Path(folder) / "model.safetensors").exists()
    listed = run("models", "list", cache=cache)
    assert listed.returncode == 0
    assert folder in next(line for line in listed.stdout.splitlines() if line.startswith(MODEL))
