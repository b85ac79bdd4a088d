"""The vision tower of Qwen3VLModel as an OpenVINO graph over the patches of one or more pictures, laid end to end.

Recipe: transformers' `Qwen3VLVisionModel` (pre-norm blocks, 2-D rotary positions, attention within each picture, four
patches merged into one token; states of a few layers besides the last go to the text tower too). Positions, learned
and rotary, are made outside the graph.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import PartialShape, Type, opset15

from quartzite.domain import PATCH_PIXELS, Encoded, Picture
from quartzite.engines.openvino import graph
from quartzite.engines.openvino.graph import Node
from quartzite.engines.openvino.int8 import SCALE
from quartzite.engines.openvino.pictures import (
    CHANNELS,
    MERGED,
    PATCH_VALUES,
    groups,
    laid,
    padded_length,
    patch_values,
    position_embeddings,
    rotary_tables,
)
from quartzite.engines.openvino.rows import TAIL, Arrays, Seen
from quartzite.engines.openvino.session import CompiledGraph
from quartzite.engines.openvino.turns import Turns
from quartzite.registry.card import VisionShape
from quartzite.weights.tensor import Tensor

EPSILON = 1e-6
FRAMES = 2
"""Frames of one patch; of a picture both are the same."""
PACKED_PATCHES = 2048
"""Most patches of pictures that share a run: between them stands a mask of their square. A larger one runs alone."""


def expected_tensors(shape: VisionShape, out: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of the tower, which makes tokens of `out` values, with their shapes."""
    hidden = shape.hidden
    names = {
        "patch_embed.proj.weight": (hidden, CHANNELS, FRAMES, PATCH_PIXELS, PATCH_PIXELS),
        "patch_embed.proj.bias": (hidden,),
        "pos_embed.weight": (shape.table_side**2, hidden),
    }
    for layer in range(shape.layers):
        at = f"blocks.{layer}"
        names |= {
            **_norm(f"{at}.norm1", hidden),
            **_norm(f"{at}.norm2", hidden),
            **_linear(f"{at}.attn.qkv", 3 * hidden, hidden),
            **_linear(f"{at}.attn.proj", hidden, hidden),
            **_linear(f"{at}.mlp.linear_fc1", shape.intermediate, hidden),
            **_linear(f"{at}.mlp.linear_fc2", hidden, shape.intermediate),
        }
    merged = hidden * MERGED**2
    for at, normed in _mergers(shape).items():
        names |= _norm(f"{at}.norm", normed)
        names |= _linear(f"{at}.linear_fc1", merged, merged)
        names |= _linear(f"{at}.linear_fc2", out, merged)
    return names


def _mergers(shape: VisionShape) -> dict[str, int]:
    """Return the mergers' names and the width of their norms: that of the last layer's goes over single patches."""
    deep = {f"deepstack_merger_list.{number}": shape.hidden * MERGED**2 for number in range(len(shape.deepstack))}
    return {"merger": shape.hidden, **deep}


def _linear(name: str, out: int, of: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, of), f"{name}.bias": (out,)}


def _norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


class VisionGraph:
    """Builds the graph of one tower; `tensors` are keyed by the names above and outlive the graph, as does this."""

    def __init__(self, shape: VisionShape, tensors: Mapping[str, Tensor]) -> None:
        self.shape = shape
        self.tensors = tensors
        self._head_size = shape.hidden // shape.heads
        # Both frames hold the same picture, so their weights may be added first: half the work and half the values.
        weight = tensors["patch_embed.proj.weight"].as_f32().sum(axis=2).reshape(shape.hidden, PATCH_VALUES)
        self._patch_weight = Tensor("patch_embed.proj.weight", "F32", np.ascontiguousarray(weight))

    def build(self) -> ov.Model:
        """Return the graph for any number P of patches.

        Inputs: `pixels` f32 (1, P, 768); `positions` f32 (1, P, hidden); `cosine`, `sine` f32 (1, 1, P, head_size);
        `segments` int32 (1, P), or (1, 1) for a single picture, so that no P x P mask is made; `key_segments` int32
        (1, P). Patches of TAIL belong to no picture.
        Output: f32 (1 + deep, P / 4, out): the tokens, and what is added to them in the text tower's first layers.
        """
        pixels = _input("pixels", [1, -1, PATCH_VALUES], Type.f32)
        positions = _input("positions", [1, -1, self.shape.hidden], Type.f32)
        cosine, sine = (_input(name, [1, 1, -1, self._head_size], Type.f32) for name in ("cosine", "sine"))
        segments, keys = (_input(name, [1, -1], Type.i32) for name in ("segments", "key_segments"))
        rotary = graph.Rotary(cosine, sine)
        mask = graph.segment_mask(segments, keys)
        bias = self.tensors["patch_embed.proj.bias"]
        states = opset15.add(graph.product(pixels, self._patch_weight, None, bias), positions)
        features = opset15.concat(self._features(states, rotary, mask), 0)
        return ov.Model([features], [pixels, positions, cosine, sine, segments, keys], "qwen3_vl_vision")

    def _features(self, states: Node, rotary: graph.Rotary, mask: Node) -> list[Node]:
        deep: list[Node] = []
        for layer in range(self.shape.layers):
            states = self._block(states, f"blocks.{layer}", rotary, mask)
            if layer in self.shape.deepstack:
                name = f"deepstack_merger_list.{len(deep)}"
                deep.append(self._merger(self._norm(self._in_fours(states), f"{name}.norm"), name))
        return [self._merger(self._in_fours(self._norm(states, "merger.norm")), "merger"), *deep]

    def _block(self, states: Node, at: str, rotary: graph.Rotary, mask: Node) -> Node:
        attended = self._attention(self._norm(states, f"{at}.norm1"), f"{at}.attn", rotary, mask)
        states = opset15.add(states, attended)
        inner = self._linear(self._norm(states, f"{at}.norm2"), f"{at}.mlp.linear_fc1")
        return opset15.add(states, self._linear(graph.activate(inner, "gelu_tanh"), f"{at}.mlp.linear_fc2"))

    def _attention(self, states: Node, at: str, rotary: graph.Rotary, mask: Node) -> Node:
        heads, size = self.shape.heads, self._head_size
        query, key, value = (
            graph.split_heads(self._linear(states, f"{at}.qkv", third), heads, size) for third in range(3)
        )
        query, key = (graph.rotate(part, rotary, size) for part in (query, key))
        attended = graph.join_heads(graph.attend(query, key, value, mask), self.shape.hidden)
        return self._linear(attended, f"{at}.proj")

    def _merger(self, normed: Node, at: str) -> Node:
        inner = graph.activate(self._linear(normed, f"{at}.linear_fc1"), "gelu")
        return self._linear(inner, f"{at}.linear_fc2")

    def _in_fours(self, states: Node) -> Node:
        """Return the states of four patches as one: (1, P, hidden) to (1, P / 4, 4 * hidden)."""
        return opset15.reshape(states, graph.integers([0, -1, self.shape.hidden * MERGED**2]), special_zero=True)

    def _linear(self, states: Node, name: str, third: int | None = None) -> Node:
        """Return the product with the named matrix, or with a `third` of its rows."""
        names = (f"{name}.weight", f"{name}.weight{SCALE}", f"{name}.bias")
        weight, scale, bias = (_third(self.tensors.get(part), third) for part in names)
        assert weight is not None  # noqa: S101  held against the expected tensors before
        return graph.product(states, weight, scale, bias)

    def _norm(self, states: Node, name: str) -> Node:
        return graph.layer_norm(states, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], EPSILON)


