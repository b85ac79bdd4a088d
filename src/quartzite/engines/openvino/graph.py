"""Pieces that all graphs share: constants from stored tensors, products, norms, attention, pooling.

Knows OpenVINO's operators and nothing of files or queues. States are (1, T, hidden): one packed row of T tokens,
or (R, S, hidden): a row in R blocks of S.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import PartialShape, Type, opset13, opset15

from quartzite.registry.card import OF_ONE_TOKEN, Activation, Pooling
from quartzite.weights.tensor import Tensor

Node = Any
STORED_TYPES = {"F32": Type.f32, "F16": Type.f16, "BF16": Type.bf16}
MASKED = np.float32(-65504.0)
"""Added to the score of a forbidden pair: finite, so that a row of the bucket's tail can never become NaN."""

SMALLEST_TILE, LARGEST_UNFIT = 32, 512
"""What the plugin's `FullyConnected::isSupportedCompressedOperation` asks of int8 weights on a processor with AMX."""

LEAST_CONVOLVED = 1024
"""Matrices of at least so many values on either side that do not narrow states are faster as convolutions on a
processor with AMX, by decision 82."""


def integers(values: int | Sequence[int]) -> Node:
    """Return an int64 constant, a scalar for a plain int."""
    return opset15.constant(np.asarray(values, dtype=np.int64))


def stored(tensor: Tensor) -> Node:
    """Return `tensor` as a node of f32 values, sharing the mapped file's memory.

    A 16-bit tensor stays so in memory: the mark on its Convert keeps the plugin from folding it to f32.
    """
    constant = shared(tensor.data, STORED_TYPES[tensor.dtype])
    if tensor.dtype == "F32":
        return constant
    converted = opset15.convert(constant, Type.f32)
    converted.get_rt_info()["decompression_0"] = True
    return converted


def shared(data: NDArray[Any], kind: Type) -> Node:
    """Return a constant of `kind` over the bytes of `data`, without a copy; `data` must outlive the graph."""
    return opset15.constant(ov.Tensor(data, ov.Shape(list(data.shape)), kind), shared_memory=True)


def product(
    states: Node,
    weight: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    convolves: bool = False,
    activation: Activation | None = None,
) -> Node:
    """Return the activation of `states @ weight.T + bias`: (1, T, in) to (1, T, out); `weight` is stored as (out, in).

    With a `scale` (out, groups) the weight is int8. With `convolves` it is written as a convolution where that is
    faster.
    """
    if convolves and scale is None and _is_convolved(states, weight):
        return _convolution(states, weight, bias, activation)
    matrix = stored(weight) if scale is None else _expanded(weight, scale)
    result = opset15.matmul(states, matrix, transpose_a=False, transpose_b=True)
    result = result if bias is None else opset15.add(result, stored(bias))
    return activate(result, activation)


def _is_convolved(states: Node, weight: Tensor) -> bool:
    """Return whether the product is faster as a convolution: of a known number of tokens, by a large matrix."""
    out, inner = weight.shape
    return out >= inner >= LEAST_CONVOLVED and not states.get_output_partial_shape(0).is_dynamic


def _convolution(states: Node, weight: Tensor, bias: Tensor | None, activation: Activation | None) -> Node:
    """Return `product` as a convolution of width 1 over the places of all blocks, (R, S, in) to (R, S, out).

    The transposes cost nothing: the plugin takes them for another order of the same memory.
    """
    out, inner = weight.shape
    places = opset15.reshape(states, integers([1, -1, inner]), special_zero=False)
    channels = opset15.transpose(places, integers([0, 2, 1]))
    if weight.dtype == "BF16" and bias is None:
        result = _convolved_as_stored(channels, weight, activation)
    else:
        kernel = opset15.reshape(stored(weight), integers([out, inner, 1]), special_zero=False)
        result = opset15.convolution(channels, kernel, [1], [0], [0], [1])
        if bias is not None:
            result = opset15.add(result, opset15.reshape(stored(bias), integers([1, out, 1]), special_zero=False))
        result = activate(result, activation)
    result = opset15.transpose(result, integers([0, 2, 1]))
    return opset15.reshape(result, integers([*states.get_output_shape(0)[:2], out]), special_zero=False)


