"""The OpenVINO engine against vectors of transformers: every architecture, layout of folder, pooling and precision."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quartzite.batching.policy import Policy
from quartzite.config import EngineSettings, Precision
from quartzite.domain import Encoded, Vectors
from quartzite.engines.blocks import Layout, cheapest_layout
from quartzite.engines.openvino import bert, graph, paged, qwen3, rows
from quartzite.engines.openvino import engine as openvino_engine
from quartzite.engines.openvino.engine import Maker, OpenVinoEngine, load
from quartzite.engines.openvino.session import Graphs
from quartzite.engines.openvino.turns import Turns
from quartzite.registry.card import ModelCard
from quartzite.registry.folder import read_card
from synthetic.golden import GoldenCase

Loaded = Callable[[GoldenCase, Precision], OpenVinoEngine]


def _card(case: GoldenCase) -> ModelCard:
    return read_card(case.name, case.card_folder, None)


def _items(case: GoldenCase) -> list[Encoded]:
    return [Encoded(np.array(ids, dtype=np.int32)) for ids in case.ids]


def _embed(engine: OpenVinoEngine, batches: Sequence[Sequence[Encoded]]) -> Vectors:
    async def run() -> Vectors:
        return np.concatenate([await engine.embed(batch) for batch in batches])

    return asyncio.run(run())


def _cosines(one: Vectors, other: Vectors) -> Vectors:
    dots: Vectors = (one.astype(np.float64) * other).sum(axis=1)
    return dots / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Return the engine of a case in a precision, loaded once."""
    engines: dict[tuple[str, Precision], OpenVinoEngine] = {}
    cache = tmp_path_factory.mktemp("cache")

    def get(case: GoldenCase, precision: Precision) -> OpenVinoEngine:
        key = case.name, precision
        if key not in engines:
            engines[key] = load(_card(case), EngineSettings(precision=precision), cache)
        return engines[key]

    return get


def _packed(items: Sequence[Encoded], engine: OpenVinoEngine, seed: int) -> tuple[list[list[Encoded]], list[int]]:
    """Deal `items` in random order into micro-batches within the engine's shape; return them and the order."""
    order = np.random.default_rng(seed).permutation(len(items)).tolist()
    batches: list[list[Encoded]] = [[]]
    for place in order:
        tokens = sum(item.tokens for item in batches[-1]) + items[place].tokens
        if batches[-1] and (tokens > engine.shape.tokens or len(batches[-1]) == engine.shape.items):
            batches.append([])
        batches[-1].append(items[place])
    return batches, order


@pytest.mark.parametrize(
    ("precision", "least"), [("f32", 0.99999), ("bf16", 0.99), ("int8", 0.98), ("int8-dynamic", 0.98)]
)
def test_vectors_are_those_of_transformers(
    case: GoldenCase, loaded: Loaded, precision: Precision, least: float
) -> None:
    """Every text, from one token to the model's limit, gets the reference's vector; wide random weights are harsh."""
    engine = loaded(case, precision)
    vectors = _embed(engine, [[item] for item in _items(case)])
    assert vectors.dtype == np.float32
    assert _cosines(vectors, case.vectors).min() >= least


def test_f32_vectors_are_not_only_parallel_but_equal(case: GoldenCase, loaded: Loaded) -> None:
    """What leaves the engine is pooled and not scaled: the lengths are the reference's too."""
    vectors = _embed(loaded(case, "f32"), [[item] for item in _items(case)])
    np.testing.assert_allclose(vectors, case.vectors, atol=1e-3 * np.abs(case.vectors).max())


@pytest.mark.parametrize("seed", range(3))
def test_a_vector_does_not_depend_on_its_micro_batch(case: GoldenCase, loaded: Loaded, seed: int) -> None:
    """Whatever an item is packed with, and wherever it lies in the row, its vector is the one it gets alone."""
    engine, items = loaded(case, "f32"), _items(case)
    alone = _embed(engine, [[item] for item in items])
    batches, order = _packed(items, engine, seed)
    assert max(map(len, batches)) > 3
    assert _cosines(_embed(engine, batches), alone[order]).min() >= 0.999999


