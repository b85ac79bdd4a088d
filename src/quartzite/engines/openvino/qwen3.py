"""Qwen3Model as an OpenVINO graph over one packed row of tokens, or one piece of a long item.

Recipe: transformers' `Qwen3Model` (pre-norm RMS, per-head q/k norms, rotate-half rotary positions, grouped key/value
heads, SwiGLU, causal). Keys and values live in the graph's state: packed rows start from an empty one, a long item is
fed piece by piece, so that no T x T mask is ever made. Word embeddings and rotary tables are looked up outside the
graph: a position such as 8191 is no bfloat16 number.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import openvino as ov
from openvino import PartialShape, Type, opset15
from openvino.op.util import Variable, VariableInfo

from quartzite.domain import Encoded, Ids
from quartzite.engines.blocks import Layout, end_to_end
from quartzite.engines.openvino import graph
from quartzite.engines.openvino.graph import Node
from quartzite.engines.openvino.int8 import SCALE, SMOOTHING
from quartzite.engines.openvino.rows import Arrays, EmbeddingTable, PackedRow, RotaryTables, pack, pooling_arrays
from quartzite.registry.card import Pooling, Qwen3Shape
from quartzite.weights.tensor import Tensor

WORDS = "embed_tokens.weight"
ADDED = "added.{}"
"""Name of the input that is added to the states after a layer."""
IGNORABLE = (r"lm_head\.weight", r".*rotary_emb\.inv_freq")


def expected_tensors(shape: Qwen3Shape) -> dict[str, tuple[int, ...]]:
    """Return every tensor a folder of this architecture must hold, prefix-free, with its shape."""
    hidden, size, inner = shape.hidden, shape.head_size, shape.intermediate
    queries, keys = shape.heads * size, shape.key_value_heads * size
    names: dict[str, tuple[int, ...]] = {WORDS: (shape.vocabulary, hidden), "norm.weight": (hidden,)}
    for layer in range(shape.layers):
        at = f"layers.{layer}"
        names |= {
            f"{at}.input_layernorm.weight": (hidden,),
            f"{at}.post_attention_layernorm.weight": (hidden,),
            f"{at}.self_attn.q_proj.weight": (queries, hidden),
            f"{at}.self_attn.k_proj.weight": (keys, hidden),
            f"{at}.self_attn.v_proj.weight": (keys, hidden),
            f"{at}.self_attn.o_proj.weight": (hidden, queries),
            f"{at}.self_attn.q_norm.weight": (size,),
            f"{at}.self_attn.k_norm.weight": (size,),
            f"{at}.mlp.gate_proj.weight": (inner, hidden),
            f"{at}.mlp.up_proj.weight": (inner, hidden),
            f"{at}.mlp.down_proj.weight": (hidden, inner),
        }
    return names


def shared_inputs(shape: Qwen3Shape) -> dict[str, list[str]]:
    """Return the places in the graph whose states can be smoothed, with the matrices that they meet."""
    places: dict[str, list[str]] = {}
    for layer in range(shape.layers):
        at = f"layers.{layer}"
        places[f"{at}.input_layernorm"] = [f"{at}.self_attn.{part}_proj.weight" for part in ("q", "k", "v")]
        places[f"{at}.post_attention_layernorm"] = [f"{at}.mlp.{part}_proj.weight" for part in ("gate", "up")]
    return places


class Qwen3Graph:
    """Builds the graph of one model; `tensors` are keyed by prefix-free names and outlive the graph.

    `places` are the nodes (1, T, in) of `shared_inputs`, as they were built last.
    """

    def __init__(self, shape: Qwen3Shape, tensors: Mapping[str, Tensor], pooling: Pooling) -> None:
        self.shape = shape
        self.tensors = tensors
        self.pooling = pooling
        self.places: dict[str, Node] = {}
        self._sinks: list[Node] = []

    def build(self, slots: int, deep: int = 0) -> ov.Model:
        """Return the graph for rows of any length T and `slots` item slots.

        Inputs: `states` f32 (1, T, hidden) word embeddings; `cosine`, `sine` f32 (1, 1, T, head_size); `segments`
        int32 (1, T); `key_segments` int32 (1, S), the segments of the state and of this row after it; `members`,
        `counts` as `graph.pool` takes them; `added.0` and so on, f32 (1, T, hidden), or (1, 1, hidden) for nothing:
        what is added to the states after each of the first `deep` layers. Output: f32 (slots, hidden).
        """
        size = self.shape.head_size
        states = _input("states", [1, -1, self.shape.hidden], Type.f32)
        rotary = graph.Rotary(*(_input(name, [1, 1, -1, size], Type.f32) for name in ("cosine", "sine")))
        segments = _input("segments", [1, -1], Type.i32)
        keys = _input("key_segments", [1, -1], Type.i32)
        gathers = self.pooling in ("cls", "last")
        members = _input("members", [slots] if gathers else [slots, -1], Type.i32 if gathers else Type.f32)
        counts = _input("counts", [slots, 1], Type.f32)
        added = [_input(ADDED.format(layer), [1, -1, self.shape.hidden], Type.f32) for layer in range(deep)]
        hidden = self.trunk(states, rotary, graph.segment_mask(segments, keys, causal=True), stateful=True, added=added)
        pooled = opset15.result(graph.pool(hidden, self.pooling, members, counts))
        inputs = [states, rotary.cosine, rotary.sine, segments, keys, members, *added]
        inputs += [counts] if self.pooling == "mean" else []
        return ov.Model([pooled], self._sinks, inputs, "qwen3")

    def trunk(self, states: Node, rotary: graph.Rotary, mask: Node, stateful: bool, added: Sequence[Node] = ()) -> Node:
        """Return the normed last hidden states of word embeddings `states` (B, T, hidden) under an additive `mask`.

        With `stateful`, keys and values are appended to the graph's state and attention goes over all of it. `added`
        is added to the states after the first layers, one after the other.
        """
        for layer in range(self.shape.layers):
            states = self._layer(states, layer, rotary, mask, stateful)
            if layer < len(added):
                states = opset15.add(states, added[layer])
        return self._norm(states, "norm")

    def _layer(self, states: Node, layer: int, rotary: graph.Rotary, mask: Node, stateful: bool) -> Node:
        at = f"layers.{layer}"
        normed = self._smoothed_norm(states, f"{at}.input_layernorm")
        states = opset15.add(states, self._attention(normed, at, rotary, mask, stateful))
        normed = self._smoothed_norm(states, f"{at}.post_attention_layernorm")
        gate = graph.activate(self._linear(normed, f"{at}.mlp.gate_proj"), "silu")
        inner = opset15.multiply(gate, self._linear(normed, f"{at}.mlp.up_proj"))
        return opset15.add(states, self._linear(inner, f"{at}.mlp.down_proj"))

    def _attention(self, states: Node, at: str, rotary: graph.Rotary, mask: Node, stateful: bool) -> Node:
        shape, own = self.shape, f"{at}.self_attn"
        query = self._heads(states, f"{own}.q", shape.heads, rotary, scale=shape.head_size**-0.5)
        key = self._heads(states, f"{own}.k", shape.key_value_heads, rotary)
        value = graph.split_heads(self._linear(states, f"{own}.v_proj"), shape.key_value_heads, shape.head_size)
        if stateful:
            key, value = self._with_state(key, f"{own}.key"), self._with_state(value, f"{own}.value")
        attended = graph.join_heads(self._attend(query, key, value, mask), shape.heads * shape.head_size)
        return self._linear(attended, f"{own}.o_proj")

    def _attend(self, query: Node, key: Node, value: Node, mask: Node) -> Node:
        """Return the attention of scaled query (B, heads, T, size) over key and value (B, key_value_heads, S, size).

        Written out in products that share each key head among its group of query heads: the plugin's own operator
        copies them, and is ten times slower once keys are older than the row.
        """
        groups, size = self.shape.key_value_heads, self.shape.head_size
        in_groups = opset15.reshape(
            query, graph.integers([0, groups, self.shape.heads // groups, -1, size]), special_zero=True
        )
        key, value = (opset15.unsqueeze(part, graph.integers(2)) for part in (key, value))
        scores = opset15.add(opset15.matmul(in_groups, key, False, True), mask)
        attended = opset15.matmul(opset15.softmax(scores, -1), value, False, False)
        return opset15.reshape(attended, graph.integers([0, self.shape.heads, -1, size]), special_zero=True)

    def _heads(self, states: Node, name: str, heads: int, rotary: graph.Rotary, scale: float = 1.0) -> Node:
        """Project, split, norm each head, turn by position: (1, T, hidden) to (1, heads, T, head_size), times `scale`.

        The scale goes into the norm's gain: an operation of its own reads and writes all heads once more.
        """
        projected = self._linear(states, f"{name}_proj")
        split = opset15.reshape(projected, graph.integers([0, 0, heads, self.shape.head_size]), special_zero=True)
        gain = self.tensors[f"{name}_norm.weight"].as_f32() * np.float32(scale)
        normed = graph.rms_norm(split, opset15.constant(gain), self.shape.epsilon)
        normed = opset15.transpose(normed, graph.integers([0, 2, 1, 3]))
        return graph.rotate(normed, rotary, self.shape.head_size)

    def _with_state(self, new: Node, name: str) -> Node:
        """Append `new` (1, heads, T, size) to the named state and return the whole of it (1, heads, S, size)."""
        heads, size = self.shape.key_value_heads, self.shape.head_size
        about = VariableInfo()
        about.data_shape = PartialShape([1, heads, -1, size])
        about.data_type = Type.f32
        about.variable_id = name
        variable = Variable(about)
        empty = opset15.constant(np.zeros((1, heads, 0, size), dtype=np.float32))
        whole = opset15.concat([opset15.read_value(empty, variable), new], 2)
        self._sinks.append(opset15.assign(whole, variable))
        return whole

    def _linear(self, states: Node, name: str) -> Node:
        weight = f"{name}.weight"
        return graph.product(states, self.tensors[weight], self.tensors.get(weight + SCALE), None)

    def _smoothed_norm(self, states: Node, name: str) -> Node:
        self.places[name] = normed = self._norm(states, name)
        return graph.smoothed(normed, self.tensors.get(name + SMOOTHING))

    def _norm(self, states: Node, name: str) -> Node:
        return graph.rms_norm(states, graph.stored(self.tensors[f"{name}.weight"]), self.shape.epsilon)


class Qwen3Inputs:
    """Makes the graph's inputs: word embeddings, rotary rows, segments and pooling."""

    def __init__(self, shape: Qwen3Shape, tensors: Mapping[str, Tensor], pooling: Pooling, longest: int) -> None:
        self._words = EmbeddingTable(tensors[WORDS])
        self.rotary = RotaryTables(longest, shape.head_size, shape.rope_theta)
        self._pooling = pooling

    def packed(self, batch: Sequence[Encoded], layout: Layout, slots: int) -> Arrays:
        """Return the inputs for the items of `batch` in an undivided row with that `layout`."""
        row = pack(batch, layout)
        return self._arrays(row, row.segments, slots)

    def pieces(self, item: Encoded, buckets: Sequence[int], slots: int) -> Iterator[Arrays]:
        """Yield the inputs for one item too long to share a row: pieces of the longest of `buckets`, and the rest."""
        for start in range(0, item.tokens, buckets[-1]):
            piece = Encoded(item.ids[start : start + buckets[-1]])
            length = next(length for length in buckets if length >= piece.tokens)
            row = pack([piece], end_to_end([piece.tokens], length))
            row = replace(row, positions=row.positions + np.int32(start))
            keys = np.concatenate([np.zeros(start, dtype=np.int32), row.segments])
            yield self._arrays(row, keys, slots)

    def _arrays(self, row: PackedRow, keys: Ids, slots: int) -> Arrays:
        return {
            "states": self._words.rows(row.ids)[None],
            **self.rotary.at(row.positions),
            "segments": row.segments[None],
            "key_segments": keys[None],
            **pooling_arrays(row, self._pooling, slots),
        }


def _input(name: str, shape: list[int], kind: Type) -> Node:
    return opset15.parameter(PartialShape(shape), kind, name=name)
