"""Metrics: declared once, recorded by name, kept apart between services."""

import re
from typing import Any

import pytest

from quartzite import __version__
from quartzite.domain import MODEL_STATES, Depth, MicroBatchRun, ModelHealth, Timings
from quartzite.telemetry import metrics as declared
from quartzite.telemetry.metrics import METRICS, Metric, Metrics
from quartzite.telemetry.trace import Trace

ANSWERED = Trace("ti_1", "m", items=3, tokens=40, timings=Timings(tokenise_s=0.001, queue_s=0.02, engine_s=0.3))


@pytest.fixture
def metrics() -> Metrics:
    """The metrics of a service with one model, `m`."""
    made = Metrics()
    made.add_model("m", load_s=1.5)
    return made


def value(metrics: Metrics, name: str, **labels: str) -> Any:
    """Return the sample `name` with `labels`, None when there is none."""
    return metrics.registry.get_sample_value(name, labels)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_say_units_and_kinds(metric: Metric) -> None:
    """Counters end in `_total`; times end in `_seconds`; each has a sentence; histograms alone have buckets."""
    assert re.fullmatch(r"quartzite_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not re.search(r"_(ms|s|time|duration)(_|$)", metric.name)
    assert metric.help.endswith(".") or metric.help.endswith("...")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))


def test_every_declaration_is_among_the_metrics() -> None:
    """None is declared and left out, and no name is declared twice."""
    assert set(METRICS) == {value for value in vars(declared).values() if isinstance(value, Metric)}
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_services_in_one_process_count_apart() -> None:
    """What one service records is not seen by another that was made beside it."""
    one, other = Metrics(), Metrics()
    one.limit_hit("m", "TPM")
    assert value(one, "quartzite_limits_hit_total", model="m", limit="TPM") == 1
    assert value(other, "quartzite_limits_hit_total", model="m", limit="TPM") is None


def test_series_of_a_model_begin_at_zero(metrics: Metrics) -> None:
    """Before the first request a served model is there with nothing counted, and the time it took to load."""
    assert value(metrics, "quartzite_tokens_total", model="m") == 0
    assert value(metrics, "quartzite_request_seconds_count", model="m") == 0
    assert value(metrics, "quartzite_model_load_seconds", model="m") == 1.5
    assert value(metrics, "quartzite_build_info", version=__version__) == 1


def test_an_answer_counts_its_items_tokens_and_times(metrics: Metrics) -> None:
    """A 200 is counted by path, model and status, with all that its trace knows."""
    metrics.request("/v1/embeddings", 200, 0.4, ANSWERED)
    assert value(metrics, "quartzite_requests_total", path="/v1/embeddings", model="m", status="200") == 1
    assert value(metrics, "quartzite_items_total", model="m") == 3
    assert value(metrics, "quartzite_tokens_total", model="m") == 40
    assert value(metrics, "quartzite_request_seconds_sum", model="m") == 0.4
    assert value(metrics, "quartzite_tokenise_seconds_sum", model="m") == 0.001
    assert value(metrics, "quartzite_queue_wait_seconds_sum", model="m") == 0.02


def test_a_failure_counts_as_a_request_and_as_no_work(metrics: Metrics) -> None:
    """A request that was not answered with vectors adds to its status and to nothing else."""
    metrics.request("/v1/embeddings", 504, 60.0, Trace("ti_1", "m", items=3, tokens=40))
    assert value(metrics, "quartzite_requests_total", path="/v1/embeddings", model="m", status="504") == 1
    assert value(metrics, "quartzite_items_total", model="m") == 0
    assert value(metrics, "quartzite_request_seconds_count", model="m") == 0


def test_clients_cannot_make_series_of_their_own(metrics: Metrics) -> None:
    """Whatever names are asked for, those that are not served are counted together."""
    for number in range(100):
        metrics.request("/v1/embeddings", 400, 0.1, Trace("ti_1", f"made/up-{number}"))
    assert value(metrics, "quartzite_requests_total", path="/v1/embeddings", model="", status="400") == 100


def test_a_micro_batch_counts_its_size_its_padding_and_its_time(metrics: Metrics) -> None:
    """Sizes and seconds are spread over buckets, padding and failures are summed up."""
    engine = metrics.engine_of("m")
    engine.ran(MicroBatchRun(items=5, tokens=100, padding_tokens=28, engine_s=0.03, failed=False, repeats=4))
    engine.ran(MicroBatchRun(items=1, tokens=16, padding_tokens=0, engine_s=0.01, failed=True))
    engine.restarted()
    engine.looked_up(hits=3, misses=2)
    engine.kept(cached_bytes=700, evictions=1)
    assert value(metrics, "quartzite_micro_batch_tokens_bucket", model="m", le="64.0") == 1
    assert value(metrics, "quartzite_micro_batch_tokens_bucket", model="m", le="128.0") == 2
    assert value(metrics, "quartzite_micro_batch_items_sum", model="m") == 6
    assert value(metrics, "quartzite_padding_tokens_total", model="m") == 28
    assert value(metrics, "quartzite_engine_seconds_sum", model="m") == pytest.approx(0.04)
    assert value(metrics, "quartzite_repeated_items_total", model="m") == 4
    assert value(metrics, "quartzite_vector_cache_hits_total", model="m") == 3
    assert value(metrics, "quartzite_vector_cache_misses_total", model="m") == 2
    assert value(metrics, "quartzite_vector_cache_evictions_total", model="m") == 1
    assert value(metrics, "quartzite_vector_cache_bytes", model="m") == 700
    assert value(metrics, "quartzite_micro_batch_failures_total", model="m") == 1
    assert value(metrics, "quartzite_model_restarts_total", model="m") == 1


def test_gauges_tell_what_is_now(metrics: Metrics) -> None:
    """Depth, streams and state are those of the last look; exactly one state is 1."""
    for depth, health in [
        (Depth(500, 20, 2), ModelHealth("lost", 2, 2)),
        (Depth(7, 1, 1), ModelHealth("degraded", 2, 1)),
    ]:
        metrics.look("m", depth, health)
        metrics.health("m", health.state)
    assert value(metrics, "quartzite_queue_tokens", model="m") == 7
    assert value(metrics, "quartzite_queue_requests", model="m") == 1
    assert value(metrics, "quartzite_micro_batches_running", model="m") == 1
    assert value(metrics, "quartzite_engine_streams", model="m") == 2
    assert value(metrics, "quartzite_engine_lost_streams", model="m") == 1
    states = {state: value(metrics, "quartzite_model_state", model="m", state=state) for state in MODEL_STATES}
    assert states == {state: float(state == "degraded") for state in MODEL_STATES}


async def test_the_ledger_is_asked_for_its_lag_at_every_scrape(metrics: Metrics) -> None:
    """The gauge is what the ledger says at that moment."""
    lags = iter([0.25, 0.5])
    metrics.watch_ledger(lambda: next(lags))
    assert b"\nquartzite_ledger_lag_seconds 0.25\n" in await metrics.exposition()
    assert b"\nquartzite_ledger_lag_seconds 0.5\n" in await metrics.exposition()


def test_failures_of_the_shared_store_are_counted(metrics: Metrics) -> None:
    """Each time the store of the limits does not answer adds one."""
    metrics.limit_store_failed()
    assert value(metrics, "quartzite_limit_store_failures_total") == 1
