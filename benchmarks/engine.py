"""Tokens per second of Quartzite's engine, of bare OpenVINO and of sentence-transformers, in one run, alternating.

    python benchmarks/engine.py [--models minilm bge-large qwen3-0.6b] [--rounds 5]

Run it with the reference environment; Quartzite's own workers run in `--python`. Each round every contender embeds the
same texts once, one after the other, so a drift of the machine's speed meets all of them. Results land in
`benchmarks/results/`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from report import write
from subjects import CACHE, PYTHON, SUBJECTS, Subject, machine, make_folder
from texts import draw

HERE = Path(__file__).resolve().parent
BARE_SECONDS = 3.0
RESULTS = HERE / "results" / "engine"
PRECISIONS = ("bf16", "int8", "int8-dynamic")


@dataclass
class Contender:
    """One way of computing the vectors, and what it reached in each round: tokens per second."""

    name: str
    run: Callable[[], float]
    rates: list[float] = field(default_factory=list)


class Process:
    """A worker program; calls are JSON lines."""

    def __init__(self, python: Path, script: str) -> None:
        self._process = subprocess.Popen(
            [python, HERE / "workers" / script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have the worker do something and return its answer."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended while asked to {do}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    @property
    def pid(self) -> int:
        """Return the process's number."""
        return self._process.pid

    def close(self) -> None:
        """End the worker."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def worker(python: Path, script: str) -> Iterator[Process]:
    """Run a worker for the length of the `with`."""
    process = Process(python, script)
    try:
        yield process
    finally:
        process.close()


def compare(subject: Subject, folder: Path, python: Path, rounds: int) -> dict[str, Any]:
    """Return the result of one model: medians of tokens per second, and cosines against PyTorch in f32."""
    texts = draw(subject.texts)
    with ExitStack() as stack:
        ours = {name: stack.enter_context(worker(python, "quartzite_worker.py")) for name in (*PRECISIONS, "bare")}
        torch = stack.enter_context(worker(Path(sys.executable), "torch_worker.py"))
        told = {name: ours[name]("load", folder=str(folder), precision=name) for name in PRECISIONS}
        shapes = ours["bare"]("load_bare", folder=str(folder), precision="bf16")["shapes"]
        torch("load", folder=str(folder), precisions=["f32", "bf16"])
        tokens = ours["bf16"]("encode", texts=texts)["tokens"]
        cosines = _cosines(ours, torch, texts[:32])
        contenders = _contenders(ours, torch, texts, tokens, shapes)
        for turn in range(rounds):
            for contender in contenders:
                contender.rates.append(contender.run())
                print(f"  round {turn + 1}: {contender.name}: {contender.rates[-1]:,.0f} tokens/s", flush=True)
    return {
        "model": subject.name,
        "texts": subject.texts,
        "tokens": tokens,
        "how": {name: answer["how"] for name, answer in told.items()},
        "load_s": {name: answer["load_s"] for name, answer in told.items()},
        "lowest_cosine_to_torch_f32": cosines,
        "tokens_per_s": {c.name: {"median": statistics.median(c.rates), "rounds": c.rates} for c in contenders},
    }


def _contenders(
    ours: dict[str, Process], torch: Process, texts: list[str], tokens: int, shapes: list[str]
) -> list[Contender]:
    best = max(shapes, key=lambda shape: _rate(ours["bare"]("rate_bare", shape=shape, seconds=BARE_SECONDS / 3)))
    quick = min((8, 32), key=lambda size: torch("encode", texts=texts, precision="bf16", batch_size=size)["seconds"])

    def own(name: str) -> Callable[[], float]:
        return lambda: tokens / ours[name]("encode", texts=texts)["seconds"]

    def reference(name: str) -> Callable[[], float]:
        return lambda: tokens / torch("encode", texts=texts, precision=name, batch_size=quick)["seconds"]

    return [
        Contender("Quartzite bf16", own("bf16")),
        Contender(
            f"bare OpenVINO bf16, {best}", lambda: _rate(ours["bare"]("rate_bare", shape=best, seconds=BARE_SECONDS))
        ),
        *(Contender(f"Quartzite {name}", own(name)) for name in PRECISIONS[1:]),
        Contender(f"PyTorch bf16, batches of {quick}", reference("bf16")),
        Contender(f"PyTorch f32, batches of {quick}", reference("f32")),
    ]


def _rate(answer: dict[str, Any]) -> float:
    rate: float = answer["tokens"] / answer["seconds"]
    return rate


def _cosines(ours: dict[str, Process], torch: Process, texts: list[str]) -> dict[str, float]:
    truth = torch("encode", texts=texts, precision="f32", with_vectors=True)["vectors"]
    found = {f"Quartzite {name}": ours[name]("encode", texts=texts, with_vectors=True) for name in PRECISIONS}
    found["PyTorch bf16"] = torch("encode", texts=texts, precision="bf16", with_vectors=True)
    return {name: min(map(_dot, truth, answer["vectors"])) for name, answer in found.items()}


def _dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _kept(renewed: list[str]) -> list[dict[str, Any]]:
    """Return the results of models that are not `renewed`, where they were measured on this machine."""
    if not RESULTS.with_suffix(".json").exists():
        return []
    before = json.loads(RESULTS.with_suffix(".json").read_text(encoding="utf-8"))
    if before["machine"] != machine():
        return []
    return [result for result in before["results"] if result["model"] not in renewed]


def main() -> None:
    """Compare the asked-for models and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models",
        nargs="+",
        choices=[name for name, subject in SUBJECTS.items() if subject.texts],
        default=["minilm", "bge-large", "qwen3-0.6b"],
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", type=Path, default=PYTHON, help="Quartzite's environment")
    parser.add_argument("--cache", type=Path, default=CACHE)
    arguments = parser.parse_args()
    results = _kept([SUBJECTS[name].name for name in arguments.models])
    for name in arguments.models:
        print(SUBJECTS[name].name, flush=True)
        folder = make_folder(SUBJECTS[name], arguments.python, arguments.cache)
        results.append(compare(SUBJECTS[name], folder, arguments.python, arguments.rounds))
        # After every model: a run that is broken off keeps what it has measured.
        order = [subject.name for subject in SUBJECTS.values()]
        results.sort(key=lambda result: order.index(result["model"]))
        write({"machine": machine(), "date": time.strftime("%Y-%m-%d"), "results": results}, RESULTS)


if __name__ == "__main__":
    main()
