"""The OpenVINO engine: one model's weights, graphs and streams behind the `Engine` protocol."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import openvino as ov

from quartzite.config import EngineSettings
from quartzite.domain import Encoded, Vectors
from quartzite.engines.base import Block, MicroBatchShape
from quartzite.engines.blocks import Layout, cheapest_layout, end_to_end
from quartzite.engines.openvino import bert, qwen3, qwen3_vl
from quartzite.engines.openvino.allocation import return_large_pieces
from quartzite.engines.openvino.graph import LEAST_CONVOLVED
from quartzite.engines.openvino.int8 import Smoothing, with_int8_products
from quartzite.engines.openvino.precision import Arithmetic, choose, processor_flags
from quartzite.engines.openvino.qwen3_vl_vision import VisionTower
from quartzite.engines.openvino.rows import Arrays
from quartzite.engines.openvino.session import CompiledGraph, Graphs, Spoilt
from quartzite.engines.openvino.smoothing import smoothings
from quartzite.engines.openvino.turns import Turns
from quartzite.errors import ModelRefused
from quartzite.registry.card import BertShape, ModelCard, Pooling, Qwen3Shape, Qwen3VlShape, Shape
from quartzite.weights.folder import open_weights
from quartzite.weights.layout import match
from quartzite.weights.tensor import Tensor

SMALL_MODEL_PARAMETERS = 50_000_000
"""Up to this many weights in products a model gets graphs of its own for some row lengths: see decision 62."""
STEP = 32
"""Row lengths are multiples of this many tokens, so that few kernels are ever made."""
SHORTEST = 16
"""The shortest row, one tile of the products: see decision 77."""
LARGE_MODEL_PARAMETERS = 2_000_000_000
"""Above this a row of 128 tokens already keeps a core busy for seconds, so rows are shorter."""
SPREAD_PARAMETERS = 1_000_000_000
"""Up to this many a model for texts is held twice, so that rows alone can have several streams: see decision 59."""
WIDE_PARAMETERS = 200_000_000
"""Above this all streams of a model that is held once have several threads: an item alone would take too long."""
THREADS_OF_A_WIDE_STREAM = 4
"""At most so many threads share the products of one row."""
LEAST_CONVOLVED_ROW = 256
"""Shorter rows gain nothing by convolutions: decision 82."""
PRIMED = 128
"""Rows that have several streams are tried out beforehand up to this many tokens: those of usual queries."""
BLOCKS_OF_SMALL, BLOCKS_OF_OTHERS = Block(64, 0.8), Block(128, 0.86)
"""Blocks that full rows of BERT-like models are divided into, and what that leaves of the cost: decisions 64 and 59."""
Grid = tuple[int, int]
"""A number of blocks, and their length; an undivided row is one block."""
ITEM_SLOTS = 64
"""Most items in one micro-batch; slots without an item cost next to nothing."""
Build = Callable[[Grid | None, int], ov.Model]
"""Makes a graph for a grid (None: any), and a number of item slots."""


class Inputs(Protocol):
    """Makes the inputs of one architecture's graph."""

    def packed(self, batch: Sequence[Encoded], layout: Layout, slots: int) -> Arrays:
        """Return the inputs for the items of `batch` in a row with that `layout`."""

    def pieces(self, item: Encoded, buckets: Sequence[int], slots: int) -> Iterator[Arrays]:
        """Yield the inputs of the runs that together compute an item too long to share a row.

        Architectures that can cut an item do so at the longest of `buckets`, row lengths in ascending order.
        """


@dataclass(frozen=True, slots=True)
class Network:
    """A model ready to run: its graphs, what makes their inputs, and what sees pictures where items may have some.

    `widen` makes graphs for rows that have the cores of `spread` streams, in a second or two; None where that is 1.
    """

    graphs: Graphs
    inputs: Inputs
    vision: VisionTower | None
    spread: int = 1
    widen: Callable[[], Graphs] | None = None


