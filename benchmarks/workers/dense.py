"""The same layers over dense batches (B, S) of whole items: what OpenVINO can do when nothing has to be packed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino as ov
from openvino import PartialShape, Type, opset15

from quartzite.engines.openvino import bert, graph, qwen3
from quartzite.registry.card import BertShape, ModelCard
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
        cosine, sine = (_input(name, [1, 1, -1, card.shape.head_size]) for name in ("cosine", "sine"))
        segments = opset15.parameter(PartialShape([1, -1]), Type.i32, name="segments")
        inputs = [states, cosine, sine, segments]
        mask = graph.segment_mask(segments, segments, causal=True)
        maker = qwen3.Qwen3Graph(card.shape, tensors, card.pooling)
        hidden = maker.trunk(states, graph.Rotary(cosine, sine), mask, stateful=False)
    return ov.Model([opset15.gather(hidden, graph.integers(-1), graph.integers(1))], inputs, "dense")


def dense_inputs(card: ModelCard, batch: int, length: int) -> dict[str, Any]:
    """Return inputs for `batch` items of `length` tokens each; speed does not care for their values."""
    generator = np.random.default_rng(0)
    inputs: dict[str, Any] = {"states": generator.standard_normal((batch, length, card.dimensions)).astype(np.float32)}
    if not isinstance(card.shape, BertShape):
        table = generator.standard_normal((1, 1, length, card.shape.head_size)).astype(np.float32)
        inputs |= {"cosine": table, "sine": table, "segments": np.zeros((1, length), dtype=np.int32)}
    return inputs


def _input(name: str, shape: list[int]) -> Any:
    return opset15.parameter(PartialShape(shape), Type.f32, name=name)
