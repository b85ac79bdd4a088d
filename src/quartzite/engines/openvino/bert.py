"""BertModel and XLMRobertaModel as an OpenVINO graph over one packed row of tokens, which may be in blocks.

Recipe: `BertModel.forward` of the papers BERT (arXiv:1810.04805) and XLM-R (arXiv:1911.02116); the two differ only in
tensor prefix, position offset and epsilon. Word, position and type embeddings are summed outside the graph.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import openvino as ov
from openvino import Type, opset15

from quartzite.domain import Encoded, Ids
from quartzite.engines.blocks import Layout, end_to_end
from quartzite.engines.openvino import graph, levels
from quartzite.engines.openvino.graph import Node
from quartzite.engines.openvino.int8 import SCALE, SMOOTHING
from quartzite.engines.openvino.levels import LIFTS, Levels
from quartzite.engines.openvino.rows import Arrays, EmbeddingTable, PackedRow, pack, pooling_arrays
from quartzite.registry.card import OF_ONE_TOKEN, BertShape, Pooling
from quartzite.weights.tensor import Tensor

WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"
IGNORABLE = (r"pooler\..*", r"embeddings\.position_ids", r"embeddings\.token_type_ids", r"cls\..*", r"lm_head\..*")


def expected_tensors(shape: BertShape) -> dict[str, tuple[int, ...]]:
    """Return every tensor a folder of this architecture must hold, prefix-free, with its shape."""
    hidden, inner = shape.hidden, shape.intermediate
    names = {
        WORDS: (shape.vocabulary, hidden),
        POSITIONS: (shape.positions, hidden),
        TYPES: (shape.token_types, hidden),
        **_linear("embeddings.LayerNorm", hidden),
    }
    for layer in range(shape.layers):
        at = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            names |= _linear(f"{at}.attention.self.{part}", hidden, hidden)
        names |= _linear(f"{at}.attention.output.dense", hidden, hidden)
        names |= _linear(f"{at}.attention.output.LayerNorm", hidden)
        names |= _linear(f"{at}.intermediate.dense", inner, hidden)
        names |= _linear(f"{at}.output.dense", hidden, inner)
        names |= _linear(f"{at}.output.LayerNorm", hidden)
    return names


def shared_inputs(shape: BertShape, by_token: bool = False) -> dict[str, list[str]]:
    """Return the places in the graph whose states can be smoothed, with the matrices that they meet.

    `by_token` adds those where it costs an operation of its own unless states are brought to int8 there anyway.
    """
    places: dict[str, list[str]] = {}
    for layer in range(shape.layers):
        at = f"encoder.layer.{layer}"
        places[f"{at}.attention.self"] = [f"{at}.attention.self.{part}.weight" for part in ("query", "key", "value")]
        places[f"{at}.intermediate"] = [f"{at}.intermediate.dense.weight"]
        if by_token:
            places[f"{at}.output"] = [f"{at}.output.dense.weight"]
    return places


def _linear(name: str, out: int, *of: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, *of), f"{name}.bias": (out,)}


@dataclass(frozen=True, slots=True)
class Pooled:
    """The tokens that are pooled, where each item has one: their `places` int32 (N,) along a row of T tokens.

    `mask` (1, 1, N, T) is added to the scores of their attention. The last layer has no others: decision 84.
    """

    places: Node
    mask: Node

    @classmethod
    def of(cls, states: Node, segments: Node, places: Node) -> "Pooled":
        """Return the tokens at `places` int32 (N,) of the row of `states` (R, S, hidden).

        `segments` int32 are (R, S), or (1, 1) where an item fills the row: then they are repeated for its tokens.
        """
        of_key = opset15.broadcast(opset15.reshape(segments, graph.integers([1, -1]), False), graph.row_of(states))
        return cls(places, graph.segment_mask(opset15.gather(of_key, places, graph.integers(1)), of_key))


@dataclass(frozen=True)
class BertGraph:
    """Builds the graph of one model; `tensors` are keyed by prefix-free names and outlive the graph.

    With `by_token` states are brought to int8 before they meet the matrices, which are int8 rows then. With `convolves`
    products of rows of a known length are convolutions where that is faster. `places` are the nodes (1, T, in) of
    `shared_inputs`, as they were built last.
    """

    shape: BertShape
    tensors: Mapping[str, Tensor]
    pooling: Pooling
    by_token: bool = False
    convolves: bool = False
    places: dict[str, Node] = field(default_factory=dict)

    def build(self, grid: tuple[int, int] | None, slots: int) -> ov.Model:
        """Return the graph for rows of T tokens in the R blocks of S of `grid` (None: any), and `slots` item slots.

        Inputs: `states` f32 (R, S, hidden) summed embeddings; `segments` int32
        (R, S), or (1, 1) where a single item fills the row, so that no T x T mask is made; `members`, `counts` as
        `graph.pool` takes them. Output: f32 (slots, hidden).
        """
        blocks, block = grid or (-1, -1)
        tokens = blocks * block if grid else -1
        states = graph.input_of("states", [blocks, block, self.shape.hidden], Type.f32)
        segments = graph.input_of("segments", [blocks, block], Type.i32)
        members, counts = graph.pooling_inputs(self.pooling, slots, tokens)
        pooled = Pooled.of(states, segments, members) if self.pooling in OF_ONE_TOKEN else None
        hidden = self.trunk(states, graph.segment_mask(segments, segments), pooled)
        inputs = [states, segments, members] + ([counts] if self.pooling == "mean" else [])
        return ov.Model([graph.pool(hidden, self.pooling, members, counts)], inputs, "bert")

    def trunk(self, states: Node, mask: Node, pooled: Pooled | None = None) -> Node:
        """Return the last hidden states of summed embeddings `states` (B, T, hidden) under an additive `mask`.

        With `pooled` only those of the N tokens at its places, (1, N, hidden).
        """
        *earlier, last = (f"encoder.layer.{layer}" for layer in range(self.shape.layers))
        hidden = self._norm(states, "embeddings.LayerNorm")
        for at in earlier:
            hidden = self._layer(hidden, hidden, at, mask)
        if pooled is None:
            return self._layer(hidden, hidden, last, mask)
        hidden = graph.end_to_end(hidden)
        return self._layer(graph.chosen(hidden, pooled.places), hidden, last, pooled.mask)

    def _layer(self, asking: Node, states: Node, at: str, mask: Node) -> Node:
        """Return the next states of the tokens `asking`, which attend to `states`: their own, or more tokens'."""
        attended = self._signed(self._attention(asking, states, f"{at}.attention.self", mask))
        attended = self._linear(attended, f"{at}.attention.output.dense")
        states = self._norm(opset15.add(attended, asking), f"{at}.attention.output.LayerNorm")
        taken = self._smoothed(states, f"{at}.intermediate")
        inner = self._activated(self._linear(taken, f"{at}.intermediate.dense"), f"{at}.output")
        return self._norm(opset15.add(self._linear(inner, f"{at}.output.dense"), states), f"{at}.output.LayerNorm")

    def _attention(self, asking: Node, states: Node, at: str, mask: Node) -> Node:
        heads, size = self.shape.heads, self.shape.hidden // self.shape.heads
        asks = self._smoothed(asking, at)
        attended = asks if asking is states else self._smoothed(states, at)
        query, key, value = (
            graph.split_heads(self._linear(taken, f"{at}.{part}"), heads, size)
            for part, taken in (("query", asks), ("key", attended), ("value", attended))
        )
        return graph.join_heads(graph.attend(query, key, value, mask), self.shape.hidden)

    def _smoothed(self, states: Node, place: str) -> Node | Levels:
        self.places[place] = states
        return self._signed(graph.smoothed(states, self.tensors.get(place + SMOOTHING)))

    def _signed(self, states: Node) -> Node | Levels:
        return levels.signed(states) if self.by_token else states

    def _activated(self, states: Node, place: str) -> Node | Levels:
        self.places[place] = activated = graph.activate(states, self.shape.activation)
        if not self.by_token:
            return activated
        return levels.lifted(activated, LIFTS[self.shape.activation], self.tensors.get(place + SMOOTHING))

    def _linear(self, states: Node | Levels, name: str) -> Node:
        weight, bias = f"{name}.weight", f"{name}.bias"
        if isinstance(states, Levels):
            return levels.product(states, self.tensors[weight], self.tensors[weight + SCALE], self.tensors[bias])
        scale = self.tensors.get(weight + SCALE)
        return graph.product(states, self.tensors[weight], scale, self.tensors[bias], self.convolves)

    def _norm(self, states: Node, name: str) -> Node:
        gain, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return graph.layer_norm(states, gain, bias, self.shape.epsilon)


