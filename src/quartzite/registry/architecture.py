"""What a folder's config.json says of the network: its sizes, and all it asks for that would not be computed.

Follows the configuration classes of transformers 4 and 5, defaults included. Knows nothing of weights or pooling.
"""

from collections.abc import Callable, Iterator, Mapping
from math import isqrt
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from quartzite.errors import ModelRefused
from quartzite.registry.card import Activation, BertShape, Qwen3Shape, Qwen3VlShape, Shape, VisionShape
from quartzite.registry.json_file import read_json, refuse_if_any

Count = Annotated[int, Meta(ge=1)]

ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


class AnyConfig(Struct, frozen=True):
    """What config.json may say of any model."""

    architectures: list[str] | None = None
    model_type: str | None = None
    auto_map: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None


class BertConfig(Struct, frozen=True):
    """config.json of BERT, RoBERTa and XLM-RoBERTa."""

    num_hidden_layers: Count
    hidden_size: Count
    num_attention_heads: Count
    intermediate_size: Count
    vocab_size: Count
    max_position_embeddings: Count = 512
    type_vocab_size: Count = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    pad_token_id: int | None = None
    position_embedding_type: str = "absolute"
    is_decoder: bool = False
    add_cross_attention: bool = False


class RopeParameters(Struct, frozen=True):
    """`rope_scaling` of transformers 4 and `rope_parameters` of transformers 5; the last two are for Qwen3-VL."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: float | None = None
    partial_rotary_factor: float = 1.0
    mrope_interleaved: bool = True
    mrope_section: tuple[Count, Count, Count] | None = None


class Qwen3Config(Struct, frozen=True):
    """config.json of Qwen3."""

    num_hidden_layers: Count
    hidden_size: Count
    num_attention_heads: Count
    intermediate_size: Count
    vocab_size: Count
    num_key_value_heads: Count | None = None
    head_dim: Count = 128
    max_position_embeddings: Count = 32768
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    rope_theta: float | None = None
    rope_scaling: RopeParameters | None = None
    rope_parameters: RopeParameters | None = None
    attention_bias: bool = False
    use_sliding_window: bool = False
    layer_types: list[str] | None = None
    is_causal: bool = True


class VisionConfig(Struct, frozen=True):
    """`vision_config` of Qwen3-VL."""

    depth: Count = 27
    hidden_size: Count = 1152
    intermediate_size: Count = 4304
    num_heads: Count = 16
    out_hidden_size: Count = 3584
    num_position_embeddings: Count = 2304
    deepstack_visual_indexes: tuple[int, ...] = (8, 16, 24)
    hidden_act: str = "gelu_pytorch_tanh"
    in_channels: int = 3
    patch_size: int = 16
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    rope_parameters: RopeParameters | None = None


class Qwen3VlConfig(Struct, frozen=True):
    """config.json of Qwen3-VL."""

    text_config: Qwen3Config
    vision_config: VisionConfig
    image_token_id: int = 151655


def read_shape(file: Path) -> Shape:
    """Return the sizes that the config.json `file` states.

    Raises ModelRefused for an architecture that is not supported and for anything in the file that the engines would
    compute differently from transformers; all such faults stand in one message.
    """
    config = read_json(file, AnyConfig)
    refuse_if_any(file, _faults_of_any(config))
    named = config.architectures or [BASE_ARCHITECTURES.get(config.model_type or "", f"of type {config.model_type}")]
    reader = ARCHITECTURES.get(named[0])
    if reader is None:
        supported = ", ".join(sorted(ARCHITECTURES))
        raise ModelRefused(f"{file}: the architecture {named[0]} is not supported; supported are {supported}")
    return reader(file)


def _faults_of_any(config: AnyConfig) -> Iterator[str]:
    if config.quantization_config is not None:
        method = config.quantization_config.get("quant_method", "unknown")
        yield f"the weights are quantised (quantization_config, method {method}); use the unquantised model"
    if config.auto_map and "AutoModel" in config.auto_map:
        yield f"the model needs code of its own (auto_map: {config.auto_map['AutoModel']}), which is never run"


def _bert_shape(file: Path) -> BertShape:
    return _encoder_shape(file, read_json(file, BertConfig), position_offset=0)


def _roberta_shape(file: Path) -> BertShape:
    config = read_json(file, BertConfig)
    padding = 1 if config.pad_token_id is None else config.pad_token_id
    return _encoder_shape(file, config, position_offset=padding + 1)


def _encoder_shape(file: Path, config: BertConfig, position_offset: int) -> BertShape:
    refuse_if_any(file, _encoder_faults(config, position_offset))
    return BertShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        intermediate=config.intermediate_size,
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        token_types=config.type_vocab_size,
        epsilon=config.layer_norm_eps,
        activation=ACTIVATIONS[config.hidden_act],
        position_offset=position_offset,
    )


def _encoder_faults(config: BertConfig, position_offset: int) -> Iterator[str]:
    if config.position_embedding_type != "absolute":
        yield f"position_embedding_type {config.position_embedding_type!r} is not computed, only 'absolute' is"
    if config.hidden_act not in ACTIVATIONS:
        yield f"hidden_act {config.hidden_act!r} is not known, only {', '.join(ACTIVATIONS)} are"
    if config.is_decoder or config.add_cross_attention:
        yield "is_decoder and add_cross_attention are not computed"
    if config.hidden_size % config.num_attention_heads:
        yield f"hidden_size {config.hidden_size} cannot be divided among {config.num_attention_heads} heads"
    if config.max_position_embeddings <= position_offset:
        yield f"max_position_embeddings {config.max_position_embeddings} leaves no position for a token"


def _qwen3_shape(file: Path) -> Qwen3Shape:
    config = read_json(file, Qwen3Config)
    refuse_if_any(file, [*_rope_faults(config), *_decoder_faults(config), *_bidirectional_flags(file)])
    return _decoder_shape(config)


def _decoder_shape(config: Qwen3Config) -> Qwen3Shape:
    return Qwen3Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        key_value_heads=config.num_key_value_heads or config.num_attention_heads,
        head_size=config.head_dim,
        intermediate=config.intermediate_size,
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        epsilon=config.rms_norm_eps,
        rope_theta=_rope_theta(config),
    )


def _qwen3_vl_shape(file: Path) -> Qwen3VlShape:
    config = read_json(file, Qwen3VlConfig)
    text, vision = config.text_config, config.vision_config
    sections = _rope_of(text).mrope_section or (24, 20, 20)
    refuse_if_any(
        file,
        [
            *_rope_faults(text),
            *_decoder_faults(text),
            *_section_faults(text, sections),
            *_vision_faults(vision, text),
            *_bidirectional_flags(file),
        ],
    )
    return Qwen3VlShape(
        text=_decoder_shape(text),
        vision=VisionShape(
            layers=vision.depth,
            hidden=vision.hidden_size,
            heads=vision.num_heads,
            intermediate=vision.intermediate_size,
            table_side=isqrt(vision.num_position_embeddings),
            deepstack=vision.deepstack_visual_indexes,
        ),
        rope_sections=sections,
        image_token=config.image_token_id,
    )


def _rope_of(config: Qwen3Config) -> RopeParameters:
    return config.rope_parameters or config.rope_scaling or RopeParameters()


def _section_faults(config: Qwen3Config, sections: tuple[int, int, int]) -> Iterator[str]:
    if not _rope_of(config).mrope_interleaved:
        yield "mrope_interleaved: false is not computed, only interleaved sections are"
    if sum(sections) != config.head_dim // 2 or 3 * max(sections[1:]) > config.head_dim // 2:
        yield f"mrope_section {list(sections)} does not divide the {config.head_dim // 2} frequencies of a head"
    if _rope_theta(config, default=0.0) == 0.0:
        yield "rope_theta is not stated, and the versions of transformers differ in what they take for it"


def _vision_faults(config: VisionConfig, text: Qwen3Config) -> Iterator[str]:
    found = (config.in_channels, config.temporal_patch_size, config.patch_size, config.spatial_merge_size)
    if found != (3, 2, 16, 2):
        yield f"in_channels, temporal_patch_size, patch_size, spatial_merge_size are {found}, not (3, 2, 16, 2)"
    if ACTIVATIONS.get(config.hidden_act) != "gelu_tanh":
        yield f"hidden_act {config.hidden_act!r} is not computed for the vision tower, only 'gelu_pytorch_tanh' is"
    if config.out_hidden_size != text.hidden_size:
        yield f"out_hidden_size {config.out_hidden_size} is not the text tower's hidden_size {text.hidden_size}"
    if isqrt(config.num_position_embeddings) ** 2 != config.num_position_embeddings:
        yield f"num_position_embeddings {config.num_position_embeddings} is no square number"
    if config.hidden_size % (4 * config.num_heads):
        yield f"hidden_size {config.hidden_size} leaves no whole pairs for rows and columns in {config.num_heads} heads"
    yield from _deepstack_faults(config, text)
    rope = config.rope_parameters or RopeParameters()
    if (rope.rope_theta or 10_000.0) != 10_000.0 or (rope.rope_type or "axial") != "axial":
        yield "rope_parameters of the vision tower other than axial ones with base 10000 are not computed"


def _deepstack_faults(config: VisionConfig, text: Qwen3Config) -> Iterator[str]:
    layers = config.deepstack_visual_indexes
    if list(layers) != sorted(set(layers)) or not set(layers) <= set(range(config.depth)):
        yield f"deepstack_visual_indexes {list(layers)} are no ascending layers of the {config.depth} there are"
    if len(layers) > text.num_hidden_layers:
        yield f"deepstack_visual_indexes are more than the {text.num_hidden_layers} layers of the text tower"


def _decoder_faults(config: Qwen3Config) -> Iterator[str]:
    if config.hidden_act not in ("silu", "swish"):
        yield f"hidden_act {config.hidden_act!r} is not computed for Qwen3, only 'silu' is"
    if config.attention_bias:
        yield "attention_bias is not computed"
    if config.use_sliding_window or set(config.layer_types or ()) - {"full_attention"}:
        yield "sliding windows (use_sliding_window, layer_types) are not computed, only full attention is"
    if config.num_attention_heads % (config.num_key_value_heads or config.num_attention_heads):
        yield f"{config.num_attention_heads} heads cannot share {config.num_key_value_heads} key-value heads"
    if config.head_dim % 2:
        yield f"head_dim {config.head_dim} is odd, rotary positions need pairs"
    if not config.is_causal:
        yield "is_causal: false asks for attention in both directions, which is not computed for Qwen3"


def _rope_faults(config: Qwen3Config) -> Iterator[str]:
    for name in ("rope_scaling", "rope_parameters"):
        rope: RopeParameters = getattr(config, name) or RopeParameters()
        kind = rope.rope_type or rope.type or "default"
        if kind != "default":
            yield f"{name} of type {kind!r} is not computed, only plain rotary positions are"
        if rope.partial_rotary_factor != 1.0:
            yield f"{name}.partial_rotary_factor {rope.partial_rotary_factor:g} is not computed, only 1 is"


def _rope_theta(config: Qwen3Config, default: float = 10_000.0) -> float:
    """Transformers 5 moved the base into `rope_parameters`; either way Qwen3 has 10,000 where nothing is said."""
    stated = config.rope_parameters and config.rope_parameters.rope_theta
    return stated or config.rope_theta or default


def _bidirectional_flags(file: Path) -> Iterator[str]:
    """Fine-tunes that lifted the causal mask say so under many names, all with this word in them."""
    for key, value in read_json(file, dict[str, Any]).items():
        if "bidirectional" in key.lower() and value:
            yield f"{key}: {value} asks for attention in both directions, which is not computed for Qwen3"


ARCHITECTURES: Mapping[str, Callable[[Path], Shape]] = {
    "BertModel": _bert_shape,
    "BertForMaskedLM": _bert_shape,
    "RobertaModel": _roberta_shape,
    "RobertaForMaskedLM": _roberta_shape,
    "XLMRobertaModel": _roberta_shape,
    "XLMRobertaForMaskedLM": _roberta_shape,
    "Qwen3Model": _qwen3_shape,
    "Qwen3ForCausalLM": _qwen3_shape,
    "Qwen3VLModel": _qwen3_vl_shape,
    "Qwen3VLForConditionalGeneration": _qwen3_vl_shape,
}

# What the `model_type` of a config.json without `architectures` stands for.
BASE_ARCHITECTURES: Mapping[str, str] = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
    "qwen3": "Qwen3Model",
    "qwen3_vl": "Qwen3VLModel",
}
