"""Model folders that would be computed differently, or not at all: each refused by name."""

from pathlib import Path
from typing import Any

import pytest

from model_folders import BERT, QWEN3, XLM_R, card_of, descriptions, modules, qwen3_card_of, write
from quartzite.errors import ModelRefused
from quartzite.registry.folder import read_card


def test_a_decoder_without_modules_is_refused(tmp_path: Path) -> None:
    """It is most likely a chat model."""
    with pytest.raises(ModelRefused, match=r"no modules\.json"):
        card_of(tmp_path, QWEN3, files={"modules.json": None})


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
        card_of(tmp_path, BERT | changes)


def test_positions_that_hold_no_token_are_refused(tmp_path: Path) -> None:
    """Two positions are none for XLM-R."""
    with pytest.raises(ModelRefused, match="leaves no position for a token"):
        card_of(tmp_path, XLM_R | {"max_position_embeddings": 2})


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
        qwen3_card_of(tmp_path, **changes)


def test_all_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    """Nobody should have to mend them one by one."""
    with pytest.raises(ModelRefused) as refused:
        qwen3_card_of(tmp_path, attention_bias=True, use_sliding_window=True, rope_scaling={"type": "yarn"})
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
        card_of(tmp_path, files={"modules.json": chain})


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
        card_of(tmp_path, files={"1_Pooling/config.json": config})


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
        card_of(tmp_path, files={"config_sentence_transformers.json": config, "modules.json": None})


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
        card_of(tmp_path, files={"sentence_bert_config.json": config})


@pytest.mark.parametrize("normalizer", [None, {"type": "NFC"}, {"type": "BertNormalizer", "lowercase": False}])
def test_lower_case_that_the_tokenizer_keeps_is_refused(tmp_path: Path, normalizer: dict[str, Any] | None) -> None:
    """It would give other tokens."""
    files = {"sentence_bert_config.json": {"do_lower_case": True}, "tokenizer.json": {"normalizer": normalizer}}
    with pytest.raises(ModelRefused, match=r"do_lower_case is set, but tokenizer\.json keeps upper case"):
        card_of(tmp_path, files=files)


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
        card_of(tmp_path, files={"adapter_config.json": {"peft_type": "LORA"}})


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
        card_of(tmp_path, files={"sentence_bert_config.json": {"do_lower_case": True}, "tokenizer.json": b"{"})
