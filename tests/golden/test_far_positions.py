"""Items as long as the API allows: bf16 stays with f32 at the last positions, where bf16 angles would be wrong."""

import asyncio
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
