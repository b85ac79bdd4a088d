"""Quartzite and its peers over HTTP on loopback: same weights, same texts, same client, alternating in one run.

    python benchmarks/service.py [--models minilm] [--workloads queries-64 chunks] [--contenders quartzite vllm]

Every server is started once, asked for its first vector, warmed up and then frozen; in each round each is let go on for
its turn alone, in each round another one first. Figures are kept after every turn in `benchmarks/results/service.json`,
so that a run may be broken off, and workloads may be measured one by one; `--add` adds rounds to those that are there.
It runs in `.venv`.
"""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import origin
import service_report
from bare import BARE, LIMITED, Limits
from client import closed, run
from contenders import CACHED, CONTENDERS, Contender, Site
from measuring import PACES, WORKLOADS, Figures, rotated
from server import OthersWatch, Server, ServerFailed, free_port, wait_until_still
from service_report import NAMES
from subjects import CACHE, PYTHON, ROOT, SUBJECTS, make_folder
from workloads import Batch, Ruler, Source

RESULTS = ROOT / "benchmarks" / "results" / "service"
TRUTH = "st-f32"
COMPARED = 32
DISTURBED = 0.1
"""Share of the processors from which on others disturb a turn."""


class Results:
    """The results file: what was measured by model, workload and contender, where, and facts of each server."""

    def __init__(self, stem: Path, add: bool) -> None:
        self._stem, self._add = stem, add
        self._fresh: set[tuple[str, str]] = set()
        self._file = stem.with_suffix(".json")
        self._all = origin.told_apart(json.loads(self._file.read_text("utf-8")) if self._file.exists() else {})
        self._here = origin.here()

    def add_turn(self, model: str, workload: str, contender: str, figures: dict[str, float]) -> None:
        """Keep the figures of one turn; the first of a run replaces what was there, unless rounds are added.

        Rounds of another machine are replaced all the same: medians of two machines would be those of neither.
        """
        workloads = self._all["measured"].setdefault(model, {})
        origins = self._all["origins"].setdefault(model, {})
        if (model, workload) not in self._fresh and not (self._add and self._is_from_here(origins.get(workload, []))):
            workloads[workload], origins[workload] = {}, []
        self._fresh.add((model, workload))
        workloads[workload].setdefault(contender, []).append(figures)
        if self._here not in origins[workload]:
            origins[workload].append(self._here)
        self.save()

    def _is_from_here(self, origins: list[origin.Origin]) -> bool:
        return bool(origins) and origin.is_same(origins[-1]["machine"], self._here["machine"])

    def add_server(self, model: str, contender: str, facts: dict[str, Any]) -> None:
        """Keep what is known of a server besides its speed; starts are gathered, those on one machine."""
        servers = self._all["servers"].setdefault(model, {})
        known = servers.setdefault(contender, {})
        if not origin.is_same(known.get("machine", {}), self._here["machine"]):
            known = servers[contender] = {"machine": self._here["machine"]}
        starts = [*known.get("starts_s", []), *facts.pop("starts_s", [])][-5:]
        if "failed" not in facts:
            known.pop("failed", None)
        known.update(facts | ({"starts_s": starts} if starts else {}))
        self.save()

    def save(self) -> None:
        """Write everything, whole or not at all."""
        self._stem.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".draft")
        draft.write_text(json.dumps(self._all, indent=1) + "\n", encoding="utf-8")
        draft.replace(self._file)

    def tell(self) -> None:
        """Write and print the table, if there is something to tell."""
        if not self._all["measured"]:
            return
        page = service_report.page(self._all)
        self._stem.with_suffix(".md").write_text(page, encoding="utf-8")
        print(page)


