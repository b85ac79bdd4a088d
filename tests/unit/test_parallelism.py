"""How many streams and threads a model has on a machine."""

import pytest

from quartzite.config import EngineSettings
from quartzite.engines.openvino.engine import parallelism


@pytest.mark.parametrize(("threads", "parameters", "streams"), [(2, 0, 2), (2, 10**8, 2), (2, 3 * 10**8, 1)])
def test_a_large_model_has_wide_streams(threads: int, parameters: int, streams: int) -> None:
    """On two cores small models run two micro-batches side by side, large ones each with both cores."""
    assert parallelism(EngineSettings(threads=threads), parameters) == (streams, threads)


@pytest.mark.parametrize(("threads", "streams"), [(1, 1), (4, 1), (5, 2), (64, 16)])
def test_on_many_cores_a_stream_has_four_at_most(threads: int, streams: int) -> None:
    """There several large micro-batches run side by side again."""
    assert parallelism(EngineSettings(threads=threads), 8 * 10**9) == (streams, threads)


def test_what_is_set_counts() -> None:
    """The settings say otherwise for models of any size."""
    assert parallelism(EngineSettings(threads=8, streams=3), 8 * 10**9) == (3, 8)