def test_items_side_by_side_do_not_disturb_each_other(case: GoldenCase, loaded: Loaded) -> None:
    """Micro-batches that run at the same time, long items among them, give what each gives alone."""
    engine, items = loaded(case, "f32"), sorted(_items(case), key=lambda item: -item.tokens)[:12]

    async def together() -> Vectors:
        return np.concatenate(await asyncio.gather(*(engine.embed([item]) for item in items)))

    alone = _embed(engine, [[item] for item in items])
    assert _cosines(asyncio.run(together()), alone).min() >= 0.999999


def _spread(engine: OpenVinoEngine, batches: Sequence[Sequence[Encoded]]) -> Vectors:
    """Return the vectors of micro-batches that have both streams together."""

    async def run() -> Vectors:
        await engine.warmed()
        assert engine.spread == 2
        return np.concatenate([await engine.embed(batch, spread=True) for batch in batches])

    return asyncio.run(run())


@pytest.mark.parametrize("name", ["bert-cls", "bert-mean", "xlmr-cls", "qwen3"])
def test_a_vector_does_not_depend_on_the_threads_it_had(
    name: str, golden_case: Callable[[str], GoldenCase], tmp_path: Path
) -> None:
    """A micro-batch that has all streams to itself, alone or packed, gets the vectors that it gets on one."""
    case = golden_case(name)
    engine, items = load(_card(case), EngineSettings(precision="f32", threads=2), tmp_path), _items(case)
    alone = _embed(engine, [[item] for item in items])
    assert _cosines(_spread(engine, [[item] for item in items]), alone).min() >= 0.999999
    batches, order = _packed(items, engine, seed=0)
    assert _cosines(_spread(engine, batches), alone[order]).min() >= 0.999999


