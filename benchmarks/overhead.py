"""What a query costs over HTTP beyond the engine: one client and the bare engine, the same texts, in alternation.

    .venv/bin/python benchmarks/overhead.py [--rounds 12] [--precision bf16]

The bare engine is given the token ids of one text at a time, in a process of its own; what is told is the difference of
the two medians of a round. Results land in `benchmarks/results/overhead.md` and `.json`.
"""

import argparse
import json
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from client import closed, post, run
from contenders import Site, quartzite
from engine import worker
from origin import here
from server import Server, free_port
from subjects import CACHE, PYTHON, SUBJECTS, make_folder
from texts import english
from workloads import MODEL, PATH

RESULTS = Path(__file__).parent / "results"
QUERIES = 150
CHARACTERS = 60
WARM_UP = 4
TARGET_MS = 0.35


def main() -> None:
    """Measure, and write the results as JSON and as a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rounds = measure(arguments.precision, arguments.rounds, arguments.cache)
    measured = {"origin": here(), "precision": arguments.precision, "rounds_ms": rounds}
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "overhead.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    (arguments.results / "overhead.md").write_text(page(measured), encoding="utf-8")
    print(page(measured))


def measure(precision: str, rounds: int, cache: Path) -> list[dict[str, float]]:
    """Return for each round the medians in milliseconds over HTTP and of the bare engine."""
    folder = make_folder(SUBJECTS["minilm"], PYTHON, cache)
    texts = [text[:CHARACTERS] for text in english()[:QUERIES]]
    requests = [post(PATH, {"model": MODEL, "input": text, "encoding_format": "float"}) for text in texts]
    port = free_port()
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        site = Site(folder, SUBJECTS["minilm"], cache, port)
        server = Server(quartzite(precision)(site), port, logs / "server.log")
        stack.callback(server.stop)
        server.wait_for_vector()
        server.freeze()
        bare = stack.enter_context(worker(PYTHON, "lone_worker.py"))
        bare("load", folder=str(folder), precision=precision, texts=texts)

        def over_http() -> float:
            server.thaw()
            load = run(closed(port, requests, 1))
            server.freeze()
            if load.statuses() != {200: QUERIES}:
                raise SystemExit(f"answers other than 200: {load.statuses()}")
            return statistics.median(load.latencies()) * 1e3

        def alone() -> float:
            return statistics.median(bare("run", count=QUERIES)["seconds"]) * 1e3

        for _ in range(WARM_UP):
            over_http()
        return [{"http": over_http(), "engine": alone()} for _ in range(rounds)]


def page(measured: dict[str, Any]) -> str:
    """Return the page: medians of the rounds, and of their differences."""
    rounds, origin = measured["rounds_ms"], measured["origin"]
    beyond = sorted(one["http"] - one["engine"] for one in rounds)
    lower, upper = beyond[len(beyond) // 4], beyond[-1 - len(beyond) // 4]
    return "\n".join(
        [
            "# A query over HTTP and in the bare engine",
            "",
            f"MiniLM, {measured['precision']}, one client, texts of at most {CHARACTERS} characters; {len(rounds)} "
            f"rounds of {QUERIES} queries and as many runs of the bare engine in alternation. Written by "
            f"`make bench-overhead` on {origin['date']} at {origin['commit']}. "
            f"Machine: {'; '.join(origin['machine'].values())}.",
            "",
            "| over HTTP, p50 | bare engine, p50 | HTTP beyond the engine | half of the rounds | target |",
            "|--:|--:|--:|--:|--:|",
            f"| {_median(rounds, 'http'):.2f} ms | {_median(rounds, 'engine'):.2f} ms | "
            f"{statistics.median(beyond):.2f} ms | {lower:.2f} to {upper:.2f} ms | {TARGET_MS} ms |",
            "",
        ]
    )


def _median(rounds: list[dict[str, float]], figure: str) -> float:
    return statistics.median(one[figure] for one in rounds)


if __name__ == "__main__":
    main()
