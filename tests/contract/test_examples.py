"""The scripts in examples/ run as they stand against a server."""

import asyncio
import io
import os
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quartzite.config import ImageSettings
from quartzite.preprocess.pictures import Pictures
from seeing import png
from serving import SEEING, FakeService, fake_service, listening

SEARCH = Path(__file__).parents[2] / "examples" / "text_to_image_search.py"
IMPORT = re.compile(r"\s*(import|from) ")


async def search(service: FakeService, *arguments: str) -> tuple[int | None, list[str], str]:
    """Run the search; return its exit code, its lines, and what it said of a failure."""
    async with listening(service.app) as url:
        ran = await asyncio.create_subprocess_exec(
            *(sys.executable, SEARCH, "--url", f"{url}/v1", *arguments),
            env={**os.environ, "no_proxy": "*"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, failure = await ran.communicate()
    return ran.returncode, said.decode().splitlines(), failure.decode()


async def test_drawn_pictures_are_ranked_by_a_text() -> None:
    """Nine pictures, each with its similarity, the nearest first."""
    async with fake_service(pictures=Pictures(ImageSettings())) as service:
        code, lines, _ = await search(service, "a red circle")
    assert code == 0
    scores, names = zip(*[line.split(maxsplit=1) for line in lines], strict=True)
    assert sorted(scores, key=float, reverse=True) == list(scores)
    assert len(set(names)) == 9
    assert "blue triangle" in names


def test_the_example_needs_python_alone() -> None:
    """What it draws are pictures, and nothing but the standard library is imported."""
    example = runpy.run_path(str(SEARCH))
    pictures = {name: np.asarray(Image.open(io.BytesIO(file))) for name, file in example["drawn"]()}
    assert len(pictures) == 9
    assert {picture.shape for picture in pictures.values()} == {(224, 224, 3)}
    assert (pictures["red circle"][112, 112] == (255, 0, 0)).all()
    assert (pictures["blue triangle"][41, 41] == 255).all()
    words = [line.split()[1].partition(".")[0] for line in SEARCH.read_text("utf-8").splitlines() if IMPORT.match(line)]
    assert set(words) <= sys.stdlib_module_names


async def test_pictures_of_a_folder_are_ranked(tmp_path: Path) -> None:
    """Other files in it are left alone."""
    for name, size in (("b.png", 64), ("a.PNG", 96)):
        (tmp_path / name).write_bytes(png(size, 64))
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    async with fake_service(pictures=Pictures(ImageSettings())) as service:
        code, lines, _ = await search(service, "--pictures", str(tmp_path), "a sunset")
    assert code == 0
    assert sorted(line.split(maxsplit=1)[1] for line in lines) == ["a.PNG", "b.png"]


@pytest.mark.parametrize(
    ("model", "says"), [("nobody/none", "Model does not exist"), ("tests/classic", "which only models for images have")]
)
async def test_a_refusal_of_the_server_is_shown(model: str, says: str) -> None:
    """The script ends with the message of the API."""
    async with fake_service(pictures=Pictures(ImageSettings())) as service:
        code, lines, failure = await search(service, "--model", model, "a")
    assert (code, lines) == (1, [])
    assert says in failure
    assert SEEING in failure or model == "nobody/none"
