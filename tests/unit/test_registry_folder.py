"""Model folders read into cards, and every refusal."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_folders import BERT, QWEN3, XLM_R, descriptions, modules, write
from quartzite.errors import ModelRefused
from quartzite.registry.card import BertShape, ModelCard, Qwen3Shape
from quartzite.registry.catalog import CatalogEntry, catalog
from quartzite.registry.folder import read_card

QWEN3_POOLING = {"word_embedding_dimension": 128, "pooling_mode_lasttoken": True, "include_prompt": True}


def _card(
    folder: Path,
    config: Mapping[str, Any] = BERT,
    files: Mapping[str, Any] | None = None,
    entry: CatalogEntry | None = None,
) -> ModelCard:
    return read_card("tests/model", write(folder, descriptions(config, files)), entry)


def _qwen3(folder: Path, **changes: Any) -> ModelCard:
    return _card(folder, QWEN3 | changes, {"1_Pooling/config.json": QWEN3_POOLING})


def test_a_bert_folder_becomes_a_card(tmp_path: Path) -> None:
    """Every size comes from config.json, positions start at 0, and `dimensions` is not offered."""
    assert _card(tmp_path) == ModelCard(
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
    card = _card(tmp_path, XLM_R | {"architectures": [architecture]})
    assert isinstance(card.shape, BertShape)
    assert (card.shape.position_offset, card.shape.positions, card.max_tokens) == (2, 514, 512)


def test_the_roberta_family_pads_with_1_unless_told(tmp_path: Path) -> None:
    """The default of its configuration class, and another id where the file has one."""
    unsaid = _card(tmp_path / "unsaid", XLM_R | {"pad_token_id": None}).shape
    said = _card(tmp_path / "said", XLM_R | {"pad_token_id": 5}).shape
    assert isinstance(unsaid, BertShape)
    assert isinstance(said, BertShape)
    assert (unsaid.position_offset, said.position_offset) == (2, 6)


def test_a_qwen3_folder_becomes_a_card(tmp_path: Path) -> None:
    """Heads have a size of their own, the last token is pooled, and `dimensions` is offered up to the native size."""
    assert _qwen3(tmp_path) == ModelCard(
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
    shape = _qwen3(tmp_path, **rope).shape
    assert isinstance(shape, Qwen3Shape)
    assert shape.rope_theta == theta


def test_key_value_heads_are_as_many_as_heads_unless_told(tmp_path: Path) -> None:
    """The default of the configuration class."""
    shape = _qwen3(tmp_path, num_key_value_heads=None).shape
    assert isinstance(shape, Qwen3Shape)
    assert shape.key_value_heads == 4


@pytest.mark.parametrize(("model_type", "kind"), [("bert", BertShape), ("qwen3", Qwen3Shape)])
def test_a_config_without_architectures_goes_by_its_model_type(tmp_path: Path, model_type: str, kind: type) -> None:
    """Configurations saved without a model name no architecture."""
    config = (QWEN3 if model_type == "qwen3" else BERT) | {"architectures": None}
    assert isinstance(_card(tmp_path, config).shape, kind)


@pytest.mark.parametrize(
    ("stated", "computed"), [("gelu_new", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh"), ("swish", "silu")]
)
def test_activations_are_known_by_all_their_names(tmp_path: Path, stated: str, computed: str) -> None:
    """The same function goes by several names."""
    shape = _card(tmp_path, BERT | {"hidden_act": stated}).shape
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
    assert _card(tmp_path, files={"1_Pooling/config.json": config}).pooling == pooling


def test_a_missing_normalize_module_is_no_difference(tmp_path: Path) -> None:
    """The service always normalises."""
    assert _card(tmp_path, files={"modules.json": modules("Transformer", "Pooling")}).pooling == "mean"


def test_modules_are_known_by_their_new_names_too(tmp_path: Path) -> None:
    """Version 5 of the library moved the classes; the last word of the name stayed."""
    moved = [
        {"type": "sentence_transformers.base.modules.transformer.Transformer", "path": ""},
        {"type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling", "path": "1_Pooling"},
    ]
    assert _card(tmp_path, files={"modules.json": moved}).pooling == "mean"


def test_an_encoder_without_modules_is_pooled_by_its_mean(tmp_path: Path) -> None:
    """As sentence-transformers does."""
    assert _card(tmp_path, files={"modules.json": None}).pooling == "mean"


def test_the_catalogue_knows_the_pooling_of_a_folder_without_modules(tmp_path: Path) -> None:
    """A copy that lost its modules.json would otherwise be pooled wrongly, and nothing would show it."""
    entry = catalog()["BAAI/bge-large-zh-v1.5"]
    assert _card(tmp_path, entry=entry, files={"modules.json": None}).pooling == "cls"


def test_a_decoder_without_modules_is_refused(tmp_path: Path) -> None:
    """It is most likely a chat model."""
    with pytest.raises(ModelRefused, match=r"no modules\.json"):
        _card(tmp_path, QWEN3, files={"modules.json": None})


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
    card = _card(tmp_path, BERT | {"max_position_embeddings": positions}, files, entry)
    assert card.max_tokens == smallest


def test_older_names_of_the_transformer_file_are_read(tmp_path: Path) -> None:
    """Early folders name it after the network."""
    write(tmp_path, {"sentence_xlm-roberta_config.json": {"max_seq_length": 128}})
    assert _card(tmp_path, XLM_R).max_tokens == 128


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
    card = _card(tmp_path, QWEN3 | {"hidden_size": hidden}, {"1_Pooling/config.json": pooling}, entry)
    assert card.allowed_dimensions == allowed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["JinaBertForMaskedLM"]}, "architecture JinaBertForMaskedLM is not supported.*BertModel"),
        ({"architectures": ["XLMRobertaForSequenceClassification"]}, "SequenceClassification is not supported"),
        ({"architectures": None, "model_type": "mpnet"}, "of type mpnet is not supported"),
        ({"architectures": [], "model_type": None}, "of type None is not supported"),
        ({"auto_map": {"AutoModel": "modeling.NewModel"}}, r"auto_map: modeling\.NewModel"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config, method gptq"),
        ({"quantization_config": {}}, "method unknown"),
        ({"position_embedding_type": "alibi"}, "position_embedding_type 'alibi'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu'"),
        ({"is_decoder": True}, "is_decoder"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"num_attention_heads": 5}, "cannot be divided among 5 heads"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"vocab_size": "many"}, "vocab_size"),
    ],
)
def test_an_encoder_that_would_be_computed_differently_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """The message names config.json and what it asks for."""
    with pytest.raises(ModelRefused, match=rf"config\.json: .*{message}"):
        _card(tmp_path, BERT | changes)


def test_positions_that_hold_no_token_are_refused(tmp_path: Path) -> None:
    """Two positions are none for XLM-R."""
    with pytest.raises(ModelRefused, match="leaves no position for a token"):
        _card(tmp_path, XLM_R | {"max_position_embeddings": 2})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling of type 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling of type 'linear'"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_parameters of type 'dynamic'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, r"partial_rotary_factor 0\.5"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3"),
        ({"head_dim": 33}, "head_dim 33"),
        ({"is_causal": False}, "is_causal"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"is_bidirectional": True}, "is_bidirectional"),
    ],
)
def test_a_decoder_that_would_be_computed_differently_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """The message names config.json and what it asks for."""
    with pytest.raises(ModelRefused, match=rf"config\.json: .*{message}"):
        _qwen3(tmp_path, **changes)


def test_all_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    """Nobody should have to mend them one by one."""
    with pytest.raises(ModelRefused) as refused:
        _qwen3(tmp_path, attention_bias=True, use_sliding_window=True, rope_scaling={"type": "yarn"})
    assert all(word in str(refused.value) for word in ("attention_bias", "use_sliding_window", "yarn"))


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (modules("Transformer", "Pooling", "Dense", "Normalize"), "module Dense is not computed"),
        (modules("Transformer", "WeightedLayerPooling", "Pooling"), "module WeightedLayerPooling"),
        (modules("StaticEmbedding", "Normalize"), "module StaticEmbedding"),
        ([{"type": "custom_st.Transformer"}, *modules("Transformer", "Pooling")[1:]], r"custom_st\.Transformer"),
        (modules("Transformer"), "stand as Transformer;"),
        (modules("Transformer", "Normalize", "Pooling"), "stand as Transformer, Normalize, Pooling"),
        ([], "stand as none"),
        ([modules("Transformer")[0] | {"path": "0_Transformer"}, *modules("x", "Pooling")[1:]], "'0_Transformer'"),
    ],
)
def test_a_chain_of_other_modules_is_refused(tmp_path: Path, chain: list[Any], message: str) -> None:
    """The message names modules.json and the module."""
    with pytest.raises(ModelRefused, match=rf"modules\.json: .*{message}"):
        _card(tmp_path, files={"modules.json": chain})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, r"several poolings at once \(cls, mean\)"),
        ({"pooling_mode": ["mean", "max"]}, r"several poolings at once \(mean, max\)"),
        ({"pooling_mode": []}, "several poolings"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "'mean_sqrt_len_tokens' is not computed"),
        ({"pooling_mode_weightedmean_tokens": True}, "'weightedmean' is not computed"),
        ({"pooling_mode": "weightedmean"}, "'weightedmean' is not computed"),
        ({"pooling_mode": "middle"}, "'middle' is not computed"),
        ({"word_embedding_dimension": 768}, "it pools 768 dimensions, the network has 32"),
    ],
)
def test_another_pooling_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    """The message names the pooling's file and the mode."""
    with pytest.raises(ModelRefused, match=f"1_Pooling/config.json: .*{message}"):
        _card(tmp_path, files={"1_Pooling/config.json": config})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"default_prompt_name": "query", "prompts": {"query": "query: "}}, "default_prompt_name 'query'"),
        ({"default_prompt_name": "query", "prompts": {}}, "default_prompt_name 'query'"),
        ({"default_prompt_name": "query"}, "default_prompt_name 'query'"),
        ({"model_type": "SparseEncoder"}, "SparseEncoder is not served"),
        ({"truncate_dim": 256}, "truncate_dim 256"),
    ],
)
def test_texts_are_never_changed_unasked(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    """A prompt before every text, a cut after it: refused by name, in every folder."""
    with pytest.raises(ModelRefused, match=rf"config_sentence_transformers\.json: .*{message}"):
        _card(tmp_path, files={"config_sentence_transformers.json": config, "modules.json": None})


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
    assert _card(tmp_path, files={"config_sentence_transformers.json": config}).pooling == "mean"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"transformer_task": "fill-mask"}, "transformer_task 'fill-mask'"),
        ({"modality_config": {"message": {}}}, "modality_config"),
        ({"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}}, "modality_conf"),
        ({"processing_kwargs": {"chat_template": {}}}, "processing_kwargs"),
        ({"config_args": {"is_causal": False}}, "config_args"),
        ({"config_kwargs": {"is_causal": False}}, "config_kwargs"),
    ],
)
def test_another_use_of_the_network_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    """The message names the Transformer's file."""
    with pytest.raises(ModelRefused, match=rf"sentence_bert_config\.json: .*{message}"):
        _card(tmp_path, files={"sentence_bert_config.json": config})


