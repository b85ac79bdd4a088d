"""What a precision does to a search: the same passages in the same order, on real text and real weights."""

import asyncio
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from quartzite.config import DEFAULT_MODEL, ModelSettings
from retrieval import agreement, embed, pairs

Embedded = Callable[[str], np.ndarray]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    """Return the vectors of queries and passages in a precision, computed once."""
    folder = tmp_path_factory.mktemp("cache")

    @cache
    def vectors(precision: str) -> np.ndarray:
        found: np.ndarray = asyncio.run(embed(ModelSettings(name=DEFAULT_MODEL), precision, pairs(60), folder))
        return found

    return vectors


@pytest.mark.parametrize("precision", ["bf16", "int8", "int8-dynamic"])
def test_passages_rank_as_in_f32(embedded: Embedded, precision: str) -> None:
    """For every query the order of all passages has a rank correlation of at least 0.99 with that of f32."""
    found = agreement(embedded("f32"), embedded(precision))
    assert found.lowest_spearman >= 0.99
    assert found.same_best >= 0.95
    assert found.lowest_cosine >= 0.997


def test_a_coarser_precision_would_be_seen(embedded: Embedded, tmp_path: Path) -> None:
    """With vectors rounded to a few levels the check fails."""
    vectors = embedded("f32")
    coarse = np.round(vectors * 16) / 16
    coarse /= np.linalg.norm(coarse, axis=1, keepdims=True)
    assert agreement(vectors, coarse).lowest_spearman < 0.99
