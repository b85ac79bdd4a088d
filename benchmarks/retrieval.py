"""Whether a precision ranks passages as f32 does, on real text.

    python benchmarks/retrieval.py [--model NAME=FOLDER] [--precisions bf16 int8 int8-dynamic] [--pairs 200]

The first sentence of a docstring is a query and the rest of it a passage; each query is held against all passages. Run
it with Quartzite's environment.
"""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quartzite.admission.gate import Caller, Permit
from quartzite.bootstrap import running
from quartzite.config import DEFAULT_MODEL, CacheSettings, EngineSettings, ModelSettings, RequestSettings, Settings
from quartzite.domain import EmbeddingRequest, TextItem
from texts import english

LIST = 32
PASSAGE_CHARACTERS = 800


@dataclass(frozen=True)
class Agreement:
    """How two precisions agree: Spearman's rank correlation by query, equal best passages, and cosines of vectors."""

    mean_spearman: float
    lowest_spearman: float
    same_best: float
    lowest_cosine: float


def pairs(count: int) -> list[str]:
    """Return `count` queries, and then the passage of each."""
    parted = [text.split("\n\n", 1) for text in english() if "\n\n" in text]
    wanted = [part for part in parted if 20 <= len(part[0]) <= 120 and 60 <= len(part[1]) <= PASSAGE_CHARACTERS]
    return [query for query, _ in wanted[:count]] + [passage for _, passage in wanted[:count]]


def agreement(one: Any, other: Any) -> Agreement:
    """Compare two sets of unit vectors float32 (2 N, D), queries first."""
    tables = [vectors[: len(vectors) // 2] @ vectors[len(vectors) // 2 :].T for vectors in (one, other)]
    ranks = [table.argsort(axis=1).argsort(axis=1) for table in tables]
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(*ranks, strict=True)]
    best, other_best = (table.argmax(axis=1) for table in tables)
    cosines = (one * other).sum(axis=1)
    return Agreement(
        float(np.mean(correlations)), float(min(correlations)), float(np.mean(best == other_best)), float(cosines.min())
    )


async def embed(model: ModelSettings, precision: str, texts: Sequence[str], cache: Path) -> Any:
    """Return the unit vectors float32 (N, D) of `texts`, each embedded as a server in `precision` would."""
    settings = Settings(
        models=(model,),
        engine=EngineSettings(precision=precision),  # type: ignore[arg-type]
        requests=RequestSettings(timeout_ms=3_600_000),
        cache=CacheSettings(folder=str(cache)),
    )
    async with running(settings, progress=False) as service:
        lists = [tuple(map(TextItem, texts[at : at + LIST])) for at in range(0, len(texts), LIST)]
        calls = [EmbeddingRequest(model.name, items, truncate="right") for items in lists]
        permit = Permit(Caller(None, "retrieval"))
        answers = await asyncio.gather(*(service.pipeline.embed(call, permit) for call in calls))
    return np.concatenate([answer.vectors for answer in answers])


def main() -> None:
    """Print how each precision agrees with f32."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--precisions", nargs="+", default=["bf16", "int8", "int8-dynamic"])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--cache", type=Path, default=CacheSettings().path)
    arguments = parser.parse_args()
    name, _, folder = arguments.model.partition("=")
    model, texts = ModelSettings(name=name, folder=folder or None), pairs(arguments.pairs)
    truth = asyncio.run(embed(model, "f32", texts, arguments.cache))
    print("| precision | Spearman, mean | lowest | same best passage | lowest cosine |\n|---|---:|---:|---:|---:|")
    for precision in arguments.precisions:
        found = agreement(truth, asyncio.run(embed(model, precision, texts, arguments.cache)))
        print(
            f"| {precision} | {found.mean_spearman:.4f} | {found.lowest_spearman:.4f} | {found.same_best:.1%} "
            f"| {found.lowest_cosine:.5f} |"
        )


if __name__ == "__main__":
    main()