def test_plain_text_is_served_whatever_else_a_folder_takes(tmp_path: Path) -> None:
    """As version 6 of the library saves it."""
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    config = {"transformer_task": "feature-extraction", "modality_config": {"text": text, "message": text}}
    assert _card(tmp_path, files={"sentence_bert_config.json": config}).max_tokens == 512


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
    assert _card(tmp_path, files=files).max_tokens == 512


@pytest.mark.parametrize("normalizer", [None, {"type": "NFC"}, {"type": "BertNormalizer", "lowercase": False}])
def test_lower_case_that_the_tokenizer_keeps_is_refused(tmp_path: Path, normalizer: dict[str, Any] | None) -> None:
    """It would give other tokens."""
    files = {"sentence_bert_config.json": {"do_lower_case": True}, "tokenizer.json": {"normalizer": normalizer}}
    with pytest.raises(ModelRefused, match=r"do_lower_case is set, but tokenizer\.json keeps upper case"):
        _card(tmp_path, files=files)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "is no Hugging Face model folder"),
        ("tokenizer.json", r"has no tokenizer\.json; where transformers is installed"),
        ("1_Pooling/config.json", r"cannot read .*1_Pooling/config\.json: No such file"),
    ],
)
def test_an_incomplete_folder_is_refused(tmp_path: Path, missing: str, message: str) -> None:
    """The message names what is missing, and for the tokenizer how to get one."""
    write(tmp_path, descriptions())
    (tmp_path / missing).unlink()
    with pytest.raises(ModelRefused, match=message):
        read_card("tests/model", tmp_path, None)


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    """Its weights are differences, not a model."""
    with pytest.raises(ModelRefused, match="adapter"):
        _card(tmp_path, files={"adapter_config.json": {"peft_type": "LORA"}})


@pytest.mark.parametrize(
    "file",
    [
        "config.json",
        "modules.json",
        "1_Pooling/config.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "tokenizer_config.json",
    ],
)
@pytest.mark.parametrize(
    "content",
    [b"{", b"[", b"", b"\xff\xfe{}", b'"text"', b"[" * 100_000],
    ids=["object cut", "list cut", "empty", "not UTF-8", "other type", "too deep"],
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, content: bytes) -> None:
    """Whatever is wrong with it, the message says where it is."""
    write(tmp_path, descriptions() | {file: content})
    with pytest.raises(ModelRefused, match=f"{file}(: Expected| is not valid JSON)"):
        read_card("tests/model", tmp_path, None)


def test_a_damaged_tokenizer_is_named_where_it_is_looked_at(tmp_path: Path) -> None:
    """Its normalizer matters when the folder asks for lower case."""
    with pytest.raises(ModelRefused, match=r"tokenizer\.json is not valid JSON"):
        _card(tmp_path, files={"sentence_bert_config.json": {"do_lower_case": True}, "tokenizer.json": b"{"})