class OpenVinoEngine:
    """Runs one model with OpenVINO."""

    def __init__(
        self, card: ModelCard, network: Network, shape: MicroBatchShape, streams: int, arithmetic: str
    ) -> None:
        self.dimensions = card.dimensions
        self.streams = streams
        self.ahead = True
        self.arithmetic = arithmetic
        self.shape = shape
        self._pooling = card.pooling
        self._inputs = network.inputs
        self._graphs = network.graphs
        self._vision = network.vision
        self._network = network
        self._wide: Graphs | None = None
        # A long item runs in pieces; the turns let micro-batches in between them.
        self._turns = Turns(streams)
        self._warming = threading.Thread(target=self._warm, name=f"warm {card.name}", daemon=True)
        self._warming.start()

    @property
    def spread(self) -> int:
        """How many idle streams one micro-batch can have together; 1 until the graphs for it are there."""
        return self._network.spread if self._wide else 1

    async def embed(self, batch: Sequence[Encoded], spread: bool = False) -> Vectors:
        """Return one pooled vector per item, in order: float32 (B, D), not normalised."""
        while True:
            try:
                return await self._embed(batch, (spread and self._wide) or self._graphs)
            except Spoilt:
                continue

    async def _embed(self, batch: Sequence[Encoded], graphs: Graphs) -> Vectors:
        if self._vision is not None:
            batch = await self._vision.see(batch, self._turns)
        sizes = [item.tokens for item in batch]
        if sum(sizes) > self.shape.tokens:
            return await self._embed_long(batch[0], graphs.all_rows)
        layout = cheapest_layout(sizes, self.shape)
        graph = graphs.for_row(layout)
        run = await graph.take()
        try:
            output = await run(self._inputs.packed(batch, layout, self.shape.items), self._turns)
        finally:
            graph.give_back(run)
        return output[: len(batch)]

    async def _embed_long(self, item: Encoded, graph: CompiledGraph) -> Vectors:
        """Run an item alone, piece by piece; its inputs are large, so they are made off the event loop."""
        longest = self.shape.tokens
        run = await graph.take()
        pieces = self._inputs.pieces(item, self.shape.buckets, self.shape.items)
        vectors: list[Vectors] = []
        try:
            run.caches.keep(item.tokens)
            while (arrays := await asyncio.to_thread(next, pieces, None)) is not None:
                vectors.append((await run(arrays, self._turns))[0])
        finally:
            run.caches.forget()
            graph.give_back(run)
        weights = [min(longest, item.tokens - start) for start in range(0, item.tokens, longest)]
        return joined(vectors, weights[: len(vectors)], self._pooling)[None]

    async def warmed(self) -> None:
        """Wait for graphs that are still being compiled."""
        await asyncio.to_thread(self._warming.join)

    async def close(self) -> None:
        """Wait for graphs that are still being compiled, then let go of everything."""
        await self.warmed()
        self._graphs.close()
        if self._wide:
            self._wide.close()
        del self._inputs, self._vision, self._network

    def _warm(self) -> None:
        self._graphs.warm()
        if self._network.widen:
            self._wide = self._network.widen()


def joined(vectors: Sequence[Vectors], tokens: Sequence[int], pooling: Pooling) -> Vectors:
    """Return the pooled vector (D,) of an item from those of its pieces, which hold `tokens` tokens each."""
    match pooling:
        case "cls":
            return vectors[0]
        case "last":
            return vectors[-1]
        case "max":
            largest: Vectors = np.max(vectors, axis=0)
            return largest
        case "mean":
            total: Vectors = np.average(vectors, axis=0, weights=tokens).astype(np.float32)
            return total


