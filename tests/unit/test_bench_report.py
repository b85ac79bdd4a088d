"""Tables of the benchmarks: medians, who is best, and what is said of Quartzite."""

import copy
from typing import Any

import pytest

import measuring
import origin
import service
import service_report
from service_report import COLUMNS, Column

LATENCY, RATE = COLUMNS[0], Column("chunks", "tokens_per_s", "chunks", "{:,.0f}")


def rounds(figure: str, *values: float) -> list[dict[str, float]]:
    return [{figure: value} for value in values]


WORKLOADS: dict[str, Any] = {
    "queries-1": {
        "quartzite": rounds("p50_ms", 2.0),
        "vllm": rounds("p50_ms", 6.0),
        "llama": rounds("p50_ms", 5.0),
    },
    "chunks": {
        "quartzite": rounds("tokens_per_s", 10.0, 90.0, 30.0),
        "quartzite-int8": rounds("tokens_per_s", 500.0),
        "bare": rounds("tokens_per_s", 40.0),
        "product": [{"tokens_per_s": 60.0, "gflops": 900.0}],
        "vllm": rounds("tokens_per_s", 10.0),
        "llama": rounds("tokens_per_s", 15.0),
    },
}
RESULTS = {
    "machine": {"processor": "a processor"},
    "date": "2026-01-01",
    "commit": "abc",
    "measured": {"minilm": WORKLOADS},
    "servers": {"minilm": {"quartzite": {"starts_s": [1.0, 3.0, 2.0], "cosine": 0.9999}, "st-onnx": {"failed": "no"}}},
}


def test_the_median_of_rounds_counts() -> None:
    """Of three rounds the middle one is told."""
    assert service_report.figure_of(WORKLOADS, RATE, "quartzite") == 30.0


def test_the_best_peer_is_neither_quartzite_nor_a_limit() -> None:
    """Quartzite's other precision and bare OpenVINO are faster and are no peers."""
    assert service_report.best_peer(WORKLOADS, RATE) == ("llama", 15.0)


@pytest.mark.parametrize(("column", "times"), [(LATENCY, 2.5), (RATE, 2.0)])
def test_a_ratio_above_one_is_better(column: Column, times: float) -> None:
    """Twice the rate of the best peer and half its latency are both told as two."""
    assert service_report.ratio(WORKLOADS, column) == pytest.approx(times)


def test_the_page_tells_limits_and_failures() -> None:
    """The page holds shares of both limits, the median start, and who did not run."""
    page = service_report.page(RESULTS)
    assert "75% of bare OpenVINO" in page
    assert "50% of bare products (900 GFLOP/s)" in page
    assert "| 2.00 | 0.999900 |" in page
    assert "sentence-transformers, ONNX f32 did not run" in page


def test_the_readme_names_the_best_peer() -> None:
    """Each row has Quartzite's figure, the best peer's with its name, and the ratio."""
    assert "| chunks, tokens/s | 30 | 15 (llama-cpp-python f16) | 2.0 |" in service_report.readme(RESULTS)


def test_the_readme_does_not_round_a_lead_of_others_away() -> None:
    """Where a peer is ahead by a twentieth the ratio says so."""
    results: dict[str, Any] = copy.deepcopy(RESULTS)
    results["measured"]["minilm"]["chunks"]["quartzite"] = rounds("tokens_per_s", 14.25)
    assert "| chunks, tokens/s | 14 | 15 (llama-cpp-python f16) | 0.95 |" in service_report.readme(results)


def test_what_a_broken_off_run_measured_is_kept(tmp_path: Any) -> None:
    """Every turn is on disk at once; a new run replaces a workload whole and leaves the others."""
    first = service.Results(tmp_path / "r", add=False)
    first.add_turn("minilm", "chunks", "quartzite", {"tokens_per_s": 1.0})
    first.add_turn("minilm", "chunks", "vllm", {"tokens_per_s": 2.0})
    first.add_turn("minilm", "long", "vllm", {"tokens_per_s": 3.0})
    service.Results(tmp_path / "r", add=False).add_turn("minilm", "chunks", "quartzite", {"tokens_per_s": 4.0})
    service.Results(tmp_path / "r", add=True).add_turn("minilm", "chunks", "quartzite", {"tokens_per_s": 5.0})
    measured = service.json.loads((tmp_path / "r.json").read_text("utf-8"))["measured"]["minilm"]
    assert measured["chunks"] == {"quartzite": rounds("tokens_per_s", 4.0, 5.0)}
    assert measured["long"] == {"vllm": rounds("tokens_per_s", 3.0)}