class BertInputs:
    """Makes the graph's inputs: summed embeddings, segments and pooling."""

    def __init__(self, shape: BertShape, tensors: Mapping[str, Tensor], pooling: Pooling) -> None:
        self._words = EmbeddingTable(tensors[WORDS])
        # Every token is of type 0, so that row is added to the positions once and not to every token.
        self._positions = tensors[POSITIONS].as_f32() + tensors[TYPES].as_f32()[0]
        self._offset = shape.position_offset
        self._pooling = pooling

    def packed(self, batch: Sequence[Encoded], layout: Layout, slots: int) -> Arrays:
        """Return the inputs for the items of `batch` in a row with that `layout`."""
        return self._arrays(pack(batch, layout), slots, layout.block)

    def pieces(self, item: Encoded, buckets: Sequence[int], slots: int) -> Iterator[Arrays]:  # noqa: ARG002
        """Yield the inputs for one item too long to share a row: the item whole, as its attention needs it; no mask."""
        layout = end_to_end([item.tokens], item.tokens)
        arrays = dict(self.packed([item], layout, slots))
        arrays["segments"] = np.zeros((1, 1), dtype=np.int32)
        yield arrays

    def _arrays(self, row: PackedRow, slots: int, block: int) -> Arrays:
        states = self._words.rows(row.ids)
        states += self._positions[self._places(row)]
        return {
            "states": states.reshape(-1, block, states.shape[1]),
            "segments": row.segments.reshape(-1, block),
            **pooling_arrays(row, self._pooling, slots),
        }

    def _places(self, row: PackedRow) -> Ids:
        """Return the rows of the position table, int32 (T,).

        Where positions have an offset, its row below is that of the padding token: one written out in a text takes
        it, and is not counted by the tokens after it (transformers' `create_position_ids_from_input_ids`).
        """
        places = row.positions + np.int32(self._offset)
        padding = row.ids == self._offset - 1
        if self._offset and padding.any():
            before = np.cumsum(padding, dtype=np.int32) - padding
            places -= before - before[np.arange(len(places)) - row.positions]
            places[padding] = self._offset - 1
        return places