class Bench:
    """One model: its servers, and the texts that they are sent."""

    def __init__(self, model: str, results: Results, cache: Path, retries: int) -> None:
        self.model, self.results, self.cache, self.retries = model, results, cache, retries
        subject = SUBJECTS[model]
        folder = make_folder(subject, PYTHON, cache)
        self.site = Site(folder, subject, cache)
        self.source = Source(Ruler(folder / "tokenizer.json", subject.max_tokens), cache)
        self.pace = PACES[model]
        self._compared = self.source.queries(COMPARED)

    def start(self, name: str, stack: ExitStack) -> Server | None:
        """Start a contender and leave it frozen; None if it does not start, which is noted."""
        try:
            server = self._started(name, stack)
            vectors = self._vectors(server)
        except (ServerFailed, subprocess.CalledProcessError) as failure:
            self.note_failure(name, failure)
            return None
        print(f"  {NAMES[name]}: first vector after {server.start_s:.2f} s", flush=True)
        facts: dict[str, Any] = {"starts_s": [server.start_s]}
        if self._is_comparable():
            facts["cosine"] = self._cosine(name, vectors)
        self.results.add_server(self.model, name, facts)
        wait_until_still(server.cpu_s)
        server.freeze()
        return server

    def note_failure(self, name: str, failure: Exception) -> None:
        """Keep and tell why a server is out of the comparison."""
        print(f"  {NAMES[name]}: {failure}", flush=True)
        self.results.add_server(self.model, name, {"failed": str(failure)[-500:]})

    def _started(self, name: str, stack: ExitStack) -> Server:
        contender = CONTENDERS[name]
        site = Site(self.site.folder, self.site.subject, self.site.cache, free_port())
        if contender.prepare:
            contender.prepare(site)
        server = Server(contender.command(site), site.port, self.cache / "logs" / f"{self.model}-{name}.log")
        stack.callback(server.stop)
        server.wait_for_vector()
        return server

    def _vectors(self, server: Server) -> list[list[float]]:
        """Return the vectors of the compared texts."""
        load = run(closed(server.port, self._compared.requests, 4, keep_bodies=True))
        if len(load.latencies()) < COMPARED:
            raise ServerFailed(f"answers {load.statuses()} to plain queries")
        return [json.loads(answer.body)["data"][0]["embedding"] for _, answer in sorted(load.answers, key=_place)]

    def _is_comparable(self) -> bool:
        """Whether vectors can be held against sentence-transformers', which must be installed or have been asked."""
        if self.site.subject.sees:  # whose vectors of texts no peer has: they know nothing of the prompt
            return False
        return self._truth_file.exists() or CONTENDERS[TRUTH].is_installed(self.cache)

    @property
    def _truth_file(self) -> Path:
        return self.cache / "truth" / f"{self.model}.json"

    def _cosine(self, name: str, vectors: list[list[float]]) -> float:
        """Return the lowest cosine to sentence-transformers in f32, whose vectors are kept in the cache."""
        truth = self._truth_file
        if name == TRUTH or not truth.exists():
            true = vectors if name == TRUTH else self._truth()
            truth.parent.mkdir(parents=True, exist_ok=True)
            truth.write_text(json.dumps(true), encoding="utf-8")
        return min(map(cosine, vectors, json.loads(truth.read_text("utf-8"))))

    def _truth(self) -> list[list[float]]:
        with ExitStack() as stack:
            return self._vectors(self._started(TRUTH, stack))

    def turn(self, name: str, server: Server, workload: str, batches: tuple[Batch, ...]) -> None:
        """Let one server work alone and keep its figures: the least disturbed of the tries."""
        server.thaw()
        figures = min(self._tries(server, workload, batches), key=_others_share)
        memory = server.memory_mib()
        server.freeze()
        self.results.add_turn(self.model, workload, name, figures)
        self.results.add_server(self.model, name, {"peak_mib": memory["peak"], "anonymous_mib": memory["anonymous"]})
        print(f"  {workload}: {NAMES[name]}: {brief(figures)}", flush=True)

    def _tries(self, server: Server, workload: str, batches: tuple[Batch, ...]) -> Iterator[Figures]:
        for _ in range(1 + self.retries):
            with OthersWatch(server.cpu_s) as watch:
                figures = WORKLOADS[workload].put(server, batches, self.pace)
            server.check()
            yield figures | {"others_share": watch.share}
            if watch.share < DISTURBED:
                return

    def _limit_tries(self, limits: Limits) -> Iterator[dict[str, Figures]]:
        for _ in range(1 + self.retries):
            with OthersWatch(limits.cpu_s) as watch:
                turns = limits.turns()
            yield {name: figures | {"others_share": watch.share} for name, figures in turns.items()}
            if watch.share < DISTURBED:
                return

    def limits(self, stack: ExitStack) -> Limits:
        """Make the limits ready."""
        return Limits(self.site.folder, stack)

    def limit_turn(self, limits: Limits, workload: str) -> None:
        """Measure the limits and keep their figures beside those of the servers."""
        turns = min(self._limit_tries(limits), key=lambda turns: _others_share(turns[BARE]))
        for name, figures in turns.items():
            self.results.add_turn(self.model, workload, name, figures)
            print(f"  {workload}: {name}: {brief(figures)}", flush=True)


