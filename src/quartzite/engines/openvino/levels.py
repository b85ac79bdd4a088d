"""States brought to int8 token by token in the graph itself, for processors where the plugin would not: decision 75.

Written with FakeQuantize, which makes the plugin run its low-precision passes: what meets int8 rows then is a product
of int8 by int8.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from openvino import opset15

from quartzite.engines.openvino import graph
from quartzite.engines.openvino.graph import Node
from quartzite.registry.card import Activation
from quartzite.weights.tensor import Tensor

SMALLEST = np.float32(1e-6)
"""A token whose largest magnitude is below this has steps of it: no division by zero."""
EXTREMES = (opset15.reduce_max, opset15.reduce_min)
"""Cheaper than the largest magnitude, which reads and writes all states once more."""
LIFTS: dict[Activation, float] = {"gelu": 0.17, "gelu_tanh": 0.1701, "relu": 0.0, "silu": 0.2785}
"""How far below zero an activation gets: lifted by it states need no sign, and their levels are twice as fine."""


@dataclass(frozen=True, slots=True)
class Levels:
    """States (R, S, in) as whole numbers `node` of -127..127, or of 0..255 with `lifts`.

    The states are `node` times the `step` (R, S, 1) of their token, less `lifts` float32 (in,).
    """

    node: Node
    step: Node
    lifts: NDArray[np.float32] | None = None


def signed(states: Node) -> Levels:
    """Return the levels of `states` (R, S, in) of either sign."""
    highest, lowest = (reduce(states, graph.integers([-1]), keep_dims=True) for reduce in EXTREMES)
    return _levels(states, opset15.maximum(highest, opset15.negative(lowest)), -127, 127)


def lifted(states: Node, lift: float, multipliers: Tensor | None) -> Levels:
    """Return the levels of `states` (R, S, in), none of which is below -`lift`, times `multipliers` (in,)."""
    above = graph.smoothed(opset15.add(states, opset15.constant(np.float32(lift))), multipliers)
    whole = _levels(above, opset15.reduce_max(above, graph.integers([-1]), keep_dims=True), 0, 255)
    inner = states.get_output_partial_shape(0)[2].get_length()
    factors = np.ones(inner, dtype=np.float32) if multipliers is None else multipliers.as_f32()
    return Levels(whole.node, whole.step, factors * np.float32(lift))


def product(states: Levels, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Node:
    """Return the states times `weight`.T plus `bias`: (R, S, out); `weight` int8 (out, in) with `scale` (out, 1).

    Lifted states need a bias.
    """
    matrix = graph.int8_rows(weight, scale)
    result = opset15.multiply(opset15.matmul(states.node, matrix, transpose_a=False, transpose_b=True), states.step)
    if bias is None:
        return result
    if states.lifts is None:
        return opset15.add(result, graph.stored(bias))
    of_lifts = (weight.data.astype(np.float32) @ states.lifts) * scale.as_f32()[:, 0]
    return opset15.add(result, opset15.constant(bias.as_f32() - of_lifts))


def _levels(states: Node, widest: Node, lowest: int, highest: int) -> Levels:
    """Return the levels of `states`, none of which has a magnitude above the `widest` (R, S, 1) of its token."""
    widest = opset15.maximum(widest, opset15.constant(SMALLEST))
    low, high = opset15.constant(np.float32(lowest)), opset15.constant(np.float32(highest))
    fine = opset15.multiply(states, opset15.divide(high, widest))
    whole = opset15.fake_quantize(fine, low, high, low, high, highest - lowest + 1)
    return Levels(whole, opset15.multiply(_apart(widest), opset15.constant(np.float32(1 / highest))))


def _apart(widest: Node) -> Node:
    """Return `widest` (R, S, 1) as it is, out of a product.

    The plugin leaves in f32 what the graph's output depends on without a product in between. Steps would be such a
    way around the products, and with them all states that they were measured on.
    """
    return opset15.matmul(widest, opset15.constant(np.ones((1, 1), dtype=np.float32)), False, False)
