"""Smoothing of states before they are brought to int8: the widest channels hand some of their width to the weights.

Recipe: SmoothQuant (arXiv:2211.10438) with STRENGTH. Which channels are wide is a matter of the weights and not of
the text, so it is measured on random tokens, once, when the int8 file is made (decision 43).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset15

from quartzite.domain import Encoded
from quartzite.engines.blocks import end_to_end
from quartzite.engines.openvino import bert, graph, qwen3
from quartzite.engines.openvino.caches import Caches
from quartzite.engines.openvino.graph import Node
from quartzite.engines.openvino.int8 import Smoothing
from quartzite.engines.openvino.rows import Arrays
from quartzite.registry.card import BertShape, ModelCard, Qwen3Shape
from quartzite.weights.tensor import Tensor

STRENGTH = 0.5
"""Which part of the widths goes to the weights, between 0 and 1."""
STRENGTHS_BY_TOKEN = {"attention.self": 0.6, "output": 0.3}
"""The same for places in a layer whose states have one step for each token: see decision 75."""
LENGTHS = (8, 24, 56, 168)
"""Tokens of the random items that are measured, in one row; none is longer than the model allows."""
WIDEST = 16.0
"""No channel is made wider or narrower by more, whatever was measured."""


def smoothings(card: ModelCard, tensors: Mapping[str, Tensor], compute: str, by_token: bool = False) -> list[Smoothing]:
    """Return the smoothing of every place in the graph of `card` that can have one, measured in precision `compute`.

    `by_token` is for graphs that bring states to int8 themselves.
    """
    shape, items = card.shape, random_items(card)
    length = sum(item.tokens for item in items)
    layout = end_to_end([item.tokens for item in items], length)
    maker: bert.BertGraph | qwen3.Qwen3Graph
    if isinstance(shape, BertShape):
        maker = bert.BertGraph(shape, tensors, card.pooling)
        model, places = maker.build(None, len(items)), bert.shared_inputs(shape, by_token)
        arrays = bert.BertInputs(shape, tensors, card.pooling).packed(items, layout, len(items))
    elif isinstance(shape, Qwen3Shape):
        maker = qwen3.Qwen3Graph(shape, tensors, card.pooling)
        model, places = maker.build(len(items)), qwen3.shared_inputs(shape)
        arrays = qwen3.Qwen3Inputs(shape, tensors, card.pooling, length).packed(items, layout, len(items))
    else:
        return []
    measured = widths(model, {place: maker.places[place] for place in places}, arrays, compute)
    strengths = STRENGTHS_BY_TOKEN if by_token else {}
    return [
        smoothing(
            place,
            measured[place],
            {name: tensors[name] for name in names},
            strengths.get(place.split(".", 3)[-1], STRENGTH),
        )
        for place, names in places.items()
    ]


def random_items(card: ModelCard) -> list[Encoded]:
    """Return items of random tokens of LENGTHS, always the same ones for the same model."""
    generator = np.random.default_rng(0)
    sizes = [min(length, card.max_tokens) for length in LENGTHS]
    return [Encoded(generator.integers(0, card.shape.vocabulary, size=size, dtype=np.int32)) for size in sizes]


def widths(model: ov.Model, places: Mapping[str, Node], arrays: Arrays, compute: str) -> dict[str, NDArray[np.float32]]:
    """Run `model` once on `arrays`; return the largest magnitude of each channel (in,) at the nodes `places`."""
    for node in places.values():
        widest = opset15.reduce_max(opset15.abs(node), graph.integers([0, 1]))
        model.add_outputs(widest.output(0))
    compiled: Any = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": compute})
    request = compiled.create_infer_request()
    Caches(request).hold_for(arrays)
    request.infer(arrays, share_inputs=True)
    return {place: np.array(request.get_output_tensor(1 + number).data) for number, place in enumerate(places)}


def smoothing(
    place: str, width: NDArray[np.float32], products: Mapping[str, Tensor], strength: float = STRENGTH
) -> Smoothing:
    """Return the smoothing of states of `width` (in,) at `place` that meet the matrices `products` (out, in)."""
    columns = np.sqrt(sum(np.square(tensor.as_f32()).sum(axis=0) for tensor in products.values()))
    divisors = np.maximum(width, 1e-6) ** strength / np.maximum(columns, 1e-6) ** (1 - strength)
    divisors = np.clip(divisors / np.median(divisors), 1 / WIDEST, WIDEST)
    return Smoothing(place, tuple(products), (1 / divisors).astype(np.float32))
