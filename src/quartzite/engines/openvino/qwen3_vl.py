"""Qwen3VLModel: the text tower of Qwen3 with what the vision tower makes of pictures laid into its rows.

Recipe: transformers' `Qwen3VLModel` (image tokens' embeddings replaced, features added after the first layers,
interleaved rotary positions by time, row and column). Rows without pictures are Qwen3's.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from quartzite.domain import Encoded, Ids
from quartzite.engines.blocks import Layout
from quartzite.engines.openvino import qwen3, qwen3_vl_vision
from quartzite.engines.openvino.pictures import rope_positions
from quartzite.engines.openvino.qwen3 import ADDED, Qwen3Inputs
from quartzite.engines.openvino.rows import Arrays, Seen
from quartzite.registry.card import Pooling, Qwen3VlShape
from quartzite.weights.tensor import Tensor

TEXT, VISION = "language_model.", "visual."
IGNORABLE = qwen3.IGNORABLE


def expected_tensors(shape: Qwen3VlShape) -> dict[str, tuple[int, ...]]:
    """Return every tensor a folder of this architecture must hold, prefix-free, with its shape."""
    text = qwen3.expected_tensors(shape.text)
    vision = qwen3_vl_vision.expected_tensors(shape.vision, shape.hidden)
    return {TEXT + name: size for name, size in text.items()} | {VISION + name: size for name, size in vision.items()}


def tower(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of one tower by their names in it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class Qwen3VlInputs:
    """Makes the text graph's inputs: those of Qwen3, and pictures' features at their places."""

    def __init__(self, shape: Qwen3VlShape, tensors: Mapping[str, Tensor], pooling: Pooling, longest: int) -> None:
        self._text = Qwen3Inputs(shape.text, tensors, pooling, longest)
        self._axes = rope_axes(shape)
        self._names = [ADDED.format(layer) for layer in range(len(shape.vision.deepstack))]
        self._nothing = np.zeros((1, 1, shape.hidden), dtype=np.float32)

    def packed(self, batch: Sequence[Encoded], layout: Layout, slots: int) -> Arrays:
        """Return the inputs for the items of `batch`, whose pictures have been seen, in an undivided row."""
        placed = list(zip(layout.starts, batch, strict=True))
        return self._with_pictures(self._text.packed(batch, layout, slots), placed)

    def pieces(self, item: Encoded, buckets: Sequence[int], slots: int) -> Iterator[Arrays]:
        """Yield the inputs for one item too long to share a row, piece by piece."""
        for number, arrays in enumerate(self._text.pieces(item, buckets, slots)):
            yield self._with_pictures(arrays, [(-number * buckets[-1], item)])

    def _with_pictures(self, arrays: Arrays, placed: Sequence[tuple[int, Encoded]]) -> Arrays:
        """Add to the inputs of a row what its pictures change.

        `placed` are its items with the place of their first tokens; before the row's start it is negative.
        """
        if not any(isinstance(item, Seen) for _, item in placed):
            return {**arrays, **dict.fromkeys(self._names, self._nothing)}
        states: NDArray[np.float32] = arrays["states"]  # type: ignore[assignment]
        layers = [states, *(np.zeros_like(states) for _ in self._names)]
        positions: Ids = np.zeros((3, states.shape[1]), dtype=np.int32)
        for start, item in placed:
            _lay(rope_positions(item), positions, start, axis=1)
            if isinstance(item, Seen) and item.features is not None:
                for features, layer in zip(item.features, layers, strict=True):
                    _lay(features, layer[0], start + item.picture_at, axis=0)
        added = dict(zip(self._names, layers[1:], strict=True))
        return {**arrays, **self._text.rotary.along(positions, self._axes), **added}


def rope_axes(shape: Qwen3VlShape) -> Ids:
    """Return by which axis each frequency of a head turns, int32 (head_size / 2): 0 time, 1 row, 2 column.

    Rows and columns take every third frequency each, from the second and third on, as many as their sections say.
    """
    axes = np.zeros(shape.text.head_size // 2, dtype=np.int32)
    for axis in (1, 2):
        axes[axis : 3 * shape.rope_sections[axis] : 3] = axis
    return axes


def _lay(values: NDArray[np.generic], row: NDArray[np.generic], start: int, axis: int) -> None:
    """Write `values` into `row` along `axis`, the first at place `start`; what falls outside of the row is left out."""
    begin, end = max(start, 0), min(start + values.shape[axis], row.shape[axis])
    if begin < end:
        inside = np.arange(begin - start, end - start)
        places = (slice(None),) * axis + (slice(begin, end),)
        row[places] = values.take(inside, axis=axis)
