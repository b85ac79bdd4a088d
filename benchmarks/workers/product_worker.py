"""Bare products (T, K) x (K, N) in bf16 by OpenVINO's CPU plugin, that is by oneDNN: the limit of any engine here."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import PartialShape, Type, opset15
from protocol import answer

from quartzite.config import EngineSettings
from quartzite.engines.openvino.engine import parallelism
from quartzite.registry.card import BertShape
from quartzite.registry.folder import read_card

TOKENS = (256, 1024)


class Products:
    """The products of one layer of a model, each compiled for itself, one stream of one thread for each core."""

    def __init__(self) -> None:
        self._compiled: dict[int, list[tuple[int, Any]]] = {}
        self._per_token = 0

    def load(self, folder: str) -> dict[str, Any]:
        """Compile the products of a model folder; return the floating-point operations of one token in all layers."""
        card = read_card("model", Path(folder), None)
        shapes = _bert(card) if isinstance(card.shape, BertShape) else _qwen3(card)
        self._compiled = {tokens: [(_flops(shape), _product(tokens, *shape)) for shape in shapes] for tokens in TOKENS}
        self._per_token = card.shape.layers * sum(map(_flops, shapes))
        return {"flops_per_token": self._per_token, "tokens": list(TOKENS)}

    def rate(self, tokens: int, seconds: float) -> dict[str, Any]:
        """Return operations a second over all products, each run for its share of `seconds`."""
        one_token = 0.0
        for flops, compiled in self._compiled[tokens]:
            one_token += flops / _rate(compiled, flops * tokens, seconds / len(self._compiled[tokens]))
        return {"flops_per_s": sum(flops for flops, _ in self._compiled[tokens]) / one_token}


def _bert(card: Any) -> list[tuple[int, int]]:
    hidden, wide = card.dimensions, card.shape.intermediate
    return [(hidden, 3 * hidden), (hidden, hidden), (hidden, wide), (wide, hidden)]


def _qwen3(card: Any) -> list[tuple[int, int]]:
    hidden, shape = card.dimensions, card.shape
    queries, keys = shape.heads * shape.head_size, shape.key_value_heads * shape.head_size
    wide = shape.intermediate
    return [(hidden, queries + 2 * keys), (queries, hidden), (hidden, 2 * wide), (wide, hidden)]


def _flops(shape: tuple[int, int]) -> int:
    return 2 * shape[0] * shape[1]


def _product(tokens: int, inner: int, outer: int) -> Any:
    states = opset15.parameter(PartialShape([tokens, inner]), Type.bf16)
    weights = np.random.default_rng(0).standard_normal((outer, inner)).astype(np.float32)
    weight = opset15.convert(opset15.constant(weights), Type.bf16)
    model = ov.Model([opset15.matmul(states, weight, False, True)], [states])
    streams, threads = parallelism(EngineSettings())
    options = {"INFERENCE_PRECISION_HINT": "bf16", "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": threads}
    return ov.Core().compile_model(model, "CPU", options)


def _rate(compiled: Any, flops: int, seconds: float) -> float:
    queue = ov.AsyncInferQueue(compiled, parallelism(EngineSettings())[0])
    given = [ov.Tensor(Type.bf16, compiled.input(0).shape)]
    for _ in range(2 * len(queue)):
        queue.start_async(given)
    queue.wait_all()
    runs, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        queue.start_async(given)
        runs += 1
    queue.wait_all()
    return flops * runs / (time.perf_counter() - begun)


if __name__ == "__main__":
    products = Products()
    answer({"load": products.load, "rate": products.rate})