def _convolved_as_stored(channels: Node, weight: Tensor, activation: Activation | None) -> Node:
    """Return the activation of (1, in, T) convolved with `weight` (out, in) in bf16 to (1, out, T).

    The kernel is the mapped file: converted in the graph it would be kept in f32 besides. The activation comes before
    anything else: the plugin computes it with the sums, as it does for other products. A bias would come between.
    """
    kernel = shared(weight.data.reshape([*weight.shape, 1]), Type.bf16)
    states = opset15.convert(channels, Type.bf16)
    result = activate(opset15.convolution(states, kernel, [1], [0], [0], [1]), activation)
    return opset15.convert(result, Type.f32)


def _expanded(weight: Tensor, scale: Tensor) -> Node:
    """Return int8 levels (out, in) times their scales (out, groups).

    The Convert carries no mark: the plugin knows these forms by itself, and marked it would fold the product to f32.
    """
    out, groups = scale.shape
    if _is_unfit(*weight.shape):
        matrix = weight.data.astype(np.float32).reshape(out, groups, -1) * scale.as_f32().reshape(out, groups, 1)
        return opset15.constant(matrix.reshape(weight.shape))
    if groups == 1:
        return int8_rows(weight, scale)
    levels = opset15.convert(shared(weight.data.reshape(out, groups, -1), Type.i8), Type.f32)
    matrix = opset15.multiply(levels, shared(scale.data.reshape(out, groups, 1), Type.f32))
    return opset15.reshape(matrix, integers(weight.shape), special_zero=False)


def int8_rows(weight: Tensor, scale: Tensor) -> Node:
    """Return int8 levels (out, in) times the scales of their rows (out, 1)."""
    return opset15.multiply(opset15.convert(shared(weight.data, Type.i8), Type.f32), shared(scale.data, Type.f32))


def _is_unfit(out: int, inner: int) -> bool:
    """Return whether a matrix is of those that the plugin does not keep in int8 where it uses AMX.

    It would expand them itself, once for all streams and without keeping them apart: now and then scales are lost.
    """
    if max(out, inner) <= SMALLEST_TILE:
        return True
    return max(out, inner) <= LARGEST_UNFIT and inner % SMALLEST_TILE != 0


def smoothed(states: Node, multipliers: Tensor | None) -> Node:
    """Return `states` (1, T, in) times `multipliers` (in,) where there are some."""
    return states if multipliers is None else opset15.multiply(states, stored(multipliers))


def layer_norm(states: Node, gain: Tensor, bias: Tensor, epsilon: float) -> Node:
    """Return the layer norm of `states` over the last axis."""
    centred = opset15.mvn(states, integers([-1]), True, epsilon, "inside_sqrt")
    return opset15.add(opset15.multiply(centred, stored(gain)), stored(bias))


def rms_norm(states: Node, gain: Node, epsilon: float) -> Node:
    """Return `states` over their root mean square of the last axis, times `gain`, in the form the plugin fuses.

    `gain` is a constant node.
    """
    square = opset15.power(states, opset15.constant(np.float32(2)))
    mean = opset15.reduce_mean(square, integers([-1]), keep_dims=True)
    root = opset15.sqrt(opset15.add(mean, opset15.constant(np.float32(epsilon))))
    inverse = opset15.divide(opset15.constant(np.float32(1)), root)
    return opset15.multiply(gain, opset15.multiply(states, inverse))


def activate(states: Node, kind: Activation | None) -> Node:
    """Return the activation of `states`; themselves where there is none."""
    match kind:
        case None:
            return states
        case "gelu":
            return opset15.gelu(states, "erf")
        case "gelu_tanh":
            return opset15.gelu(states, "tanh")
        case "relu":
            return opset15.relu(states)
        case "silu":
            return opset15.swish(states, opset15.constant(1.0, states.get_element_type()))


def split_heads(states: Node, heads: int, size: int) -> Node:
    """Return (1, T, heads * size) as (1, heads, T, size)."""
    apart = opset15.reshape(states, integers([0, 0, heads, size]), special_zero=True)
    return opset15.transpose(apart, integers([0, 2, 1, 3]))


