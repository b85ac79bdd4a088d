"""The description of one servable model, as catalogue and folder together give it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Pooling = Literal["cls", "mean", "max", "last"]
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


Shape = BertShape | Qwen3Shape


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model as clients see it and as an engine builds it.

    `name` is what clients send; `folder` holds its files; `max_tokens` counts special tokens; `allowed_dimensions`
    are the values `dimensions` may take (empty: the field is refused for this model).
    """

    name: str
    folder: Path
    shape: Shape
    pooling: Pooling
    max_tokens: int
    allowed_dimensions: tuple[int, ...] = ()

    @property
    def dimensions(self) -> int:
        """Native dimensions D."""
        return self.shape.hidden
