"""Make a model folder from its blueprint."""

import json
import shutil
from pathlib import Path

from synthetic.blueprint import Blueprint, Config
from synthetic.drawing import RandomSource
from synthetic.safetensors_file import write_safetensors, write_shards
from synthetic.stored import StoredTensor
from synthetic.tensors import Counting, TensorPlan, plan_tensors
from synthetic.torch_file import write_torch

TINY_TOKENIZERS = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "tokenizers"


def make_folder(folder: Path, blueprint: Blueprint, tokenizer: Path | None = None) -> None:
    """Write all files of a model into `folder`, made if need be.

    `tokenizer` is the tokenizer.json to copy; None takes the tiny one of the blueprint's kind. Memory stays under
    200 MB whatever the size of the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_small_files(folder, blueprint)
    if tokenizer or blueprint.tokenizer != "chat":
        shutil.copyfile(tokenizer or TINY_TOKENIZERS / f"{blueprint.tokenizer}.json", folder / "tokenizer.json")
    else:
        _write_chat_tokenizer(folder / "tokenizer.json", blueprint.config["image_token_id"])
    tensors = stored_tensors(blueprint)
    if blueprint.file_format == "sharded":
        write_shards(folder, tensors, blueprint.shard_bytes)
    elif blueprint.file_format == "bin":
        write_torch(folder / "pytorch_model.bin", tensors)
    else:
        write_safetensors(folder / "model.safetensors", tensors)


def stored_tensors(blueprint: Blueprint) -> list[StoredTensor]:
    """Return the tensors of the folder, named and encoded as in its files."""
    source = RandomSource(blueprint.seed)
    return [_stored(plan, blueprint, source) for plan in plan_tensors(blueprint)]


def _stored(plan: TensorPlan, blueprint: Blueprint, source: RandomSource) -> StoredTensor:
    prefix = "" if plan.name.startswith("lm_head.") else blueprint.prefix
    dtype = "i64" if isinstance(plan.content, Counting) else blueprint.dtype
    return StoredTensor(prefix + plan.name, dtype, plan.shape, lambda: source.chunks(plan, blueprint.dtype))


def _write_small_files(folder: Path, blueprint: Blueprint) -> None:
    """Write the configuration files of the model and of its sentence-transformers chain."""
    files = {
        "config.json": blueprint.config,
        "tokenizer_config.json": blueprint.tokenizer_config,
        "modules.json": _modules(),
        "1_Pooling/config.json": _pooling(blueprint),
        "config_sentence_transformers.json": blueprint.sentence_transformers_config,
    }
    if blueprint.sentence_bert_config is not None:
        files["sentence_bert_config.json"] = blueprint.sentence_bert_config
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_chat_tokenizer(file: Path, image_token: int) -> None:
    """Write the tiny tokenizer with so many unused pieces that its image token has the number of the configuration."""
    tokenizer = json.loads((TINY_TOKENIZERS / "chat.json").read_text(encoding="utf-8"))
    marks = {mark["content"]: mark for mark in tokenizer["added_tokens"]}
    missing = max(0, image_token - marks["<|image_pad|>"]["id"])
    pieces = tokenizer["model"]["vocab"]
    pieces |= {f"<unused {number}>": number for number in range(len(pieces), len(pieces) + missing)}
    for mark in marks.values():
        mark["id"] += missing
    for step in tokenizer["post_processor"].get("processors", []):
        for special in step.get("special_tokens", {}).values():
            special["ids"] = [number + missing for number in special["ids"]]
    file.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def _modules() -> list[Config]:
    """Return modules.json: Transformer, Pooling, Normalize, as all models here have it."""
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    return [
        {"idx": idx, "name": str(idx), "path": path, "type": f"sentence_transformers.models.{name}"}
        for idx, (name, path) in enumerate(paths.items())
    ]


def _pooling(blueprint: Blueprint) -> Config:
    """Return 1_Pooling/config.json; the last-token mode stands in the newer files only."""
    modes = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "mean_sqrt_len_tokens": None}
    if blueprint.pooling == "last":
        modes |= {"weightedmean_tokens": None, "lasttoken": "last"}
    chosen = {f"pooling_mode_{mode}": pooling == blueprint.pooling for mode, pooling in modes.items()}
    newer = {"include_prompt": True} if blueprint.pooling == "last" else {}
    return {"word_embedding_dimension": blueprint.text_config["hidden_size"], **chosen, **newer}
