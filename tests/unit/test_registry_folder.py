"""Model folders read into cards."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_folders import BERT, QWEN3, QWEN3_POOLING, XLM_R, card_of, modules, qwen3_card_of, write
from quartzite.registry.card import BertShape, ModelCard, Qwen3Shape
from quartzite.registry.catalog import CatalogEntry, catalog


def test_a_bert_folder_becomes_acard_of(tmp_path: Path) -> None:
    """Every size comes from config.json, positions start at 0, and `dimensions` is not offered."""
    assert card_of(tmp_path) == ModelCard(
        name="tests/model",
        folder=tmp_path,
        shape=BertShape(
            layers=2,
            hidden=32,
            heads=4,
            intermediate=64,
            vocabulary=100,
            positions=512,
            token_types=2,
            epsilon=1e-12,
            activation="gelu",
            position_offset=0,
        ),
        pooling="mean",
        max_tokens=512,
    )


@pytest.mark.parametrize("architecture", ["XLMRobertaModel", "XLMRobertaForMaskedLM", "RobertaModel"])
def test_positions_of_the_roberta_family_start_after_the_padding_id(tmp_path: Path, architecture: str) -> None:
    """514 positions hold 512 tokens, for the first two are never a token's."""
    card = card_of(tmp_path, XLM_R | {"architectures": [architecture]})
    assert isinstance(card.shape, BertShape)
    assert (card.shape.position_offset, card.shape.positions, card.max_tokens) == (2, 514, 512)


def test_the_roberta_family_pads_with_1_unless_told(tmp_path: Path) -> None:
    """The default of its configuration class, and another id where the file has one."""
    unsaid = card_of(tmp_path / "unsaid", XLM_R | {"pad_token_id": None}).shape
    said = card_of(tmp_path / "said", XLM_R | {"pad_token_id": 5}).shape
    assert isinstance(unsaid, BertShape)
    assert isinstance(said, BertShape)
    assert (unsaid.position_offset, said.position_offset) == (2, 6)


def test_a_qwen3_folder_becomes_acard_of(tmp_path: Path) -> None:
    """Heads have a size of their own, the last token is pooled, and `dimensions` is offered up to the native size."""
    assert qwen3_card_of(tmp_path) == ModelCard(
        name="tests/model",
        folder=tmp_path,
        shape=Qwen3Shape(
            layers=2,
            hidden=128,
            heads=4,
            key_value_heads=2,
            head_size=64,
            intermediate=96,
            vocabulary=151669,
            positions=40960,
            epsilon=1e-6,
            rope_theta=1_000_000.0,
        ),
        pooling="last",
        max_tokens=40960,
        allowed_dimensions=(64, 128),
    )


@pytest.mark.parametrize(
    ("rope", "theta"),
    [
        ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "default"}}, 5e5),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "default"}}, 5e5),
        ({"rope_theta": None, "rope_parameters": {"rope_theta": 2e6, "rope_type": "default"}}, 2e6),
        ({"rope_theta": None}, 1e4),
    ],
)
def test_the_rotary_base_is_read_from_both_forms(tmp_path: Path, rope: dict[str, Any], theta: float) -> None:
    """A key of its own in transformers 4, inside `rope_parameters` in 5, and 10,000 where nothing is said."""
    shape = qwen3_card_of(tmp_path, **rope).shape
    assert isinstance(shape, Qwen3Shape)
    assert shape.rope_theta == theta


def test_key_value_heads_are_as_many_as_heads_unless_told(tmp_path: Path) -> None:
    """The default of the configuration class."""
    shape = qwen3_card_of(tmp_path, num_key_value_heads=None).shape
    assert isinstance(shape, Qwen3Shape)
    assert shape.key_value_heads == 4


@pytest.mark.parametrize(("model_type", "kind"), [("bert", BertShape), ("qwen3", Qwen3Shape)])
def test_a_config_without_architectures_goes_by_its_model_type(tmp_path: Path, model_type: str, kind: type) -> None:
    """Configurations saved without a model name no architecture."""
    config = (QWEN3 if model_type == "qwen3" else BERT) | {"architectures": None}
    assert isinstance(card_of(tmp_path, config).shape, kind)


@pytest.mark.parametrize(
    ("stated", "computed"), [("gelu_new", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh"), ("swish", "silu")]
)
def test_activations_are_known_by_all_their_names(tmp_path: Path, stated: str, computed: str) -> None:
    """The same function goes by several names."""
    shape = card_of(tmp_path, BERT | {"hidden_act": stated}).shape
    assert isinstance(shape, BertShape)
    assert shape.activation == computed


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({}, "mean"),
        ({"pooling_mode": "lasttoken", "embedding_dimension": 32}, "last"),
        ({"pooling_mode": ["cls"], "pooling_mode_mean_tokens": True}, "cls"),
    ],
)
def test_the_pooling_is_read_from_both_forms(tmp_path: Path, config: dict[str, Any], pooling: str) -> None:
    """One flag per mode, or `pooling_mode`, which wins; the mean where nothing is said."""
    assert card_of(tmp_path, files={"1_Pooling/config.json": config}).pooling == pooling


