"""Items as long as the API allows: bf16 stays with f32 at the last positions, where bf16 angles would be wrong."""

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quartzite.config import EngineSettings
from quartzite.domain import Encoded, Vectors
from quartzite.engines.openvino.engine import load
from quartzite.registry.card import ModelCard
from quartzite.registry.folder import read_card
from synthetic.blueprint import Blueprint, scaled
from synthetic.folder import make_folder
from synthetic.known import KNOWN

QWEN3 = {"layers": 2, "hidden": 64, "heads": 4, "key_value_heads": 2, "head_size": 32, "intermediate": 96}
XLMR = {"layers": 2, "hidden": 64, "heads": 4, "intermediate": 96}

GROWN = """
import asyncio, sys
from pathlib import Path
import numpy as np
from quartzite.config import EngineSettings
from quartzite.domain import Encoded
from quartzite.engines.openvino.engine import load
from quartzite.registry.folder import read_card

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024

bytes(30 << 20)  # once freed, pieces up to this size come from the heap of glibc
engine = load(read_card("far", Path(sys.argv[1]), None), EngineSettings(precision="bf16", threads=2), Path(sys.argv[2]))
asyncio.run(engine.warmed())  # nothing else takes memory then, and no thread compiles when the process ends
before = peak()
asyncio.run(engine.embed([Encoded(np.full(8192, 7, dtype=np.int32))]))
print(peak() - before)
"""
"""Prints by how many MiB the largest memory of a process grows when an item of 8192 tokens is computed."""


def _card(blueprint: Blueprint, folder: Path) -> ModelCard:
    make_folder(folder, blueprint)
    return read_card("far", folder, None)


def _vector(card: ModelCard, precision: str, ids: np.ndarray, cache: Path) -> Vectors:
    engine = load(card, EngineSettings(precision=precision), cache)  # type: ignore[arg-type]
    vector = asyncio.run(engine.embed([Encoded(ids)]))[0]
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize(
    ("like", "sizes", "tokens"),
    [
        ("BAAI/bge-m3", XLMR | {"vocabulary": 1010}, 8192),
        ("Qwen/Qwen3-Embedding-0.6B", QWEN3 | {"vocabulary": 1203}, 8192),
        pytest.param("Qwen/Qwen3-Embedding-0.6B", QWEN3 | {"vocabulary": 1203}, 32768, marks=pytest.mark.heavy),
    ],
)
def test_bf16_agrees_with_f32_at_the_longest_input(
    like: str, sizes: dict[str, int], tokens: int, tmp_path: Path
) -> None:
    """The vector of an item of full length differs between the precisions by rounding only."""
    card = _card(scaled(KNOWN[like], sizes), tmp_path / "model")
    assert card.max_tokens >= tokens
    ids = np.random.default_rng(0).integers(5, sizes["vocabulary"], tokens).astype(np.int32)
    exact = _vector(card, "f32", ids, tmp_path)
    assert exact @ _vector(card, "bf16", ids, tmp_path) >= 0.99
    # The first tokens count too: a vector that forgot them would be a vector of the last piece only.
    changed = np.concatenate([ids[: tokens // 2][::-1], ids[tokens // 2 :]])
    assert exact @ _vector(card, "f32", changed, tmp_path) < 0.999999


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the largest memory of a process is told by Linux")
@pytest.mark.parametrize(
    ("like", "sizes"),
    [("BAAI/bge-m3", XLMR | {"vocabulary": 1010}), ("Qwen/Qwen3-Embedding-0.6B", QWEN3 | {"vocabulary": 1203})],
)
def test_memory_does_not_grow_with_the_square_of_the_length(like: str, sizes: dict[str, int], tmp_path: Path) -> None:
    """One 8192 x 8192 matrix of each of four heads would be 1 GiB in f32, and 512 MiB in bf16."""
    make_folder(tmp_path / "model", scaled(KNOWN[like], sizes))
    command = [sys.executable, "-c", GROWN, tmp_path / "model", tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(ended.stdout) < 350
