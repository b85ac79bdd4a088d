"""The last layer, which is computed for those tokens alone that are pooled."""

from functools import cache, partial

import numpy as np
import openvino as ov
import pytest
from openvino import Type

from quartzite.engines.openvino import bert, graph, qwen3
from quartzite.engines.openvino.graph import Node
from quartzite.registry.card import BertShape, Qwen3Shape
from quartzite.weights.tensor import Tensor

BERT = BertShape(2, 32, 4, 64, 50, 64, 2, 1e-12, "gelu", 0)
QWEN3 = Qwen3Shape(2, 32, 4, 2, 16, 64, 50, 64, 1e-6, 10_000.0)
TOKENS = 24
PLACES = np.array([0, 9, 17], dtype=np.int32)
SEGMENTS = np.array([0] * 9 + [1] * 8 + [2] * 7, dtype=np.int32)


@cache
def _tensors(shape: BertShape | Qwen3Shape) -> dict[str, Tensor]:
    generator = np.random.default_rng(1)
    expected = bert.expected_tensors(shape) if isinstance(shape, BertShape) else qwen3.expected_tensors(shape)
    return {
        name: Tensor(name, "F32", generator.standard_normal(sizes).astype(np.float32) * 0.2)
        for name, sizes in expected.items()
    }


def _run(result: Node, *given: tuple[Node, np.ndarray]) -> np.ndarray:
    model = ov.Model([result], [node for node, _ in given], "layers")
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled([values for _, values in given])[0])


def _states(blocks: int) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((blocks, TOKENS // blocks, 32)).astype(np.float32)


def _bert_states(blocks: int, segments: np.ndarray, places: np.ndarray | None) -> np.ndarray:
    states = graph.input_of("states", [-1, -1, 32], Type.f32)
    of = graph.input_of("segments", [-1, -1], Type.i32)
    at = graph.input_of("places", [-1], Type.i32)
    pooled = None if places is None else bert.Pooled.of(states, of, at)
    hidden = bert.BertGraph(BERT, _tensors(BERT), "cls").trunk(states, graph.segment_mask(of, of), pooled)
    given = [(states, _states(blocks)), (of, segments)]
    return _run(hidden, *given) if places is None else _run(hidden, *given, (at, places))


@pytest.mark.parametrize("blocks", [1, 3])
def test_pooled_tokens_of_a_bert_have_the_states_that_all_have(blocks: int) -> None:
    """In an undivided row, where attention ends at the items' borders, and in blocks."""
    segments = SEGMENTS if blocks == 1 else np.repeat(np.arange(3, dtype=np.int32), TOKENS // 3)
    places = PLACES if blocks == 1 else np.array([0, 8, 16], dtype=np.int32)
    every = _bert_states(blocks, segments.reshape(blocks, -1), None).reshape(TOKENS, 32)
    found = _bert_states(blocks, segments.reshape(blocks, -1), places)
    np.testing.assert_allclose(found, every[places][None], atol=1e-5)


def test_an_item_alone_has_one_segment_for_all_its_tokens() -> None:
    """The pooled token's mask is read from no further place, wherever the token lies."""
    one, places = np.zeros((1, 1), dtype=np.int32), np.array([0, TOKENS - 1], dtype=np.int32)
    every = _bert_states(1, one, None)
    np.testing.assert_allclose(_bert_states(1, one, places), every[:, places], atol=1e-5)


def _summed(query: Node, key: Node, value: Node, layer: int) -> Node:
    """Stand in for attention: each token sees those before it, as far as the test needs."""
    return graph.opset15.add(query, graph.opset15.cum_sum(query, graph.integers(0)))


def _qwen3_states(places: np.ndarray | None, added: int) -> np.ndarray:
    states = graph.input_of("states", [1, -1, 32], Type.f32)
    tables = [graph.input_of(name, [-1, 1, 1, 16], Type.f32) for name in ("cosine", "sine")]
    extra = [graph.input_of(f"added{number}", [1, -1, 32], Type.f32) for number in range(added)]
    at = graph.input_of("places", [-1], Type.i32)
    trunk = partial(qwen3.Qwen3Graph(QWEN3, _tensors(QWEN3), "last").trunk, states, graph.Rotary(*tables), _summed)
    turned = np.random.default_rng(3).standard_normal((TOKENS, 1, 1, 16)).astype(np.float32)
    given = [(states, _states(1)), *((table, turned) for table in tables), *((node, _states(1)) for node in extra)]
    return _run(trunk(extra), *given) if places is None else _run(trunk(extra, at), *given, (at, places))


@pytest.mark.parametrize("added", [0, 1, 2])
def test_pooled_tokens_of_a_qwen3_have_the_states_that_all_have(added: int) -> None:
    """Also where something is added after the last layer, to all of its tokens."""
    every = _qwen3_states(None, added)
    np.testing.assert_allclose(_qwen3_states(PLACES, added), every[:, PLACES], atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_the_products_behind_the_last_attention_have_pooled_tokens_alone(pooling: str) -> None:
    """Of a row of a known length they are not as long as the row; those of earlier layers are."""
    models = [
        bert.BertGraph(BERT, _tensors(BERT), pooling).build((1, TOKENS), 4),
        qwen3.Qwen3Graph(QWEN3, _tensors(QWEN3), pooling).build(4, tokens=TOKENS),
    ]
    of_pooled = [
        sum(
            node.get_type_name() == "MatMul" and node.get_output_partial_shape(0)[1].is_dynamic
            for node in model.get_ops()
        )
        for model in models
    ]
    assert of_pooled == [4, 4]  # BERT: query, output and both of the feed-forward; Qwen3: output, gate, up, down
