"""Memory and time of Qwen3-VL at full size with random weights: loading, texts, pictures; one process a precision.

    .venv/bin/python benchmarks/pictures.py --model 8b --precision int8 --inputs text 640x480 1920x1080

Makes the model's folder on first use (16 GB for 8b, in ~/.cache/quartzite/bench). What is measured joins what
`benchmarks/results/pictures.json` has already, and `pictures.md` is written anew from all of it.
"""

import argparse
import asyncio
import datetime
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memory import Memory, anonymous_bytes
from quartzite.config import EngineSettings
from quartzite.domain import Encoded, Picture
from quartzite.engines.openvino.engine import OpenVinoEngine, load
from quartzite.registry.folder import read_card
from subjects import CACHE, PYTHON, Subject, machine, make_folder

RESULTS = Path(__file__).resolve().parent / "results" / "pictures.json"
GIB = 2**30
MODELS = {
    size: Subject(f"Qwen3-VL-Embedding-{size.upper()}", f"Qwen/Qwen3-VL-Embedding-{size.upper()}", None, 0, 32768)
    for size in ("2b", "8b")
}
# Height and width as pictures of these sizes come to the network; a text has no picture.
INPUTS = {"text": None, "64x64": (64, 64), "640x480": (480, 640), "1920x1080": (992, 1792)}
FRAME, TEXT = 20, 108
"""Tokens of the prompt's frame, and of the text in it."""


def item(kind: str, seed: int) -> Encoded:
    """Return an input of a kind, its text and pixels random."""
    generator = np.random.default_rng(seed)
    size = INPUTS[kind]
    if size is None:
        return Encoded(generator.integers(5, 150_000, FRAME + TEXT).astype(np.int32))
    picture = Picture(generator.integers(0, 256, (*size, 3), dtype=np.uint8))
    ids = np.full(FRAME + 2 + picture.tokens, 151655, dtype=np.int32)
    return Encoded(ids, picture, picture_at=15)


def timed(engine: OpenVinoEngine, alone: Encoded) -> float:
    """Return the seconds that an item takes."""
    start = time.perf_counter()
    if not np.isfinite(asyncio.run(engine.embed([alone]))).all():
        raise SystemExit("a vector is not finite")
    return time.perf_counter() - start


def measure(model: str, precision: str, kinds: Sequence[str], rounds: int) -> Iterator[dict[str, Any]]:
    """Yield what loading takes, and then each kind of input with it: seconds, and the most anonymous memory in GiB."""
    folder = make_folder(MODELS[model], PYTHON, CACHE)
    memory = Memory()
    card = read_card(MODELS[model].name, folder, None)
    start = time.perf_counter()
    engine = load(card, EngineSettings(precision=precision), CACHE)  # type: ignore[arg-type]
    found: dict[str, Any] = {
        "load_s": time.perf_counter() - start,
        "loaded_gib": anonymous_bytes() / GIB,
        "load_peak_gib": memory.peak_bytes / GIB,
        "streams": engine.streams,
        "inputs": {},
    }
    yield found
    for kind in kinds:
        memory.peak_bytes = 0
        alone = [timed(engine, item(kind, seed)) for seed in range(rounds)]
        found["inputs"][kind] = {"tokens": item(kind, 0).tokens, "alone_s": min(alone)}
        found["inputs"][kind]["peak_gib"] = memory.peak_bytes / GIB
        print(model, precision, kind, found["inputs"][kind], flush=True)
        yield found


def joined(before: dict[str, Any], model: str, precision: str, found: dict[str, Any]) -> dict[str, Any]:
    """Return the results with those of one run added: its own figures replace earlier ones."""
    results = dict(before.get("results", {}))
    name = f"{model} {precision}"
    inputs = {**results.get(name, {}).get("inputs", {}), **found["inputs"]}
    results[name] = {**found, "inputs": {kind: inputs[kind] for kind in INPUTS if kind in inputs}}
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": date, "machine": machine(), "results": dict(sorted(results.items()))}


def page(measured: dict[str, Any]) -> str:
    """Return the results as a page of Markdown."""
    lines = [
        "# Qwen3-VL at full size",
        "",
        f"Made by `benchmarks/pictures.py` on {measured['date']}. Machine: {'; '.join(measured['machine'].values())}.",
        "",
        "Random weights of the true layout. Memory is what the process holds that no file backs (anonymous pages, "
        "sampled every 20 ms): it cannot be given up, while the pages of the mapped weights can. With "
        "one stream an item alone has all cores, with two it has one (decision 57). Best of the rounds.",
        "",
    ]
    for name, found in measured["results"].items():
        lines += [
            f"## {name}",
            "",
            f"Loaded in {found['load_s']:.0f} s, holds {found['loaded_gib']:.1f} GiB, "
            f"at most {found['load_peak_gib']:.1f} GiB while loading. Streams of the engine: {found['streams']}.",
            "",
            "| input | tokens | alone, s | most memory, GiB |",
            "|---|---:|---:|---:|",
        ]
        lines += [_row(kind, row) for kind, row in found["inputs"].items()]
        lines.append("")
    return "\n".join(lines)


def _row(kind: str, row: dict[str, float]) -> str:
    return f"| {kind} | {row['tokens']} | {row['alone_s']:.2f} | {row['peak_gib']:.1f} |"


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description="Measure Qwen3-VL at full size.")
    parser.add_argument("--model", choices=MODELS, default="8b")
    parser.add_argument("--precision", choices=("f32", "bf16", "int8"), default="bf16")
    parser.add_argument("--inputs", nargs="+", choices=INPUTS, default=["text", "640x480"])
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for found in measure(options.model, options.precision, options.inputs, options.rounds):
        measured = joined(before, options.model, options.precision, found)
        RESULTS.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
        RESULTS.with_suffix(".md").write_text(page(measured), encoding="utf-8")


if __name__ == "__main__":
    main()
