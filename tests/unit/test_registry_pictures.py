"""Folders of models that take images, read into cards, and those that would be computed differently."""

from pathlib import Path
from typing import Any

import pytest

from model_folders import QWEN3_POOLING, qwen3_vl_card_of
from quartzite.errors import ModelRefused
from quartzite.registry.card import ModelCard, Qwen3Shape, Qwen3VlShape, VisionShape
from quartzite.registry.catalog import catalog

FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}


def test_a_folder_that_takes_images_becomes_a_card(tmp_path: Path) -> None:
    """Both towers' sizes come from config.json, and `dimensions` may be any number from 64 to the native one."""
    card = qwen3_vl_card_of(tmp_path)
    assert card == ModelCard(
        name="tests/model",
        folder=tmp_path,
        shape=Qwen3VlShape(
            text=Qwen3Shape(
                layers=3,
                hidden=128,
                heads=4,
                key_value_heads=2,
                head_size=64,
                intermediate=96,
                vocabulary=100,
                positions=40960,
                epsilon=1e-6,
                rope_theta=5_000_000.0,
            ),
            vision=VisionShape(layers=4, hidden=48, heads=3, intermediate=80, table_side=6, deepstack=(0, 2, 3)),
            rope_sections=(12, 10, 10),
            image_token=95,
        ),
        pooling="last",
        max_tokens=40960,
        allowed_dimensions=range(64, 129),
    )
    assert card.takes_images
    assert (card.dimensions, card.shape.vocabulary) == (128, 100)


def test_the_form_of_transformers_5_says_the_same(tmp_path: Path) -> None:
    """The rotary base and its sections stand in `rope_parameters` there, for both towers."""
    rope = {"rope_theta": 5e6, "mrope_section": [12, 10, 10], "mrope_interleaved": True, "rope_type": "default"}
    newer = {"rope_theta": None, "rope_scaling": None, "rope_parameters": rope}
    axial = {"rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0}}
    assert qwen3_vl_card_of(tmp_path, newer, axial) == qwen3_vl_card_of(tmp_path)


def test_its_sentence_transformers_files_are_understood(tmp_path: Path) -> None:
    """The instruction as default prompt, the chat template, and modalities that all go straight through the network."""
    files = {
        "config_sentence_transformers.json": {
            "default_prompt_name": "default",
            "prompts": {"default": "Represent the user's input."},
        },
        "sentence_bert_config.json": {
            "modality_config": {"text": FORWARD, "image": FORWARD, "message": {**FORWARD, "format": "structured"}},
            "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
            "max_seq_length": 8192,
        },
        "1_Pooling/config.json": {"pooling_mode": "lasttoken", "embedding_dimension": 128, "include_prompt": True},
    }
    assert qwen3_vl_card_of(tmp_path, files=files).max_tokens == 8192


def test_without_modules_the_catalogue_tells_the_pooling(tmp_path: Path) -> None:
    """The hub's first revisions have none; a folder of unknown name is refused, for it may be a chat model."""
    bare = {"modules.json": None}
    entry = catalog()["Qwen/Qwen3-VL-Embedding-8B"]
    assert qwen3_vl_card_of(tmp_path, files=bare, entry=entry).pooling == "last"
    with pytest.raises(ModelRefused, match=r"no modules\.json"):
        qwen3_vl_card_of(tmp_path, files=bare)


@pytest.mark.parametrize(
    ("text", "vision", "message"),
    [
        ({"rope_scaling": {"mrope_section": [12, 10, 9]}}, {}, r"mrope_section \[12, 10, 9\]"),
        ({"rope_scaling": {"mrope_section": [2, 15, 15]}}, {}, r"mrope_section \[2, 15, 15\]"),
        ({"rope_scaling": {"mrope_section": [12, 20]}}, {}, "mrope_section"),
        ({"rope_scaling": {"mrope_section": [12, 10, 10], "mrope_interleaved": False}}, {}, "mrope_interleaved: false"),
        ({"rope_theta": None}, {}, "rope_theta is not stated"),
        ({"attention_bias": True}, {}, "attention_bias"),
        ({"num_hidden_layers": 2}, {}, "more than the 2 layers"),
        ({}, {"in_channels": 1}, r"\(1, 2, 16, 2\), not \(3, 2, 16, 2\)"),
        ({}, {"patch_size": 14}, r"\(3, 2, 14, 2\)"),
        ({}, {"temporal_patch_size": 1}, r"\(3, 1, 16, 2\)"),
        ({}, {"spatial_merge_size": 4}, r"\(3, 2, 16, 4\)"),
        ({}, {"hidden_act": "silu"}, "hidden_act 'silu' is not computed for the vision tower"),
        ({}, {"out_hidden_size": 64}, "out_hidden_size 64"),
        ({}, {"num_position_embeddings": 37}, "37 is no square number"),
        ({}, {"num_heads": 5}, "hidden_size 48 leaves no whole pairs"),
        ({}, {"deepstack_visual_indexes": [2, 0]}, r"\[2, 0\] are no ascending layers"),
        ({}, {"deepstack_visual_indexes": [1, 4]}, "are no ascending layers of the 4"),
        ({}, {"rope_parameters": {"rope_theta": 500.0}}, "base 10000"),
        ({}, {"rope_parameters": {"rope_type": "default"}}, "other than axial ones"),
    ],
)
def test_what_would_be_computed_differently_is_refused(
    tmp_path: Path, text: dict[str, Any], vision: dict[str, Any], message: str
) -> None:
    """The message names config.json and what it asks for."""
    with pytest.raises(ModelRefused, match=rf"config\.json: .*{message}"):
        qwen3_vl_card_of(tmp_path, text, vision)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "config_sentence_transformers.json",
            {"default_prompt_name": "default", "prompts": {"default": "Find a picture."}},
            "default_prompt_name 'default'",
        ),
        (
            "sentence_bert_config.json",
            {"processing_kwargs": {"chat_template": {"add_generation_prompt": False}}},
            "processing_kwargs",
        ),
        (
            "sentence_bert_config.json",
            {"modality_config": {"text": FORWARD, "image": {"method": "get_image_features"}}},
            "modality_config",
        ),
        ("1_Pooling/config.json", QWEN3_POOLING | {"word_embedding_dimension": 64}, "pools 64 dimensions"),
    ],
)
def test_other_ways_to_ask_are_refused(tmp_path: Path, file: str, content: dict[str, Any], message: str) -> None:
    """Another instruction, template or way through the network would give other vectors."""
    with pytest.raises(ModelRefused, match=message):
        qwen3_vl_card_of(tmp_path, files={file: content})