def brief(figures: dict[str, float]) -> str:
    """Return the figures of a turn on a line."""
    return ", ".join(f"{name} {value:,.4g}" for name, value in figures.items())


def _others_share(figures: Figures) -> float:
    return figures["others_share"]


def _place(answer: tuple[int, Any]) -> int:
    return answer[0]


def cosine(one: list[float], other: list[float]) -> float:
    """Return the cosine of two vectors, whatever their lengths."""
    dot, norms = sum(map(_times, one, other)), sum(map(_times, one, one)) * sum(map(_times, other, other))
    return dot / norms**0.5 if norms else 0.0


def _times(one: float, other: float) -> float:
    return one * other


def measure(bench: Bench, names: list[str], workloads: list[str], rounds: int) -> None:
    """Start all contenders, warm each up with every workload, and measure them in turn, round by round."""
    with ExitStack() as stack:
        servers = {name: server for name in names if name != BARE and (server := bench.start(name, stack))}
        limits = bench.limits(stack) if BARE in names and set(workloads) & set(LIMITED) else None
        for workload in workloads:
            # What servers are warmed up with is not measured: some keep what they have computed of a text.
            drawn = WORKLOADS[workload].draw(bench.source, bench.pace)
            for server in servers.values():
                warm_up(server, drawn)
            for turn in range(rounds):
                drawn = WORKLOADS[workload].draw(bench.source, bench.pace)
                print(f" round {turn + 1}", flush=True)
                for name, server in rotated(list(servers.items()), turn):
                    try:
                        bench.turn(name, server, workload, drawn)
                    except ServerFailed as failure:
                        bench.note_failure(name, failure)
                        del servers[name]
                if limits and workload in LIMITED:
                    bench.limit_turn(limits, workload)


def present(names: list[str], model: str, cache: Path) -> list[str]:
    """Return the contenders that run `model` and whose environments are there; tell of those that are not."""
    able = [name for name in names if name == BARE or _runs(CONTENDERS[name], model)]
    absent = [name for name in able if name != BARE and not CONTENDERS[name].is_installed(cache)]
    if absent:
        print(f"not installed: {', '.join(absent)} (make bench-peers)")
    return [name for name in able if name not in absent]


def _runs(contender: Contender, model: str) -> bool:
    return model not in contender.without and (contender.sees or not SUBJECTS[model].sees)


def warm_up(server: Server, batches: tuple[Batch, ...]) -> None:
    """Send requests of the kind that will be measured: kernels are made and memory is taken then."""
    server.thaw()
    for batch in batches:
        run(closed(server.port, batch.requests[:128], 8 if len(batch.requests) > 100 else 1, 1.0))
    server.freeze()


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SUBJECTS, default=["minilm"])
    parser.add_argument("--workloads", nargs="*", choices=WORKLOADS, default=["queries-1", "queries-64", "chunks"])
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=[*CONTENDERS, BARE],
        default=[*(name for name in CONTENDERS if name != CACHED), BARE],
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--retries", type=int, default=0, help="measure a turn again that others disturbed")
    parser.add_argument("--add", action="store_true", help="add rounds to the results instead of replacing them")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the results' files without their endings")
    parser.add_argument("--cache", type=Path, default=CACHE)
    asked = parser.parse_args()
    # Servers are in sessions of their own: they are ended by this program or not at all, however it is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before everything was measured"))
    results = Results(asked.results, asked.add)
    for model in asked.models:
        print(SUBJECTS[model].name, flush=True)
        bench = Bench(model, results, asked.cache, asked.retries)
        try:
            measure(bench, present(asked.contenders, model, asked.cache), asked.workloads, asked.rounds)
        finally:
            results.tell()


if __name__ == "__main__":
    main()
