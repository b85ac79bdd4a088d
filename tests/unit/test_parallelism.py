"""How many streams and threads a model has on a machine."""

from dataclasses import replace
from pathlib import Path

import pytest

from quartzite.config import EngineSettings
from quartzite.engines.openvino.engine import (
    grids_apart,
    micro_batch_shape,
    parallelism,
    product_parameters,
    streams_of,
)
from quartzite.engines.openvino.precision import Arithmetic
from quartzite.registry.card import BertShape, ModelCard, Qwen3Shape
from seeing import seeing_card

SIZES = {"tiny": (6, 384, 12, 1536), "base": (12, 768, 12, 3072), "large": (24, 1024, 16, 4096)}
HUGE = (48, 2560, 40, 10240)
QWEN3 = Qwen3Shape(28, 1024, 16, 8, 128, 3072, 151669, 32768, 1e-6, 1e6)
DECODER = ModelCard("qwen3", Path("no-folder"), QWEN3, "last", 32768)
LARGE_DECODER = replace(DECODER, shape=Qwen3Shape(36, 2560, 32, 8, 128, 9728, 151669, 32768, 1e-6, 1e6))


def bert(layers: int, hidden: int, heads: int, intermediate: int, max_tokens: int = 512) -> ModelCard:
    """Return the card of a BERT-like model of that size."""
    shape = BertShape(layers, hidden, heads, intermediate, 30522, 512, 2, 1e-12, "gelu", 0)
    return ModelCard("bert", Path("no-folder"), shape, "cls", max_tokens)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_bert_has_narrow_streams_which_rows_alone_join(size: tuple[int, int, int, int]) -> None:
    """Two cores compute two rows side by side, and a row alone has both."""
    assert streams_of(bert(*size), EngineSettings(threads=2)) == (2, 2, 2)


@pytest.mark.parametrize("settings", [{"threads": 1}, {"threads": 2, "streams": 1}, {"threads": 8, "streams": 4}])
def test_nothing_is_joined_where_streams_are_not_of_one_thread_each(settings: dict[str, int]) -> None:
    """One core has nothing to join, and who sets wide streams has the model in memory once."""
    assert streams_of(bert(*SIZES["large"]), EngineSettings(**settings))[2] == 1


def test_at_most_four_streams_are_joined() -> None:
    """On sixteen cores four micro-batches alone run side by side."""
    assert streams_of(bert(*SIZES["large"]), EngineSettings(threads=16)) == (16, 16, 4)


def test_a_decoder_below_a_billion_is_like_a_bert() -> None:
    """Qwen3-Embedding-0.6B has narrow streams too."""
    assert streams_of(DECODER, EngineSettings(threads=2)) == (2, 2, 2)


@pytest.mark.parametrize("card", [bert(*HUGE), LARGE_DECODER, seeing_card("vl")], ids=["bert", "qwen3", "qwen3-vl"])
def test_models_of_a_billion_and_those_for_images_are_in_memory_once(card: ModelCard) -> None:
    """No row alone has more streams than others."""
    assert product_parameters(card.shape) > 10**9 or card.takes_images
    assert streams_of(card, EngineSettings(threads=2))[2] == 1


def test_full_rows_are_divided_into_blocks_by_the_size_of_a_bert() -> None:
    """Small models have blocks of 64 tokens, others of 128; decoders, and rows no longer than a block, have none."""
    cards = [bert(*SIZES["tiny"], 256), bert(*SIZES["large"]), DECODER]
    assert [[block.tokens for block in micro_batch_shape(card, EngineSettings()).blocks] for card in cards] == [
        [64],
        [128],
        [],
    ]
    assert not micro_batch_shape(bert(*SIZES["large"]), EngineSettings(micro_batch_tokens=128)).blocks


def test_rows_are_long_enough_for_weights_to_be_read_seldom() -> None:
    """But not where a row of 128 tokens takes seconds already, nor longer than items can be."""
    cards = [bert(*SIZES["tiny"], max_tokens=256), bert(*SIZES["large"]), DECODER, LARGE_DECODER, seeing_card("vl")]
    assert [micro_batch_shape(card, EngineSettings()).tokens for card in cards] == [256, 512, 512, 128, 512]


@pytest.mark.parametrize("card", [bert(*SIZES["tiny"]), bert(*SIZES["large"]), DECODER, LARGE_DECODER])
def test_a_short_query_has_a_row_of_one_tile(card: ModelCard) -> None:
    """Row lengths go up in steps of 32 tokens, but for the first; no row is longer than the budget."""
    assert micro_batch_shape(card, EngineSettings()).buckets[:3] == (16, 32, 64)
    assert micro_batch_shape(card, EngineSettings(micro_batch_tokens=16)).buckets == (16,)


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


CONVOLVING = Arithmetic("bf16", "float", "as asked", convolves=True)


def grids(card: ModelCard, how: Arithmetic = CONVOLVING, spread: int = 2, tokens: int = 0) -> list[tuple[int, int]]:
    """Return the grids of rows of `card` that have a graph of their own."""
    return grids_apart(card, micro_batch_shape(card, EngineSettings(micro_batch_tokens=tokens)), spread, how)


def test_full_rows_of_large_models_have_graphs_of_their_own_where_products_are_convolutions() -> None:
    """Undivided and in blocks; not where the model is to be in memory once, nor where rows are short."""
    large = bert(*SIZES["large"])
    assert grids(large) == [(1, 512), (4, 128)]
    assert grids(DECODER) == [(1, 512)]
    assert grids(large, replace(CONVOLVING, convolves=False)) == []
    assert grids(large, spread=1) == []
    assert grids(DECODER, tokens=128) == []


def test_models_of_middling_width_share_one_graph() -> None:
    """Products of 768 values are slower as convolutions."""
    assert grids(bert(*SIZES["base"])) == []


@pytest.mark.parametrize("convolves", [True, False])
def test_full_rows_of_small_models_have_graphs_of_their_own(convolves: bool) -> None:
    """And the shortest rows, where one stream has all cores."""
    how, small = replace(CONVOLVING, convolves=convolves), bert(*SIZES["tiny"], 256)
    assert grids(small, how) == [(1, 256), (4, 64)]
    assert grids(small, how, spread=1) == [(1, 16), (1, 32), (1, 256), (4, 64)]