def load(card: ModelCard, settings: EngineSettings, cache: Path) -> OpenVinoEngine:
    """Build the engine of `card` from the weights in its folder; the first graph is ready when it returns.

    `cache` is the folder where weights made from the stored ones are kept. Raises WeightsRefused when the folder's
    tensors are not those of the architecture, ModelRefused when OpenVINO refuses the device or the graph.
    """
    return_large_pieces()
    arithmetic = choose(settings.precision, processor_flags(), in_graph=_brings_to_int8(card.shape))
    streams, threads, spread = streams_of(card, settings)
    tensors = model_tensors(card)
    if arithmetic.storage == "int8":
        tensors = _with_int8(card, tensors, cache, arithmetic)
    build, inputs = architecture(card, tensors, arithmetic)
    maker = Maker(settings.device, arithmetic, build, inputs, micro_batch_shape(card, settings))
    try:
        graphs = maker.graphs(streams, threads, grids_apart(card, maker.shape, spread, arithmetic))
        maker.prime(graphs, 1, streams)
        vision = vision_tower(card, tensors, maker.compiling(streams, threads))
        if vision is not None:
            vision.prime(streams)
    except RuntimeError as error:
        raise ModelRefused(f"{card.name}: OpenVINO refuses it on {settings.device}: {error}") from error
    widen = partial(maker.warm_graphs, streams // spread, spread) if spread > 1 else None
    network = Network(graphs, inputs, vision, spread, widen)
    return OpenVinoEngine(card, network, maker.shape, streams, f"{arithmetic.name} ({arithmetic.reason})")


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes the graphs of one model, with as many streams as are asked for."""

    device: str
    arithmetic: Arithmetic
    build: Build
    inputs: Inputs
    shape: MicroBatchShape
    core: ov.Core = field(default_factory=ov.Core)

    def compiling(self, streams: int, threads: int) -> Callable[[ov.Model], Any]:
        """Return what compiles a model for `streams` of `threads` in all."""
        options = {
            "INFERENCE_PRECISION_HINT": self.arithmetic.compute,
            "KV_CACHE_PRECISION": self.arithmetic.compute,
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": threads,
            # Graphs of several lengths run at the same time: pinned, their streams would share one core.
            "ENABLE_CPU_PINNING": False,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": self.arithmetic.group,
        }
        return lambda model: self.core.compile_model(model, self.device, options)

    def graphs(self, streams: int, threads: int, apart: Sequence[Grid] = ()) -> Graphs:
        """Return the graphs, of which the one for all rows is compiled."""
        return Graphs(self.compiling(streams, threads), lambda grid: self.build(grid, self.shape.items), apart)

    def warm_graphs(self, streams: int, threads_of_a_stream: int) -> Graphs:
        """Return one graph for all rows, primed for the row lengths of queries."""
        graphs = self.graphs(streams, streams * threads_of_a_stream)
        for tokens in self.shape.buckets:
            if tokens <= max(PRIMED, self.shape.buckets[0]):
                self.prime(graphs, tokens, streams)
        return graphs

    def prime(self, graphs: Graphs, tokens: int, streams: int) -> None:
        """Have rows of `tokens` run once on every stream."""
        layout = end_to_end([1], next(length for length in self.shape.buckets if length >= tokens))
        arrays = self.inputs.packed([Encoded(np.zeros(1, dtype=np.int32))], layout, self.shape.items)
        graphs.for_row(layout).prime(arrays, streams)


def model_tensors(card: ModelCard) -> dict[str, Tensor]:
    """Return the tensors of `card`, checked against its architecture."""
    expected, ignorable = _layout(card.shape)
    return match(open_weights(card.folder), expected, card.shape.prefixes, ignorable)


def _with_int8(card: ModelCard, tensors: dict[str, Tensor], cache: Path, how: Arithmetic) -> dict[str, Tensor]:
    """Return `tensors` with all products in int8, smoothed where activations are int8 too and the model is not huge.

    To be smoothed a model has to run once as it is stored.
    """
    products = [name for name, tensor in tensors.items() if len(tensor.shape) == 2 and "embed" not in name]
    if how.name == "int8":
        return with_int8_products(tensors, products, card.folder, cache)
    is_huge = product_parameters(card.shape) > LARGE_MODEL_PARAMETERS
    measured = partial(smoothings, card, tensors, how.compute, how.by_token)
    smooth: Callable[[], Sequence[Smoothing]] = list if is_huge else measured
    return with_int8_products(tensors, products, card.folder, cache, smooth, how.group)


def _brings_to_int8(shape: Shape) -> bool:
    """Return whether graphs of `shape` can bring states to int8 themselves: where they can be smoothed, decision 68."""
    if isinstance(shape, Qwen3Shape):
        return product_parameters(shape) <= LARGE_MODEL_PARAMETERS
    return isinstance(shape, BertShape)


def _layout(shape: Shape) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Return the tensors an architecture must have, with their shapes, and expressions for those it may."""
    match shape:
        case BertShape():
            return bert.expected_tensors(shape), bert.IGNORABLE
        case Qwen3Shape():
            return qwen3.expected_tensors(shape), qwen3.IGNORABLE
        case Qwen3VlShape():
            return qwen3_vl.expected_tensors(shape), qwen3_vl.IGNORABLE


def architecture(card: ModelCard, tensors: Mapping[str, Tensor], how: Arithmetic) -> tuple[Build, Inputs]:
    """Return what makes the graphs of `card`, computed as `how` says, and what makes their inputs."""
    shape = card.shape
    if isinstance(shape, BertShape):
        maker = bert.BertGraph(shape, tensors, card.pooling, how.by_token, how.convolves)
        return maker.build, bert.BertInputs(shape, tensors, card.pooling)
    if isinstance(shape, Qwen3Shape):
        return _qwen3(card, shape, tensors, how), qwen3.Qwen3Inputs(shape, tensors, card.pooling, card.max_tokens)
    tower, deep = qwen3_vl.tower(tensors, qwen3_vl.TEXT), len(shape.vision.deepstack)

    def build(_: Grid | None, slots: int) -> ov.Model:
        return qwen3.Qwen3Graph(shape.text, tower, card.pooling).build(slots, deep)

    return build, qwen3_vl.Qwen3VlInputs(shape, tower, card.pooling, card.max_tokens)


def _qwen3(card: ModelCard, shape: Qwen3Shape, tensors: Mapping[str, Tensor], how: Arithmetic) -> Build:
    def build(grid: Grid | None, slots: int) -> ov.Model:
        written = qwen3.Qwen3Graph(shape, tensors, card.pooling, how.by_token, how.convolves)
        return written.build(slots, tokens=grid[1] if grid else -1)

    return build


def vision_tower(
    card: ModelCard, tensors: Mapping[str, Tensor], compile_: Callable[[ov.Model], Any]
) -> VisionTower | None:
    """Return what sees the pictures of `card`'s items; None where items have none."""
    if not isinstance(card.shape, Qwen3VlShape):
        return None
    return VisionTower(card.shape.vision, qwen3_vl.tower(tensors, qwen3_vl.VISION), compile_)


def streams_of(card: ModelCard, settings: EngineSettings) -> tuple[int, int, int]:
    """Return streams and threads of `card`, and how many idle streams of one thread a row alone has together."""
    parameters = product_parameters(card.shape)
    if card.takes_images or parameters > SPREAD_PARAMETERS:
        return *parallelism(settings, parameters), 1
    streams, threads = parallelism(settings)
    return streams, threads, min(streams, THREADS_OF_A_WIDE_STREAM) if streams == threads else 1


def parallelism(settings: EngineSettings, parameters: int = 0) -> tuple[int, int]:
    """Return streams and threads for a model with so many weights in products, unless the settings say otherwise.

    A stream of one thread on each core; for a large model one on each few cores, so that an item alone has them all.
    """
    threads = settings.threads or len(os.sched_getaffinity(0))
    threads_of_a_stream = THREADS_OF_A_WIDE_STREAM if parameters > WIDE_PARAMETERS else 1
    return settings.streams or -(-threads // threads_of_a_stream), threads


def micro_batch_shape(card: ModelCard, settings: EngineSettings) -> MicroBatchShape:
    """Return the largest micro-batch of `card` and the row lengths that have, or share, a warm graph."""
    tokens = settings.micro_batch_tokens or _micro_batch_tokens(card)
    shortest = [SHORTEST] if tokens > SHORTEST else []
    block = BLOCKS_OF_SMALL if _is_small(card) else BLOCKS_OF_OTHERS
    divides = isinstance(card.shape, BertShape) and block.tokens < tokens and tokens % block.tokens == 0
    buckets = (*shortest, *range(STEP, tokens, STEP), tokens)
    return MicroBatchShape(tokens, ITEM_SLOTS, buckets, (block,) if divides else ())


def grids_apart(card: ModelCard, shape: MicroBatchShape, spread: int, how: Arithmetic) -> list[Grid]:
    """Return the grids of rows that have a graph of their own: full rows, undivided and in blocks.

    Large models have them where products are faster so, small ones always, and for the shortest rows where rows are not
    spread.
    """
    full = [(1, shape.tokens), *((shape.tokens // block.tokens, block.tokens) for block in shape.blocks)]
    if not _is_small(card):
        gains = how.convolves and spread > 1 and shape.tokens >= LEAST_CONVOLVED_ROW
        return full if gains and card.dimensions >= LEAST_CONVOLVED else []
    shortest = [(1, length) for length in shape.buckets[:2]] if spread == 1 else []
    return list(dict.fromkeys([*shortest, *full]))


def _micro_batch_tokens(card: ModelCard) -> int:
    """Return the shortest row that runs near full speed, so that others wait for it no longer than they must.

    BERT-like models need an item whole, so their rows hold the longest usual one. Each row reads all weights once:
    see decision 78.
    """
    if product_parameters(card.shape) > LARGE_MODEL_PARAMETERS:
        return 512 if isinstance(card.shape, BertShape) else 128
    return 256 if card.max_tokens <= 256 else 512


def _is_small(card: ModelCard) -> bool:
    return isinstance(card.shape, BertShape) and product_parameters(card.shape) <= SMALL_MODEL_PARAMETERS


def product_parameters(shape: Shape) -> int:
    """Return how many weights the products of one token's way through the layers have (embeddings not counted)."""
    if isinstance(shape, BertShape):
        return shape.layers * (4 * shape.hidden**2 + 2 * shape.hidden * shape.intermediate)
    if isinstance(shape, Qwen3VlShape):
        return product_parameters(shape.text)
    attention = 2 * shape.hidden * shape.head_size * (shape.heads + shape.key_value_heads)
    return shape.layers * (attention + 3 * shape.hidden * shape.intermediate)