def _third(tensor: Tensor | None, third: int | None) -> Tensor | None:
    """Return one third of a tensor's rows, all of them for None."""
    if tensor is None or third is None:
        return tensor
    rows = len(tensor.data) // 3
    return Tensor(tensor.name, tensor.dtype, tensor.data[third * rows : (third + 1) * rows])


class VisionInputs:
    """Makes the graph's inputs: pixels, positions and segments."""

    def __init__(self, shape: VisionShape, tensors: Mapping[str, Tensor]) -> None:
        side = shape.table_side
        self._table = tensors["pos_embed.weight"].as_f32().reshape(side, side, shape.hidden)
        self._head_size = shape.hidden // shape.heads

    def packed(self, pictures: Sequence[Picture]) -> Arrays:
        """Return the inputs for `pictures` laid end to end, and a tail up to a length of few different ones."""
        grids = [picture.patches for picture in pictures]
        lengths = [rows * columns for rows, columns in grids]
        tables = [rotary_tables(grid, self._head_size) for grid in grids]
        length = padded_length(sum(lengths))
        segments = np.full(length, TAIL, dtype=np.int32)
        segments[: sum(lengths)] = np.repeat(np.arange(len(grids), dtype=np.int32), lengths)
        return {
            "pixels": laid([patch_values(picture) for picture in pictures], length)[None],
            "positions": laid([position_embeddings(self._table, grid) for grid in grids], length)[None],
            "cosine": laid([cosine for cosine, _ in tables], length)[None, None],
            "sine": laid([sine for _, sine in tables], length)[None, None],
            "segments": segments[None] if len(grids) > 1 else np.zeros((1, 1), dtype=np.int32),
            "key_segments": segments[None],
        }


class VisionTower:
    """Runs the tower over the pictures of a micro-batch."""

    def __init__(self, shape: VisionShape, tensors: Mapping[str, Tensor], compile_: Callable[[ov.Model], Any]) -> None:
        self._inputs = VisionInputs(shape, tensors)
        written = VisionGraph(shape, tensors)
        self._graph = CompiledGraph(lambda: compile_(written.build()))  # which reads from the memory of `written`

    def prime(self, streams: int) -> None:
        """Compute the smallest picture once on every stream, which packs the weights."""
        smallest = Picture(np.zeros((MERGED * PATCH_PIXELS, MERGED * PATCH_PIXELS, CHANNELS), dtype=np.uint8))
        self._graph.prime(self._inputs.packed([smallest]), streams)

    async def see(self, batch: Sequence[Encoded], turns: Turns) -> list[Encoded]:
        """Return `batch` with what the tower makes of its pictures; a run takes one of the engine's `turns`."""
        pictures = [item.picture for item in batch if item.picture is not None]
        features: list[NDArray[np.float32]] = []
        for group in groups(pictures, PACKED_PATCHES):
            features.extend(await self._run(group, turns))
        found = iter(features)
        return [item if item.picture is None else _seen(item, found) for item in batch]

    async def _run(self, pictures: Sequence[Picture], turns: Turns) -> Sequence[NDArray[np.float32]]:
        run = await self._graph.take()
        try:
            arrays = await asyncio.to_thread(self._inputs.packed, pictures)
            features = await run(arrays, turns)
        finally:
            self._graph.give_back(run)
        return np.split(features, np.cumsum([picture.tokens for picture in pictures]), axis=1)[:-1]


def _seen(item: Encoded, features: Iterator[NDArray[np.float32]]) -> Seen:
    return Seen(item.ids, item.picture, item.picture_at, next(features))


def _input(name: str, shape: list[int], kind: Type) -> Node:
    return opset15.parameter(PartialShape(shape), kind, name=name)