def test_a_missing_normalize_module_is_no_difference(tmp_path: Path) -> None:
    """The service always normalises."""
    assert card_of(tmp_path, files={"modules.json": modules("Transformer", "Pooling")}).pooling == "mean"


def test_modules_are_known_by_their_new_names_too(tmp_path: Path) -> None:
    """Version 5 of the library moved the classes; the last word of the name stayed."""
    moved = [
        {"type": "sentence_transformers.base.modules.transformer.Transformer", "path": ""},
        {"type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling", "path": "1_Pooling"},
    ]
    assert card_of(tmp_path, files={"modules.json": moved}).pooling == "mean"


def test_an_encoder_without_modules_is_pooled_by_its_mean(tmp_path: Path) -> None:
    """As sentence-transformers does."""
    assert card_of(tmp_path, files={"modules.json": None}).pooling == "mean"


def test_the_catalogue_knows_the_pooling_of_a_folder_without_modules(tmp_path: Path) -> None:
    """A copy that lost its modules.json would otherwise be pooled wrongly, and nothing would show it."""
    entry = catalog()["BAAI/bge-large-zh-v1.5"]
    assert card_of(tmp_path, entry=entry, files={"modules.json": None}).pooling == "cls"


@pytest.mark.parametrize(
    ("catalogued", "module", "tokenizer", "positions", "smallest"),
    [
        (None, None, None, 512, 512),
        (None, None, 1000000000000000019884624838656, 512, 512),
        (None, None, 1e30, 512, 512),
        (None, None, 128, 512, 128),
        (None, 256, 300, 512, 256),
        (100, 256, 300, 512, 100),
        (None, 1000, 1000, 512, 512),
        (None, 0, -1, 512, 512),
    ],
)
def test_the_smallest_usable_limit_holds(
    tmp_path: Path, catalogued: int | None, module: int | None, tokenizer: float | None, positions: int, smallest: int
) -> None:
    """Catalogue, Transformer module, tokenizer and positions all limit; absurd and empty values do not."""
    entry = replace(catalog()["BAAI/bge-m3"], max_tokens=catalogued) if catalogued else None
    files = {
        "sentence_bert_config.json": {"max_seq_length": module, "do_lower_case": False},
        "tokenizer_config.json": {"model_max_length": tokenizer},
    }
    card = card_of(tmp_path, BERT | {"max_position_embeddings": positions}, files, entry)
    assert card.max_tokens == smallest


def test_older_names_of_the_transformer_file_are_read(tmp_path: Path) -> None:
    """Early folders name it after the network."""
    write(tmp_path, {"sentence_xlm-roberta_config.json": {"max_seq_length": 128}})
    assert card_of(tmp_path, XLM_R).max_tokens == 128


@pytest.mark.parametrize(
    ("hidden", "entry", "allowed"),
    [
        (1024, None, (64, 128, 256, 512, 768, 1024)),
        (2560, None, (64, 128, 256, 512, 768, 1024, 1536, 2048, 2560)),
        (1024, catalog()["Qwen/Qwen3-Embedding-0.6B"], (64, 128, 256, 512, 768, 1024)),
        (128, catalog()["Qwen/Qwen3-Embedding-8B"], (64, 128)),
        (1024, catalog()["BAAI/bge-m3"], ()),
    ],
)
def test_dimensions_are_offered_up_to_the_native_size(
    tmp_path: Path, hidden: int, entry: CatalogEntry | None, allowed: tuple[int, ...]
) -> None:
    """The catalogue's list, or the document's for any other Qwen3 folder; never more than the model has."""
    pooling = QWEN3_POOLING | {"word_embedding_dimension": hidden}
    card = card_of(tmp_path, QWEN3 | {"hidden_size": hidden}, {"1_Pooling/config.json": pooling}, entry)
    assert card.allowed_dimensions == allowed


@pytest.mark.parametrize(
    "config",
    [
        {"default_prompt_name": None, "prompts": {"query": "query: ", "document": ""}},
        {"default_prompt_name": "document", "prompts": {"document": ""}},
        {"default_prompt_name": "document", "prompts": {"document": None}},
        {"prompts": None},
    ],
)
def test_prompts_that_nobody_asks_for_are_no_reason_to_refuse(tmp_path: Path, config: dict[str, Any]) -> None:
    """Prompts by name are the client's business, and an empty default changes nothing."""
    assert card_of(tmp_path, files={"config_sentence_transformers.json": config}).pooling == "mean"


def test_plain_text_is_served_whatever_else_a_folder_takes(tmp_path: Path) -> None:
    """As version 6 of the library saves it."""
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    config = {"transformer_task": "feature-extraction", "modality_config": {"text": text, "message": text}}
    assert card_of(tmp_path, files={"sentence_bert_config.json": config}).max_tokens == 512


@pytest.mark.parametrize(
    "normalizer",
    [
        {"type": "BertNormalizer", "lowercase": True},
        {"type": "Lowercase"},
        {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
    ],
)
def test_lower_case_is_fine_where_the_tokenizer_does_it(tmp_path: Path, normalizer: dict[str, Any]) -> None:
    """Many folders ask for what their tokenizer does anyway."""
    files = {"sentence_bert_config.json": {"do_lower_case": True}, "tokenizer.json": {"normalizer": normalizer}}
    assert card_of(tmp_path, files=files).max_tokens == 512
