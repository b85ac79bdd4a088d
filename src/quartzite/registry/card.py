"""The description of one servable model, as catalogue and folder together give it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Pooling = Literal["cls", "mean", "max", "last"]
OF_ONE_TOKEN: tuple[Pooling, ...] = ("cls", "last")
"""Poolings by which an item's vector is the last state of one of its tokens."""
Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]


@dataclass(frozen=True, slots=True)
class BertShape:
    """Sizes of a BertModel or XLMRobertaModel, as its config.json states them.

    `position_offset` is the position number of the first token: 0 for BERT, padding id + 1 = 2 for XLM-R.
    `prefixes` are the words that tensor names of such a folder may start with.
    """

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    token_types: int
    epsilon: float
    activation: Activation
    position_offset: int
    prefixes: tuple[str, ...] = ("", "bert.", "roberta.", "model.")


@dataclass(frozen=True, slots=True)
class Qwen3Shape:
    """Sizes of a Qwen3Model, as its config.json states them; `head_size` is not hidden / heads there."""

    layers: int
    hidden: int
    heads: int
    key_value_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    positions: int
    epsilon: float
    rope_theta: float
    prefixes: tuple[str, ...] = ("", "model.")


@dataclass(frozen=True, slots=True)
class VisionShape:
    """Sizes of the vision tower of a Qwen3VLModel, as its config.json states them.

    Learned positions are a square table of `table_side` by `table_side`. The states after each of the layers
    `deepstack`, counted from 0, are added to those of the text tower after its first layers, one after the other.
    """

    layers: int
    hidden: int
    heads: int
    intermediate: int
    table_side: int
    deepstack: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Qwen3VlShape:
    """Sizes of a Qwen3VLModel, as its config.json states them: a text tower that is a Qwen3Model, and a vision tower.

    `rope_sections` are the frequencies that turn by time, row and column; `image_token` is the id whose embedding
    the vision tower's output replaces.
    """

    text: Qwen3Shape
    vision: VisionShape
    rope_sections: tuple[int, int, int]
    image_token: int
    prefixes: tuple[str, ...] = ("", "model.")

    @property
    def hidden(self) -> int:
        """Native dimensions D."""
        return self.text.hidden

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self.text.vocabulary

    @property
    def positions(self) -> int:
        """Most tokens of an item."""
        return self.text.positions


Shape = BertShape | Qwen3Shape | Qwen3VlShape

AllowedDimensions = tuple[int, ...] | range
"""Values that `dimensions` may take: some, or every whole number of a range; none where the field is refused."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model as clients see it and as an engine builds it.

    `name` is what clients send; `folder` holds its files; `max_tokens` counts special tokens.
    """

    name: str
    folder: Path
    shape: Shape
    pooling: Pooling
    max_tokens: int
    allowed_dimensions: AllowedDimensions = ()

    @property
    def dimensions(self) -> int:
        """Native dimensions D."""
        return self.shape.hidden

    @property
    def takes_images(self) -> bool:
        """Whether its items may hold a picture."""
        return isinstance(self.shape, Qwen3VlShape)