def test_a_fault_of_graphs_with_all_threads_would_be_seen(
    golden_case: Callable[[str], GoldenCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With item slots exchanged in those graphs alone, rows that have all streams come out wrong, others do not."""
    warm_graphs = Maker.warm_graphs

    def exchanged(maker: Maker, streams: int, threads: int) -> Graphs:
        pool = graph.pool
        with pytest.MonkeyPatch.context() as patch:
            turned = graph.integers(list(range(maker.shape.items))[::-1])
            patch.setattr(graph, "pool", lambda *given: graph.opset15.gather(pool(*given), turned, graph.integers(0)))
            return warm_graphs(maker, streams, threads)

    monkeypatch.setattr(Maker, "warm_graphs", exchanged)
    case = golden_case("bert-mean")
    engine = load(_card(case), EngineSettings(precision="f32", threads=2), tmp_path)
    item = _items(case)[0]
    right = _embed(engine, [[item]])
    assert np.abs(_spread(engine, [[item]]) - right).max() > 0.01
    assert _cosines(_embed(engine, [[item]]), right).min() >= 0.999999


def _in_blocks(items: Sequence[Encoded], engine: OpenVinoEngine) -> list[list[int]]:
    """Return the places of `items` in those of the policy's micro-batches whose rows are divided."""
    sizes = [item.tokens for item in items]
    policy: Policy[None] = Policy(engine.shape)
    policy.join(None, sizes)
    chosen = iter(lambda: [place for _, place in policy.choose(long=False)], [])
    layouts = [(places, cheapest_layout([sizes[place] for place in places], engine.shape)) for places in chosen]
    return [places for places, layout in layouts if layout.grid[0] > 1]


BERT_CASES = ["bert-cls", "bert-mean", "bert-max", "xlmr-cls"]


@pytest.mark.parametrize("name", BERT_CASES)
def test_a_vector_does_not_depend_on_the_block_it_lies_in(
    name: str, golden_case: Callable[[str], GoldenCase], loaded: Loaded
) -> None:
    """Rows divided into blocks give the vectors that each item gets alone, in its place."""
    case = golden_case(name)
    engine, items = loaded(case, "f32"), _items(case) * 3
    divided = _in_blocks(items, engine)
    assert len(divided) > 2
    vectors = _embed(engine, [[items[place] for place in places] for places in divided])
    alone = np.concatenate([case.vectors] * 3)[[place for places in divided for place in places]]
    assert _cosines(vectors, alone).min() >= 0.99999


@pytest.mark.parametrize("name", ["bert-cls", "bert-mean", "xlmr-cls"])
def test_graphs_for_any_row_take_blocks_too(
    name: str, golden_case: Callable[[str], GoldenCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models that are not small have one graph for all rows, whole and in blocks, on one stream or on all."""
    monkeypatch.setattr(openvino_engine, "SMALL_MODEL_PARAMETERS", 0)
    case = golden_case(name)
    engine, items = load(_card(case), EngineSettings(precision="f32", threads=2), tmp_path), _items(case) * 4
    divided = _in_blocks(items, engine)
    assert engine.shape.blocks[0].tokens == 128
    assert len(divided) > 1
    right = np.concatenate([case.vectors] * 4)[[place for places in divided for place in places]]
    batches = [[items[place] for place in places] for places in divided]
    assert _cosines(_embed(engine, batches), right).min() >= 0.99999
    assert _cosines(_spread(engine, batches), right).min() >= 0.99999


def test_blocks_with_the_mask_of_another_would_be_seen(
    golden_case: Callable[[str], GoldenCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the first block's mask for all blocks, items of the others come out wrong."""
    masked = graph.segment_mask

    def of_the_first(of_query: graph.Node, of_key: graph.Node) -> graph.Node:
        return graph.opset15.gather(masked(of_query, of_key), graph.integers([0]), graph.integers(0))

    monkeypatch.setattr(graph, "segment_mask", of_the_first)
    case = golden_case("bert-mean")
    engine, items = load(_card(case), EngineSettings(precision="f32"), tmp_path), _items(case) * 3
    divided = _in_blocks(items, engine)
    vectors = _embed(engine, [[items[place] for place in places] for places in divided])
    alone = np.concatenate([case.vectors] * 3)[[place for places in divided for place in places]]
    assert _cosines(vectors, alone).min() < 0.99


@pytest.mark.parametrize(
    ("precision", "least"), [("f32", 0.99999), ("bf16", 0.9995), ("int8", 0.998), ("int8-dynamic", 0.998)]
)
def test_real_weights_give_the_vectors_of_sentence_transformers(
    minilm_case: GoldenCase, loaded: Loaded, precision: Precision, least: float
) -> None:
    """MiniLM's vectors are sentence-transformers', in every precision within its gate, alone and packed."""
    engine, items = loaded(minilm_case, precision), _items(minilm_case)
    assert _cosines(_embed(engine, [[item] for item in items]), minilm_case.vectors).min() >= least
    batches, order = _packed(items, engine, seed=0)
    assert _cosines(_embed(engine, batches), minilm_case.vectors[order]).min() >= least


def _worst(case: GoldenCase, tmp_path: Path) -> float:
    """Return the lowest cosine to the reference of a freshly loaded engine, items packed."""
    engine = load(_card(case), EngineSettings(precision="f32"), tmp_path)
    batches, order = _packed(_items(case), engine, seed=0)
    return float(_cosines(_embed(engine, batches), case.vectors[order]).min())


@pytest.mark.parametrize("name", ["bert-cls", "xlmr-cls", "qwen3"])
def test_shifted_positions_would_be_seen(
    name: str, golden_case: Callable[[str], GoldenCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every second item's positions off by one, the golden test fails."""

    def shifted(batch: Sequence[Encoded], layout: Layout) -> rows.PackedRow:
        row = rows.pack(batch, layout)
        return replace(row, positions=row.positions * 2 % 50)

    monkeypatch.setattr(bert, "pack", shifted)
    monkeypatch.setattr(qwen3, "pack", shifted)
    assert _worst(golden_case(name), tmp_path) < 0.99


@pytest.mark.parametrize("name", ["bert-cls", "xlmr-cls"])
def test_positions_off_by_one_would_be_seen(
    name: str, golden_case: Callable[[str], GoldenCase], tmp_path: Path
) -> None:
    """With the first position one too low or one too high, the golden test fails."""
    case = golden_case(name)
    card = _card(case)
    offset = card.shape.position_offset + (-1 if card.shape.position_offset else 1)  # type: ignore[union-attr]
    off_by_one = replace(card, shape=replace(card.shape, position_offset=offset))  # type: ignore[type-var]
    engine = load(off_by_one, EngineSettings(precision="f32"), tmp_path)
    short = [place for place, item in enumerate(_items(case)) if item.tokens < 400]
    vectors = _embed(engine, [[_items(case)[place]] for place in short])
    assert _cosines(vectors, case.vectors[short]).min() < 0.99


@pytest.mark.parametrize("name", ["bert-mean", "xlmr-cls"])
def test_a_dropped_mask_would_be_seen(
    name: str, golden_case: Callable[[str], GoldenCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With items that see each other, the golden test fails."""
    masked = graph.segment_mask

    def everything(of_query: graph.Node, of_key: graph.Node) -> graph.Node:
        nothing = graph.opset15.constant(np.float32(0))
        return graph.opset15.multiply(masked(of_query, of_key), nothing)

    monkeypatch.setattr(graph, "segment_mask", everything)
    assert _worst(golden_case(name), tmp_path) < 0.99


@pytest.mark.parametrize("name", ["qwen3", "qwen3-sharded"])
def test_items_taken_for_one_would_be_seen(
    name: str, golden_case: Callable[[str], GoldenCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where attention is told of one item in a row only, so that each sees those before it, the golden test fails."""
    of_row = paged.of_row
    monkeypatch.setattr(paged, "of_row", lambda sizes, tail, past: of_row([sum(sizes)], tail, past))
    assert _worst(golden_case(name), tmp_path) < 0.99


@pytest.mark.parametrize(("name", "wrong"), [("bert-cls", "mean"), ("bert-mean", "cls"), ("qwen3", "mean")])
def test_a_wrong_pooling_would_be_seen(
    name: str, wrong: str, golden_case: Callable[[str], GoldenCase], tmp_path: Path
) -> None:
    """With another pooling than the folder's, the golden test fails."""
    case = golden_case(name)
    card = replace(_card(case), pooling=wrong)  # type: ignore[arg-type]
    engine = load(card, EngineSettings(precision="f32"), tmp_path)
    vectors = _embed(engine, [[item] for item in _items(case)])
    assert _cosines(vectors, case.vectors).min() < 0.99


class Holding:
    """Has a turn, and does nothing with it."""

    def begin(self) -> None:
        pass


def test_who_waits_behind_a_run_that_fails_is_computed_on_a_graph_made_anew(
    golden_case: Callable[[str], GoldenCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row was to begin on the stream where the other one failed, which may keep shapes of that."""
    case, turns, holding = golden_case("bert-mean"), Turns(1), Holding()
    monkeypatch.setattr(openvino_engine, "Turns", lambda _: turns)
    engine, items = load(_card(case), EngineSettings(precision="f32", threads=1), tmp_path), _items(case)
    place = next(place for place, item in enumerate(items) if 64 < item.tokens < 200)  # in the graph for any row
    packed, rows_made = bert.BertInputs.packed, iter(range(9))

    def of_two_lengths(inputs: bert.BertInputs, *given: object) -> rows.Arrays:
        arrays = dict(packed(inputs, *given))  # type: ignore[arg-type]
        # An engine of another test may still be warmed on its thread: its rows are not counted.
        is_first = inputs is engine._inputs and next(rows_made) == 0
        return arrays | {"segments": arrays["segments"][:, :-1]} if is_first else arrays

    async def together() -> list[Vectors | BaseException]:
        await engine.warmed()
        monkeypatch.setattr(bert.BertInputs, "packed", of_two_lengths)
        turns.take(holding)
        both = asyncio.gather(*(engine.embed([items[place]]) for _ in range(2)), return_exceptions=True)
        await asyncio.sleep(0)
        turns.end(holding)
        return await both

    failed, vectors = asyncio.run(together())
    assert isinstance(failed, RuntimeError)
    assert isinstance(vectors, np.ndarray)
    assert _cosines(vectors, case.vectors[[place]]).min() >= 0.99999
    assert next(rows_made) == 3
