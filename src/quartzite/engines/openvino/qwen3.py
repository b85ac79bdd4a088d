"""Qwen3Model as an OpenVINO graph over one packed row of tokens, or one piece of a long item.

Recipe: transformers' `Qwen3Model` (pre-norm RMS, per-head q/k norms, rotate-half rotary positions, grouped key/value
heads, SwiGLU, causal). Attention makes no mask, and reads an item's earlier pieces from blocks of keys and values, so
there is no T x T matrix at any length. Word embeddings and rotary tables are looked up outside the graph: a position
such as 8191 is no bfloat16 number.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import openvino as ov
from openvino import Type, opset15

from quartzite.domain import Encoded
from quartzite.engines.blocks import Layout, end_to_end
from quartzite.engines.openvino import graph, levels, paged
from quartzite.engines.openvino.graph import Node
from quartzite.engines.openvino.int8 import SCALE, SMOOTHING
from quartzite.engines.openvino.levels import Levels
from quartzite.engines.openvino.rows import Arrays, EmbeddingTable, PackedRow, RotaryTables, pack, pooling_arrays
from quartzite.registry.card import OF_ONE_TOKEN, Activation, Pooling, Qwen3Shape
from quartzite.weights.tensor import Tensor

WORDS = "embed_tokens.weight"
ADDED = "added.{}"
"""Name of the input that is added to the states after a layer."""
Attend = Callable[[Node, Node, Node, int], Node]
"""Makes the attention (T, heads * size) of a scaled query of that shape, a key and a value, in a layer."""
UNLEVELLED = "mlp.down_proj"
"""The product whose states stay as they are: a few of a token are far wider than the rest, see decision 68."""
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

    With `by_token` states are brought to int8 before they meet the matrices, which are int8 rows then. With `convolves`
    products of rows of a known length are convolutions where that is faster. `places` are the nodes (1, T, in) of
    `shared_inputs`, as they were built last.
    """

    def __init__(
        self,
        shape: Qwen3Shape,
        tensors: Mapping[str, Tensor],
        pooling: Pooling,
        by_token: bool = False,
        convolves: bool = False,
    ) -> None:
        self.shape = shape
        self.tensors = tensors
        self.pooling = pooling
        self.by_token = by_token
        self.convolves = convolves
        self.places: dict[str, Node] = {}

    def build(self, slots: int, deep: int = 0, tokens: int = -1) -> ov.Model:
        """Return the graph for rows of T = `tokens` (-1: of any length) and `slots` item slots.

        Inputs: `states` f32 (1, T, hidden) word embeddings; `cosine`, `sine` f32 (T, 1, 1, head_size); what
        `paged.PagedAttention` takes; `members`, `counts` as `graph.pool` takes them; `added.0` and so on, f32
        (1, T, hidden), or (1, 1, hidden) for nothing: what is added to the states after each of the first `deep`
        layers. Output: f32 (slots, hidden).
        """
        size = self.shape.head_size
        states = graph.input_of("states", [1, tokens, self.shape.hidden], Type.f32)
        rotary = graph.Rotary(*(graph.input_of(name, [tokens, 1, 1, size], Type.f32) for name in ("cosine", "sine")))
        attention = paged.PagedAttention(self.shape.key_value_heads, size)
        members, counts = graph.pooling_inputs(self.pooling, slots, tokens)
        added = [graph.input_of(ADDED.format(layer), [1, -1, self.shape.hidden], Type.f32) for layer in range(deep)]
        hidden = self.trunk(states, rotary, attention.attend, added, members if self.pooling in OF_ONE_TOKEN else None)
        pooled = opset15.result(graph.pool(hidden, self.pooling, members, counts))
        inputs = [states, rotary.cosine, rotary.sine, *attention.inputs, members, *added]
        inputs += [counts] if self.pooling == "mean" else []
        return ov.Model([pooled], inputs, "qwen3")

    def trunk(
        self,
        states: Node,
        rotary: graph.Rotary,
        attend: Attend,
        added: Sequence[Node] = (),
        pooled: Node | None = None,
    ) -> Node:
        """Return the normed last hidden states of word embeddings `states` (1, T, hidden).

        `rotary` are tables (T, 1, 1, head_size), `attend` makes attention, `added` is added to the states after the
        first layers, one after the other. With `pooled` only those of the N tokens at these places, (1, N, hidden):
        what comes after the last layer's attention is computed for no others (decision 84).
        """
        last = self.shape.layers - 1
        for layer in range(last):
            states = _with(self._layer(states, layer, rotary, attend), layer, added)
        if pooled is None or len(added) <= last:
            states = _with(self._layer(states, last, rotary, attend, pooled), last, added)
        else:
            states = graph.chosen(_with(self._layer(states, last, rotary, attend), last, added), pooled)
        return self._norm(states, "norm")

    def _layer(
        self, states: Node, layer: int, rotary: graph.Rotary, attend: Attend, pooled: Node | None = None
    ) -> Node:
        at = f"layers.{layer}"
        normed = self._smoothed_norm(states, f"{at}.input_layernorm")
        attended = self._attention(normed, layer, rotary, attend)
        if pooled is not None:
            states, attended = graph.chosen(states, pooled), graph.chosen(attended, pooled)
        states = opset15.add(states, self._linear(attended, f"{at}.self_attn.o_proj"))
        normed = self._smoothed_norm(states, f"{at}.post_attention_layernorm")
        gate = self._linear(normed, f"{at}.mlp.gate_proj", "silu")
        inner = opset15.multiply(gate, self._linear(normed, f"{at}.mlp.up_proj"))
        return opset15.add(states, self._linear(inner, f"{at}.mlp.down_proj"))

    def _attention(self, states: Node | Levels, layer: int, rotary: graph.Rotary, attend: Attend) -> Node:
        """Return what the heads (1, T, heads * size) have gathered, not yet projected."""
        shape, own = self.shape, f"layers.{layer}.self_attn"
        query = self._heads(states, f"{own}.q", shape.heads, rotary, scale=shape.head_size**-0.5)
        key = self._heads(states, f"{own}.k", shape.key_value_heads, rotary)
        value = _by_token(self._linear(states, f"{own}.v_proj"), shape.key_value_heads * shape.head_size)
        # What is given to a product has its batch first, as the states have.
        return opset15.unsqueeze(attend(query, key, value, layer), graph.integers(0))

    def _heads(self, states: Node, name: str, heads: int, rotary: graph.Rotary, scale: float = 1.0) -> Node:
        """Project, norm each head, turn by position: (1, T, hidden) to (T, heads * head_size), times `scale`.

        Tokens come first, as a batch of heads of one place each: nothing is transposed. The scale goes into the norm's
        gain: an operation of its own reads and writes all heads once more.
        """
        size = self.shape.head_size
        projected = self._linear(states, f"{name}_proj")
        split = opset15.reshape(projected, graph.integers([-1, heads, 1, size]), special_zero=False)
        gain = self.tensors[f"{name}_norm.weight"].as_f32() * np.float32(scale)
        normed = graph.rms_norm(split, opset15.constant(gain), self.shape.epsilon)
        return _by_token(graph.rotate(normed, rotary, size), heads * size)

    def _linear(self, states: Node | Levels, name: str, activation: Activation | None = None) -> Node:
        weight = f"{name}.weight"
        if not self.by_token or name.endswith(UNLEVELLED):
            scale = self.tensors.get(weight + SCALE)
            return graph.product(states, self.tensors[weight], scale, None, self.convolves, activation)
        taken = states if isinstance(states, Levels) else levels.signed(states)
        product = levels.product(taken, self.tensors[weight], self.tensors[weight + SCALE], None)
        return graph.activate(product, activation)

    def _smoothed_norm(self, states: Node, name: str) -> Node | Levels:
        self.places[name] = normed = self._norm(states, name)
        smoothed = graph.smoothed(normed, self.tensors.get(name + SMOOTHING))
        return levels.signed(smoothed) if self.by_token else smoothed

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
        return self._arrays(pack(batch, layout), slots)

    def pieces(self, item: Encoded, buckets: Sequence[int], slots: int) -> Iterator[Arrays]:
        """Yield the inputs for one item too long to share a row: pieces of the longest of `buckets`, and the rest."""
        for start in range(0, item.tokens, buckets[-1]):
            piece = Encoded(item.ids[start : start + buckets[-1]])
            length = next(length for length in buckets if length >= piece.tokens)
            row = pack([piece], end_to_end([piece.tokens], length))
            yield self._arrays(replace(row, positions=row.positions + np.int32(start)), slots, start)

    def _arrays(self, row: PackedRow, slots: int, past: int = 0) -> Arrays:
        sizes = row.lengths.tolist()
        return {
            "states": self._words.rows(row.ids)[None],
            **self.rotary.at(row.positions),
            **paged.of_row(sizes, len(row.ids) - sum(sizes), past),
            **pooling_arrays(row, self._pooling, slots),
        }


def _with(states: Node, layer: int, added: Sequence[Node]) -> Node:
    """Return the states after `layer` with what is added to them there, if anything is."""
    return opset15.add(states, added[layer]) if layer < len(added) else states


def _by_token(states: Node, width: int) -> Node:
    """Return states of any shape as (tokens, width)."""
    return opset15.reshape(states, graph.integers([-1, width]), special_zero=False)
