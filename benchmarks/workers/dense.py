"""The same layers over dense batches (B, S) of whole items: what OpenVINO can do when nothing has to be packed."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import openvino as ov
from openvino import PartialShape, Type, opset15

from quartzite.engines.openvino import bert, graph, qwen3
from quartzite.registry.card import BertShape, ModelCard, Qwen3Shape
from quartzite.weights.tensor import Tensor


def dense_graph(card: ModelCard, tensors: Mapping[str, Tensor]) -> ov.Model:
    """Return a graph from `states` f32 (B, S, hidden) to the vector of each item's last token (B, hidden).

    `tensors` must outlive the graph, which shares their memory.
    """
    states = _input("states", [-1, -1, card.dimensions])
    if isinstance(card.shape, BertShape):
        inputs = [states]
        everything = opset15.constant(np.zeros((1, 1, 1, 1), dtype=np.float32))
        hidden = bert.BertGraph(card.shape, tensors, card.pooling).trunk(states, everything)
    else:
        cosine, sine = (_input(name, [-1, 1, 1, card.shape.head_size]) for name in ("cosine", "sine"))
        mask = _input("mask", [-1, -1])
        inputs = [states, cosine, sine, mask]
        maker = qwen3.Qwen3Graph(card.shape, tensors, card.pooling)
        row = opset15.reshape(states, graph.integers([1, -1, card.dimensions]), special_zero=False)
        hidden = maker.trunk(row, graph.Rotary(cosine, sine), partial(_attend, card.shape, mask))
        hidden = _apart(hidden, mask, [card.dimensions])
    return ov.Model([opset15.gather(hidden, graph.integers(-1), graph.integers(1))], inputs, "dense")


def dense_inputs(card: ModelCard, batch: int, length: int) -> dict[str, Any]:
    """Return inputs for `batch` items of `length` tokens each; speed does not care for their values."""
    generator = np.random.default_rng(0)
    inputs: dict[str, Any] = {"states": generator.standard_normal((batch, length, card.dimensions)).astype(np.float32)}
    if not isinstance(card.shape, BertShape):
        table = generator.standard_normal((batch * length, 1, 1, card.shape.head_size)).astype(np.float32)
        later = np.triu(np.ones((length, length), dtype=np.bool_), 1)
        inputs |= {"cosine": table, "sine": table, "mask": np.where(later, graph.MASKED, np.float32(0))}
    return inputs


def _attend(shape: Qwen3Shape, mask: Any, query: Any, key: Any, value: Any, _: int) -> Any:
    """Return the attention (B * S, heads * size) of scaled queries of that shape under `mask` (S, S).

    Written out in products that share each key head among its group of query heads.
    """
    size, groups, together = shape.head_size, shape.key_value_heads, shape.heads // shape.key_value_heads
    query, key, value = (
        opset15.transpose(_apart(part, mask, [groups, heads, size]), graph.integers([0, 2, 3, 1, 4]))
        for part, heads in ((query, together), (key, 1), (value, 1))
    )
    scores = opset15.add(opset15.matmul(query, key, False, True), mask)
    attended = opset15.matmul(opset15.softmax(scores, -1), value, False, False)
    attended = opset15.transpose(attended, graph.integers([0, 3, 1, 2, 4]))
    return opset15.reshape(attended, graph.integers([-1, shape.heads * size]), special_zero=False)


def _apart(part: Any, mask: Any, axes: list[int]) -> Any:
    """Return `part` of B * S tokens as (B, S, *axes)."""
    length = opset15.gather(opset15.shape_of(mask), graph.integers([0]), graph.integers(0))
    shape = opset15.concat([graph.integers([-1]), length, graph.integers(axes)], 0)
    return opset15.reshape(part, shape, special_zero=False)


def _input(name: str, shape: list[int]) -> Any:
    return opset15.parameter(PartialShape(shape), Type.f32, name=name)
