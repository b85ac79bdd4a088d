"""Cost against length: one text alone in the engine, its time, and the memory it takes above an idle engine.

    .venv/bin/python benchmarks/length.py --models bge-m3 --lengths 1024 2048 --rounds 5

Before and after every text one of 512 tokens is measured, so that its cost a token can be held against that of a text
in the same moment: a machine may be twice as fast a second later. What is measured replaces what
`benchmarks/results/length.json` has of that model and length; `length.md` is written anew from all of it.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

import length_report
import origin
from memory import Memory, anonymous_bytes
from quartzite.config import EngineSettings
from quartzite.domain import Encoded
from quartzite.engines.openvino.engine import OpenVinoEngine, load, product_parameters
from quartzite.registry.card import ModelCard, Qwen3Shape, Qwen3VlShape
from quartzite.registry.folder import read_card
from subjects import CACHE, PYTHON, SUBJECTS, make_folder

RESULTS = Path(__file__).resolve().parent / "results" / "length.json"
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
MIB = 2**20


class Subject:
    """One model's engine, and texts for it."""

    def __init__(self, name: str, precision: str) -> None:
        self.memory = Memory(every_s=0.005)
        folder = make_folder(SUBJECTS[name], PYTHON, CACHE)
        self.card: ModelCard = read_card(name, folder, None)
        settings = EngineSettings(precision=precision)  # type: ignore[arg-type]
        self.engine: OpenVinoEngine = load(self.card, settings, CACHE)
        self._seeds = count()
        self._idle_bytes = anonymous_bytes()

    def seconds(self, tokens: int) -> float:
        """Return the seconds that a text of so many tokens, random ones, takes alone."""
        ids = np.random.default_rng(next(self._seeds)).integers(5, self.card.shape.vocabulary, tokens)
        begun = time.perf_counter()
        if not np.isfinite(asyncio.run(self.engine.embed([Encoded(ids.astype(np.int32))]))).all():
            raise SystemExit("a vector is not finite")
        return time.perf_counter() - begun

    def above_idle_mib(self, tokens: int) -> float:
        """Return the most memory that a text takes above the idle engine; ask for shorter texts first: some is kept."""
        self.memory.peak_bytes = 0
        self.seconds(tokens)
        return (max(self.memory.peak_bytes, anonymous_bytes()) - self._idle_bytes) / MIB

    def turn(self, tokens: int) -> dict[str, float]:
        """Return the seconds of a text, and of the shorter ones around it."""
        before = self.seconds(length_report.REFERENCE)
        seconds = self.seconds(tokens)
        return {"seconds": seconds, "reference_s": (before + self.seconds(length_report.REFERENCE)) / 2}

    def arithmetic(self, tokens: int) -> dict[str, Any]:
        """Return what is known beforehand: attention's share of the arithmetic, and the size of a mask of S x S."""
        shape = self.card.shape
        assert not isinstance(shape, Qwen3VlShape)
        causal = isinstance(shape, Qwen3Shape)
        width = shape.heads * shape.head_size if isinstance(shape, Qwen3Shape) else shape.hidden
        keys = (tokens + min(tokens, self.engine.shape.tokens)) / 2 if causal else tokens
        attention = 4 * shape.layers * width * keys
        share = attention / (attention + 2 * product_parameters(shape))
        return {"attention_share": share, "mask_mib": 4 * tokens**2 / MIB, "how": self.engine.arithmetic}


def measure(subject: Subject, lengths: Sequence[int], rounds: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield what is known of each length after every turn: memory comes first, then times, round by round."""
    found: dict[int, dict[str, Any]] = {length: subject.arithmetic(length) for length in sorted(lengths)}
    for length, facts in found.items():
        facts |= {"above_idle_mib": subject.above_idle_mib(length), "turns": []}
    for length, facts in islice(cycle(found.items()), rounds * len(found)):
        facts["turns"].append(subject.turn(length))
        print(f"  {length}: {facts['above_idle_mib']:.0f} MiB, {facts['turns'][-1]}", flush=True)
        yield length, facts


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SUBJECTS, default=["bge-m3", "qwen3-0.6b"])
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("f32", "bf16", "int8", "int8-dynamic"), default="bf16")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    results: dict[str, Any] = json.loads(asked.results.read_text("utf-8")) if asked.results.exists() else {}
    here = origin.here()
    for name in asked.models:
        subject = Subject(name, asked.precision)
        known = results.setdefault(name, {})
        print(f"{SUBJECTS[name].name}: {subject.engine.arithmetic}", flush=True)
        for length, facts in measure(subject, asked.lengths, asked.rounds):
            known[str(length)] = facts | here
            asked.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            asked.results.with_suffix(".md").write_text(length_report.page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