def join_heads(states: Node, width: int) -> Node:
    """Return (1, heads, T, size) as (1, T, width) with width = heads * size."""
    together = opset15.transpose(states, integers([0, 2, 1, 3]))
    return opset15.reshape(together, integers([0, 0, width]), special_zero=True)


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary tables as graph nodes, (1, 1, T, head_size) each, or (T, 1, 1, head_size) where tokens come first."""

    cosine: Node
    sine: Node


def rotate(states: Node, rotary: Rotary, size: int) -> Node:
    """Turn each head by its position; written with slices, the form that the plugin makes one operation of."""
    half = integers([size // 2])
    axis, step = integers([3]), integers([1])
    first = opset15.slice(states, integers([0]), half, step, axis)
    second = opset15.slice(states, half, integers([size]), step, axis)
    turned = opset15.concat([opset15.multiply(second, opset15.constant(np.float32(-1))), first], -1)
    return opset15.add(opset15.multiply(states, rotary.cosine), opset15.multiply(turned, rotary.sine))


def attend(query: Node, key: Node, value: Node, mask: Node) -> Node:
    """Return scaled dot-product attention of (1, heads, length, size) inputs; `mask` is added to the scores."""
    return opset13.scaled_dot_product_attention(query, key, value, mask, causal=False)


def segment_mask(of_query: Node, of_key: Node) -> Node:
    """Return the additive mask (R, 1, T, S) that keeps attention inside each item of a packed row, or of R blocks.

    `of_query` int32 (R, T) and `of_key` int32 (R, S) number the item of every token.
    """
    allowed = opset15.equal(opset15.unsqueeze(of_query, integers(2)), opset15.unsqueeze(of_key, integers(1)))
    scores = opset15.select(allowed, opset15.constant(np.float32(0)), opset15.constant(MASKED))
    return opset15.unsqueeze(scores, integers(1))


def pooling_inputs(pooling: Pooling, slots: int, tokens: int) -> tuple[Node, Node]:
    """Return the inputs `members` and `counts` as `pool` and `chosen` take them; `counts` is for mean pooling alone."""
    gathers = pooling in OF_ONE_TOKEN
    members = input_of("members", [-1] if gathers else [slots, tokens], Type.i32 if gathers else Type.f32)
    return members, input_of("counts", [slots, 1], Type.f32)


def input_of(name: str, shape: list[int], kind: Type) -> Node:
    """Return the graph's input `name`; -1 in its `shape` is any length."""
    return opset15.parameter(PartialShape(shape), kind, name=name)


def chosen(states: Node, members: Node) -> Node:
    """Return the states (1, N, width) at the places `members` int32 (N,) of T packed ones, (1, T, width)."""
    return opset15.gather(states, members, integers(1))


def end_to_end(states: Node) -> Node:
    """Return the states (R, S, width) of a row in blocks as (1, T, width)."""
    width = states.get_output_partial_shape(0)[2].get_length()
    return opset15.reshape(states, integers([1, -1, width]), special_zero=False)


def row_of(states: Node) -> Node:
    """Return the shape [1, T] of the tokens of states (R, S, width), int64 (2,)."""
    sizes = opset15.gather(opset15.shape_of(states), integers([0, 1]), integers(0))
    return opset15.concat([integers([1]), opset15.reduce_prod(sizes, integers([0]), keep_dims=True)], 0)


def pool(states: Node, pooling: Pooling, members: Node, counts: Node) -> Node:
    """Return one vector per item slot, (N, hidden), of the packed states of T tokens, (R, S, hidden).

    For mean pooling `members` f32 (N, T) holds 1 where a token belongs to the slot's item and `counts` f32 (N, 1)
    the tokens of each. For cls and last the states are no others than those `chosen`, (1, N, hidden).
    """
    hidden_size = states.get_output_partial_shape(0)[2].get_length()
    flat = opset15.reshape(states, integers([-1, hidden_size]), special_zero=False)
    if pooling in OF_ONE_TOKEN:
        return flat
    if pooling == "mean":
        return opset15.divide(opset15.matmul(members, flat, False, False), counts)
    hidden = opset15.select(
        opset15.equal(opset15.unsqueeze(members, integers(2)), opset15.constant(np.float32(1))),
        opset15.unsqueeze(flat, integers(0)),
        opset15.constant(MASKED),
    )
    return opset15.reduce_max(hidden, integers([1]))
