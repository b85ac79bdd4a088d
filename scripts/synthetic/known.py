"""The models that a folder can be made like: their configuration files, as the hubs have them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from synthetic.blueprint import Blueprint, Config, FileFormat

NO_LIMIT = 1000000000000000019884624838656  # what tokenizer_config.json says when it says nothing
BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
XLMR_TOKENS = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
}
QWEN_PROMPTS = {
    "prompts": {
        "query": "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
        "document": "",
    },
    "default_prompt_name": None,
    "similarity_fn_name": "cosine",
}


def _versions(sentence_transformers: str, transformers: str, pytorch: str) -> Config:
    """Return a config_sentence_transformers.json that holds versions only."""
    return {
        "__version__": {
            "sentence_transformers": sentence_transformers,
            "transformers": transformers,
            "pytorch": pytorch,
        }
    }


def _encoder_config(architecture: Literal["BertModel", "XLMRobertaModel"], own: Config) -> Config:
    """Return the config.json of a BERT or XLM-R encoder: what all of them say, and its `own` part."""
    return {
        "architectures": [architecture],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "model_type": {"BertModel": "bert", "XLMRobertaModel": "xlm-roberta"}[architecture],
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "use_cache": True,
        **own,
    }


def _bge_large(vocabulary: int, model_max_length: int, file_format: FileFormat) -> Blueprint:
    return Blueprint(
        config=_encoder_config(
            "BertModel",
            {
                "bos_token_id": 0,
                "eos_token_id": 2,
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "layer_norm_eps": 1e-12,
                "max_position_embeddings": 512,
                "num_attention_heads": 16,
                "num_hidden_layers": 24,
                "pad_token_id": 0,
                "transformers_version": "4.30.0",
                "type_vocab_size": 2,
                "vocab_size": vocabulary,
            },
        ),
        pooling="cls",
        tokenizer="wordpiece",
        tokenizer_config={
            **BERT_TOKENS,
            "clean_up_tokenization_spaces": True,
            "do_lower_case": True,
            "model_max_length": model_max_length,
            "strip_accents": None,
            "tokenize_chinese_chars": True,
            "tokenizer_class": "BertTokenizer",
        },
        sentence_bert_config={"max_seq_length": 512, "do_lower_case": True},
        sentence_transformers_config=_versions("2.2.2", "4.28.1", "1.13.0+cu117"),
        extras=frozenset({"pooler", "position_ids"}),
        file_format=file_format,
    )


def _minilm() -> Blueprint:
    return Blueprint(
        config=_encoder_config(
            "BertModel",
            {
                "hidden_size": 384,
                "intermediate_size": 1536,
                "layer_norm_eps": 1e-12,
                "max_position_embeddings": 512,
                "num_attention_heads": 12,
                "num_hidden_layers": 6,
                "pad_token_id": 0,
                "transformers_version": "4.8.2",
                "type_vocab_size": 2,
                "vocab_size": 30522,
            },
        ),
        pooling="mean",
        tokenizer="wordpiece",
        tokenizer_config={
            **BERT_TOKENS,
            "do_lower_case": True,
            "model_max_length": 512,
            "strip_accents": None,
            "tokenize_chinese_chars": True,
            "tokenizer_class": "BertTokenizer",
        },
        sentence_bert_config={"max_seq_length": 256, "do_lower_case": False},
        sentence_transformers_config=_versions("2.0.0", "4.6.1", "1.8.1"),
        extras=frozenset({"pooler", "position_ids"}),
    )


def _xlm_roberta(own: Config, max_tokens: int, sentence_transformers_config: Config) -> Blueprint:
    return Blueprint(
        config=_encoder_config(
            "XLMRobertaModel",
            {
                "bos_token_id": 0,
                "eos_token_id": 2,
                "layer_norm_eps": 1e-05,
                "max_position_embeddings": max_tokens + 2,
                "output_past": True,
                "pad_token_id": 1,
                "type_vocab_size": 1,
                "vocab_size": 250002,
                **own,
            },
        ),
        pooling="cls",
        tokenizer="unigram",
        tokenizer_config={
            **XLMR_TOKENS,
            "clean_up_tokenization_spaces": True,
            "mask_token": {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "normalized": True},
            "model_max_length": max_tokens,
            "tokenizer_class": "XLMRobertaTokenizer",
        },
        sentence_bert_config={"max_seq_length": max_tokens, "do_lower_case": False},
        sentence_transformers_config=sentence_transformers_config,
        extras=frozenset({"pooler"}),
        file_format="bin",
    )


def _qwen3(own: Config, *, end: int, tied: bool, file_format: FileFormat) -> Blueprint:
    common: dict[str, Any] = {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": end,
        "head_dim": 128,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "model_type": "qwen3",
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
    }
    return Blueprint(
        config={**common, **own, "max_window_layers": own["num_hidden_layers"]},
        pooling="last",
        tokenizer="bytelevel",
        tokenizer_config={
            "add_bos_token": False,
            "add_prefix_space": False,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 131072,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
        sentence_bert_config=None,
        sentence_transformers_config=QWEN_PROMPTS,
        dtype="bf16",
        file_format=file_format,
    )


SEEING_FILES: dict[str, Config] = {
    "sentence_bert_config": {
        "transformer_task": "feature-extraction",
        "modality_config": {
            kind: {"method": "forward", "method_output_name": "last_hidden_state"}
            for kind in ("text", "image", "message")
        },
        "module_output_name": "token_embeddings",
        "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
    },
    "sentence_transformers_config": {
        "prompts": {"default": "Represent the user's input."},
        "default_prompt_name": "default",
        "similarity_fn_name": "cosine",
    },
}
"""The likely content of the sentence-transformers files of models that see."""
VISION_COMMON = {
    "hidden_act": "gelu_pytorch_tanh",
    "in_channels": 3,
    "initializer_range": 0.02,
    "model_type": "qwen3_vl",
    "num_heads": 16,
    "num_position_embeddings": 2304,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


def _qwen3_vl(text: Config, vision: Config, *, tied: bool, file_format: FileFormat) -> Blueprint:
    """Return the text tower of Qwen3 with a vision tower."""
    qwen3 = _qwen3(text, end=151645, tied=tied, file_format=file_format)
    own = ("architectures", "model_type", "tie_word_embeddings", "torch_dtype", "max_window_layers")
    text_config = {
        **{key: value for key, value in qwen3.config.items() if key not in own},
        "dtype": "bfloat16",
        "max_position_embeddings": 262144,
        "model_type": "qwen3_vl_text",
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        "rope_theta": 5000000,
        "vocab_size": 151936,
    }
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "image_token_id": 151655,
        "model_type": "qwen3_vl",
        "text_config": text_config,
        "tie_word_embeddings": tied,
        "transformers_version": "4.57.0",
        "video_token_id": 151656,
        "vision_config": {**VISION_COMMON, "out_hidden_size": text["hidden_size"], **vision},
        "vision_end_token_id": 151653,
        "vision_start_token_id": 151652,
    }
    return replace(qwen3, config=config, prefix="model.", tokenizer="chat", **SEEING_FILES)  # type: ignore[arg-type]


KNOWN: Mapping[str, Blueprint] = {
    "BAAI/bge-large-zh-v1.5": _bge_large(21128, NO_LIMIT, "bin"),
    "BAAI/bge-large-en-v1.5": _bge_large(30522, 512, "safetensors"),
    "sentence-transformers/all-MiniLM-L6-v2": _minilm(),
    "netease-youdao/bce-embedding-base_v1": _xlm_roberta(
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "transformers_version": "4.35.0",
        },
        512,
        _versions("2.2.2", "4.35.0", "1.13.1"),
    ),
    "BAAI/bge-m3": _xlm_roberta(
        {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "transformers_version": "4.33.0",
        },
        8192,
        _versions("2.2.2", "4.33.0", "2.1.2+cu121"),
    ),
    "Qwen/Qwen3-Embedding-0.6B": _qwen3(
        {
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "max_position_embeddings": 32768,
            "num_attention_heads": 16,
            "num_hidden_layers": 28,
            "transformers_version": "4.51.3",
            "vocab_size": 151669,
        },
        end=151643,
        tied=True,
        file_format="safetensors",
    ),
    "Qwen/Qwen3-Embedding-4B": _qwen3(
        {
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "max_position_embeddings": 40960,
            "num_attention_heads": 32,
            "num_hidden_layers": 36,
            "transformers_version": "4.51.2",
            "vocab_size": 151665,
        },
        end=151645,
        tied=True,
        file_format="sharded",
    ),
    "Qwen/Qwen3-Embedding-8B": _qwen3(
        {
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "max_position_embeddings": 40960,
            "num_attention_heads": 32,
            "num_hidden_layers": 36,
            "transformers_version": "4.51.2",
            "vocab_size": 151665,
        },
        end=151645,
        tied=False,
        file_format="sharded",
    ),
    "Qwen/Qwen3-VL-Embedding-2B": _qwen3_vl(
        {
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_attention_heads": 16,
            "num_hidden_layers": 28,
        },
        {"deepstack_visual_indexes": [5, 11, 17], "depth": 24, "hidden_size": 1024, "intermediate_size": 4096},
        tied=True,
        file_format="safetensors",
    ),
    "Qwen/Qwen3-VL-Embedding-8B": _qwen3_vl(
        {
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_attention_heads": 32,
            "num_hidden_layers": 36,
        },
        {"deepstack_visual_indexes": [8, 16, 24], "depth": 27, "hidden_size": 1152, "intermediate_size": 4304},
        tied=False,
        file_format="sharded",
    ),
}
