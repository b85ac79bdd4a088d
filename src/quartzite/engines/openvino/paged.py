"""Causal attention of packed rows over keys and values in blocks: the plugin's PagedAttention operator.

Recipe: PagedAttention (arXiv:2309.06180). No mask is made, an item sees nothing but itself, and what a long item's rows
have computed is read where it lies. The operator's Python class is private: its inputs are those of the locked version.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from openvino import PartialShape, Type, opset15
from openvino.op import _PagedAttentionExtension

from quartzite.engines.openvino.caches import BLOCK_TOKENS, BLOCKS, KEYS, VALUES
from quartzite.engines.openvino.graph import Node
from quartzite.engines.openvino.rows import Arrays

PAST, BEGINS, BLOCK_BEGINS, LONGEST = "past_lens", "subsequence_begins", "block_indices_begins", "max_context_len"
ROW_INPUTS = {PAST: [-1], BEGINS: [-1], BLOCKS: [-1], BLOCK_BEGINS: [-1], LONGEST: []}
"""Inputs that `of_row` makes, with their shapes; all are int32."""


class PagedAttention:
    """The attention of one graph with so many key and value heads of `size`; `inputs` are those that it adds."""

    def __init__(self, key_value_heads: int, size: int) -> None:
        self._about = dict.fromkeys(("num_k_heads", "num_v_heads"), key_value_heads)
        self._about |= dict.fromkeys(("k_head_size", "v_head_size"), size)
        self._row = [_input(name, shape, Type.i32) for name, shape in ROW_INPUTS.items()]
        self.inputs: list[Node] = list(self._row)

    def attend(self, query: Node, key: Node, value: Node, layer: int) -> Node:
        """Return the attention (T, heads * size) of scaled `query` (T, heads * size).

        `key` and `value` (T, key_value_heads * size) join those that this layer has of the same items.
        """
        caches = [_input(name.format(layer), [-1] * 4, Type.dynamic) for name in (KEYS, VALUES)]
        self.inputs += caches
        *where, longest = self._row
        parts = [query, key, value, *caches, *where, *_without_window(), longest, *_without_extensions()]
        node: Any = _PagedAttentionExtension([part.output(0) for part in parts])
        for name, number in self._about.items():
            node.set_rt_info(number, name)
        return node.output(0)


def of_row(sizes: Sequence[int], tail: int, past: int = 0) -> Arrays:
    """Return the inputs of `ROW_INPUTS` for items of `sizes` tokens end to end, then a tail that belongs to none.

    The first item has `past` tokens more, from rows before.
    """
    parts = [*sizes, tail] if tail else list(sizes)
    ends = [parts[0] + past, *parts[1:]]
    blocks = [-(-end // BLOCK_TOKENS) for end in ends]
    return {
        PAST: _numbers([past] + [0] * (len(parts) - 1)),
        BEGINS: _numbers(accumulate(parts, initial=0)),
        BLOCKS: np.arange(sum(blocks), dtype=np.int32),
        BLOCK_BEGINS: _numbers(accumulate(blocks, initial=0)),
        LONGEST: np.array(max(ends), dtype=np.int32),
    }


def _without_window() -> list[Node]:
    """Return the operator's inputs for scale, sliding window and slopes: queries are scaled, and see all before."""
    return [_constant(1, np.float32), _constant(0, np.int32), _nothing(np.float32)]


def _without_extensions() -> list[Node]:
    """Return inputs for what is not used: score windows, rotated, evicted and sparse blocks, sinks, and the rest."""
    rotation = [_nothing(np.int32), _nothing(np.int32), _nothing(np.int32)]
    sparse = [_nothing(np.float32), _nothing(np.float32), _constant(0, np.int32), _constant(0, np.int32)]
    sinks = _constant(np.zeros((0, 0, 0, 0)), np.float32)
    eviction = [_constant(0, np.int32), *(_nothing(np.int32) for _ in range(4))]
    return [*rotation, *sparse, sinks, *eviction, _nothing(np.uint8), _nothing(np.int32)]


def _input(name: str, shape: Sequence[int], kind: Type) -> Node:
    node = opset15.parameter(PartialShape(list(shape)), kind, name=name)
    node.output(0).get_tensor().set_names({name})
    return node


def _constant(value: Any, kind: type) -> Node:
    return opset15.constant(np.asarray(value, dtype=kind))


def _nothing(kind: type) -> Node:
    return _constant(np.zeros(0), kind)


def _numbers(values: Any) -> Any:
    return np.fromiter(values, dtype=np.int32)
