"""The tensors of each architecture: names, shapes, and how widely their values spread; knows nothing of files.

Weights drawn as for training (normal, 0.02) would give every text nearly the same vector, and a wrong mask or position
would pass unseen. These spreads keep the values of every layer near one, let each layer change its input enough that
the content of the text has replaced the common first or last token at the end, and make attention choose. The share of
a layer shrinks with their number, or rounding errors would grow from layer to layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

from synthetic.blueprint import Blueprint

QUERY_KEY_GAIN = 1.7
"""Spread of queries and of keys; of their scaled products its square, so that softmax prefers few tokens."""
ATTENTION_SHARE = 4.0
FEED_FORWARD_SHARE = 1.0
"""Variance that all layers together add to a state of variance one."""
GELU_RMS = 0.65
SILU_PRODUCT_RMS = 0.6
"""Root mean square of gelu(z) and of silu(z) * z' for z, z' standard normal."""
MAX_POOLING_SHIFT = -1.5
"""Of many values the largest is positive everywhere, which would make all vectors alike: pull them back round zero."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Values with this mean and standard deviation."""

    deviation: float
    mean: float = 0.0


@dataclass(frozen=True, slots=True)
class Counting:
    """The integers 0, 1, 2, ..., stored as int64."""


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor of a folder, yet without values; the name has no prefix."""

    name: str
    shape: tuple[int, ...]
    content: Spread | Counting


def plan_tensors(blueprint: Blueprint) -> Iterator[TensorPlan]:
    """Yield all tensors of the folder, in the order of the layers."""
    match blueprint.config["model_type"]:
        case "qwen3":
            return _qwen3(blueprint)
        case "qwen3_vl":
            return _qwen3_vl(blueprint)
        case _:
            return _encoder(blueprint)


def _encoder(blueprint: Blueprint) -> Iterator[TensorPlan]:
    """Yield the tensors of a BertModel or XLMRobertaModel."""
    config = blueprint.config
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    if "position_ids" in blueprint.extras:
        yield TensorPlan("embeddings.position_ids", (1, config["max_position_embeddings"]), Counting())
    yield TensorPlan("embeddings.word_embeddings.weight", (config["vocab_size"], hidden), Spread(1.0))
    yield TensorPlan("embeddings.position_embeddings.weight", (config["max_position_embeddings"], hidden), Spread(0.5))
    yield TensorPlan("embeddings.token_type_embeddings.weight", (config["type_vocab_size"], hidden), Spread(0.2))
    yield from _layer_norm("embeddings.LayerNorm", hidden)
    for number in range(layers):
        last = number == layers - 1
        shift = MAX_POOLING_SHIFT if last and blueprint.pooling == "max" else 0.0
        yield from _encoder_layer(f"encoder.layer.{number}", hidden, config["intermediate_size"], layers, shift)
    if "pooler" in blueprint.extras:
        yield from _linear("pooler.dense", hidden, hidden)


def _encoder_layer(name: str, hidden: int, intermediate: int, layers: int, shift: float) -> Iterator[TensorPlan]:
    yield from _linear(f"{name}.attention.self.query", hidden, hidden, QUERY_KEY_GAIN)
    yield from _linear(f"{name}.attention.self.key", hidden, hidden, QUERY_KEY_GAIN)
    yield from _linear(f"{name}.attention.self.value", hidden, hidden)
    yield from _linear(f"{name}.attention.output.dense", hidden, hidden, sqrt(ATTENTION_SHARE / layers))
    yield from _layer_norm(f"{name}.attention.output.LayerNorm", hidden)
    yield from _linear(f"{name}.intermediate.dense", intermediate, hidden)
    yield from _linear(f"{name}.output.dense", hidden, intermediate, sqrt(FEED_FORWARD_SHARE / layers) / GELU_RMS)
    yield from _layer_norm(f"{name}.output.LayerNorm", hidden, shift)


def _qwen3_vl(blueprint: Blueprint) -> Iterator[TensorPlan]:
    """Yield the tensors of a Qwen3VLModel."""
    yield from _qwen3(blueprint, "language_model.")
    vision = blueprint.config["vision_config"]
    hidden, layers, merged = vision["hidden_size"], vision["depth"], 4 * vision["hidden_size"]
    # Bytes become values of spread 0.58, twice (two frames) 768 of them for a patch.
    yield TensorPlan("visual.patch_embed.proj.weight", (hidden, 3, 2, 16, 16), Spread(1 / (0.58 * sqrt(1536))))
    yield TensorPlan("visual.patch_embed.proj.bias", (hidden,), Spread(0.1))
    yield TensorPlan("visual.pos_embed.weight", (vision["num_position_embeddings"], hidden), Spread(0.5))
    for number in range(layers):
        yield from _vision_block(f"visual.blocks.{number}", hidden, vision["intermediate_size"], layers)
    yield from _merger("visual.merger", hidden, merged, vision["out_hidden_size"])
    for number in range(len(vision["deepstack_visual_indexes"])):
        yield from _merger(f"visual.deepstack_merger_list.{number}", merged, merged, vision["out_hidden_size"])


def _vision_block(name: str, hidden: int, intermediate: int, layers: int) -> Iterator[TensorPlan]:
    yield from _layer_norm(f"{name}.norm1", hidden)
    yield from _layer_norm(f"{name}.norm2", hidden)
    yield from _linear(f"{name}.attn.qkv", 3 * hidden, hidden, QUERY_KEY_GAIN)
    yield from _linear(f"{name}.attn.proj", hidden, hidden, sqrt(ATTENTION_SHARE / layers) / QUERY_KEY_GAIN)
    yield from _linear(f"{name}.mlp.linear_fc1", intermediate, hidden)
    yield from _linear(f"{name}.mlp.linear_fc2", hidden, intermediate, sqrt(FEED_FORWARD_SHARE / layers) / GELU_RMS)


def _merger(name: str, normed: int, merged: int, out: int) -> Iterator[TensorPlan]:
    """Plan what makes tokens of spread one, as word embeddings have, from four patches."""
    yield from _layer_norm(f"{name}.norm", normed)
    yield from _linear(f"{name}.linear_fc1", merged, merged)
    yield from _linear(f"{name}.linear_fc2", out, merged, 1 / GELU_RMS)


def _qwen3(blueprint: Blueprint, under: str = "") -> Iterator[TensorPlan]:
    """Yield the tensors of a Qwen3Model, their names beginning with `under`."""
    config = blueprint.text_config
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    yield TensorPlan(f"{under}embed_tokens.weight", (vocabulary, hidden), Spread(1.0))
    for number in range(config["num_hidden_layers"]):
        yield from _qwen3_attention(f"{under}layers.{number}", blueprint)
        yield from _qwen3_feed_forward(f"{under}layers.{number}", blueprint)
    yield _gain(f"{under}norm", hidden)
    if "lm_head" in blueprint.extras:
        yield TensorPlan("lm_head.weight", (vocabulary, hidden), Spread(1.0))


def _qwen3_attention(name: str, blueprint: Blueprint) -> Iterator[TensorPlan]:
    config = blueprint.text_config
    hidden, head_size = config["hidden_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head_size, config["num_key_value_heads"] * head_size
    yield _gain(f"{name}.input_layernorm", hidden)
    yield _matrix(f"{name}.self_attn.q_proj", queries, hidden)
    yield _matrix(f"{name}.self_attn.k_proj", keys, hidden)
    yield _matrix(f"{name}.self_attn.v_proj", keys, hidden)
    yield _gain(f"{name}.self_attn.q_norm", head_size, QUERY_KEY_GAIN)
    yield _gain(f"{name}.self_attn.k_norm", head_size, QUERY_KEY_GAIN)
    yield _matrix(f"{name}.self_attn.o_proj", hidden, queries, sqrt(ATTENTION_SHARE / config["num_hidden_layers"]))


def _qwen3_feed_forward(name: str, blueprint: Blueprint) -> Iterator[TensorPlan]:
    config = blueprint.text_config
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    share = sqrt(FEED_FORWARD_SHARE / config["num_hidden_layers"]) / SILU_PRODUCT_RMS
    yield _gain(f"{name}.post_attention_layernorm", hidden)
    yield _matrix(f"{name}.mlp.gate_proj", intermediate, hidden)
    yield _matrix(f"{name}.mlp.up_proj", intermediate, hidden)
    yield _matrix(f"{name}.mlp.down_proj", hidden, intermediate, share)


def _matrix(name: str, rows: int, columns: int, gain: float = 1.0) -> TensorPlan:
    """Plan a matrix whose product with values of spread one has spread `gain`."""
    return TensorPlan(f"{name}.weight", (rows, columns), Spread(gain / sqrt(columns)))


def _linear(name: str, rows: int, columns: int, gain: float = 1.0) -> Iterator[TensorPlan]:
    yield _matrix(name, rows, columns, gain)
    yield TensorPlan(f"{name}.bias", (rows,), Spread(0.1 * gain))


def _layer_norm(name: str, size: int, shift: float = 0.0) -> Iterator[TensorPlan]:
    yield _gain(name, size)
    yield TensorPlan(f"{name}.bias", (size,), Spread(0.05, shift))


def _gain(name: str, size: int, mean: float = 1.0) -> TensorPlan:
    return TensorPlan(f"{name}.weight", (size,), Spread(0.2 * mean, mean))
