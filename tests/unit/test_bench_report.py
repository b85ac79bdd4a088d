"""Tables of the benchmarks: medians, who is best, and what is said of Quartzite."""

from typing import Any

import pytest

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