ANOTHER = {"machine": {"processor": "another", "flags": "amx"}, "date": "2026-02-02", "commit": "def"}


def test_a_file_with_one_machine_for_all_is_read() -> None:
    """Every workload and server of such a file comes from that machine, and the page says so once a model."""
    told = origin.told_apart(RESULTS)
    assert told["origins"]["minilm"]["chunks"] == [
        {"machine": RESULTS["machine"], "date": "2026-01-01", "commit": "abc"}
    ]
    assert told["servers"]["minilm"]["quartzite"]["machine"] == RESULTS["machine"]
    assert service_report.page(RESULTS).count("Machine: a processor; 2026-01-01 at abc.") == 1


def test_figures_of_two_machines_never_share_a_table(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workload measured anew elsewhere leaves the table, with its ratio and facts of servers."""
    (tmp_path / "r.json").write_text(service.json.dumps(RESULTS), "utf-8")
    monkeypatch.setattr(origin, "here", lambda: ANOTHER)
    results = service.Results(tmp_path / "r", add=True)
    results.add_turn("minilm", "chunks", "quartzite", {"tokens_per_s": 8.0})
    results.add_turn("minilm", "chunks", "vllm", {"tokens_per_s": 2.0})
    results.add_server("minilm", "quartzite", {"starts_s": [7.0]})
    told = service.json.loads((tmp_path / "r.json").read_text("utf-8"))
    before, after = service_report.page(told).split("Machine: another; amx; 2026-02-02 at def.")
    assert "Machine: a processor; 2026-01-01 at abc." in before
    assert "| server | 1 client, p50 ms | peak MiB" in before
    assert "7.00" not in before
    assert "| Quartzite bf16 | 8 |  |  | 7.00 |" in after
    assert "| **Quartzite to the best peer** | 4.00 |" in after
    readme = service_report.readme(told)
    assert (
        readme.index("Machine: a processor; 2026-01-01.") < readme.index("1 client") < readme.index("Machine: another")
    )
    assert (
        "| chunks, tokens/s | 8 | 2 (vLLM bf16, all cores) | 4.0 |"
        in readme.partition("Machine: another; amx; 2026-02-02.")[2]
    )


def test_rounds_are_added_to_those_of_the_same_machine_only(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a later commit adds is told beside the earlier one; another machine's rounds are replaced."""
    later = ANOTHER | {"commit": "later"}
    for where, rate in ((ANOTHER, 1.0), (later, 2.0)):
        monkeypatch.setattr(origin, "here", lambda where=where: where)
        service.Results(tmp_path / "r", add=True).add_turn("minilm", "long", "quartzite", {"tokens_per_s": rate})
    told = service.json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert told["measured"]["minilm"]["long"]["quartzite"] == rounds("tokens_per_s", 1.0, 2.0)
    assert "2026-02-02 at def, 2026-02-02 at later." in service_report.page(told)
    monkeypatch.setattr(origin, "here", lambda: later | {"machine": {"processor": "a third", "flags": "amx"}})
    service.Results(tmp_path / "r", add=True).add_turn("minilm", "long", "quartzite", {"tokens_per_s": 3.0})
    told = service.json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert told["measured"]["minilm"]["long"]["quartzite"] == rounds("tokens_per_s", 3.0)


def test_what_servers_are_warmed_up_with_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that keeps what it has computed of a text gains nothing by its warm-up, nor by an earlier round."""
    draws = iter(range(100))
    warmed: list[Any] = []
    measured: list[Any] = []

    class Drawing:
        source = pace = None

        def start(self, name: str, _stack: object) -> str:
            return name

        def turn(self, name: str, _server: object, _workload: str, batches: int) -> None:
            measured.append((name, batches))

    workload = measuring.Workload(draw=lambda _source, _pace: next(draws), put=lambda *_: {})  # type: ignore[arg-type,return-value]
    monkeypatch.setitem(service.WORKLOADS, "queries-1", workload)
    monkeypatch.setattr(service, "warm_up", lambda server, batches: warmed.append((server, batches)))
    service.measure(Drawing(), ["quartzite", "vllm"], ["queries-1"], 2)  # type: ignore[arg-type]
    assert warmed == [("quartzite", 0), ("vllm", 0)]
    assert measured == [("quartzite", 1), ("vllm", 1), ("vllm", 2), ("quartzite", 2)]
