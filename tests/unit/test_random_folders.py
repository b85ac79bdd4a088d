"""The maker of random model folders: sizes of the real models, equal weights in every format, small memory."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest

import make_folder as command
from quartzite.domain import ImageItem, Picture
from quartzite.preprocess.tokenise import Tokeniser
from quartzite.weights.folder import open_weights
from synthetic.blueprint import scaled
from synthetic.drawing import BLOCK, RandomSource, encode
from synthetic.folder import make_folder
from synthetic.known import KNOWN
from synthetic.tensors import Spread, TensorPlan, plan_tensors

VISION = {"vision_layers": 4, "vision_hidden": 32, "vision_heads": 2, "vision_intermediate": 48, "vision_positions": 36}
SMALL = {"layers": 2, "hidden": 32, "heads": 4, "intermediate": 48, "vocabulary": 300, "positions": 66}
PARAMETERS = {
    "BAAI/bge-large-zh-v1.5": 325_522_432,
    "BAAI/bge-large-en-v1.5": 335_141_888,
    "Qwen/Qwen3-Embedding-0.6B": 595_776_512,
    "Qwen/Qwen3-Embedding-4B": 4_021_774_336,
    "Qwen/Qwen3-Embedding-8B": 7_567_295_488,
    "Qwen/Qwen3-VL-Embedding-2B": 2_127_532_032,
    "Qwen/Qwen3-VL-Embedding-8B": 8_144_793_840,
}


def digests(folder: Path, prefix: str = "") -> dict[str, str]:
    """Return name without prefix → digest of the bytes, for every tensor of a folder."""
    tensors = open_weights(folder)
    return {
        name.removeprefix(prefix): hashlib.sha256(tensor.data.tobytes()).hexdigest() for name, tensor in tensors.items()
    }


def values(chunks: Iterable[bytes], columns: int) -> "np.ndarray[tuple[int, int], np.dtype[np.uint16]]":
    return np.frombuffer(b"".join(chunks), np.uint16).reshape(-1, columns)


@pytest.mark.parametrize("name", PARAMETERS)
def test_full_size_models_have_the_published_number_of_weights(name: str) -> None:
    """The tensors planned for a known model add up to its published parameter count."""
    plans = plan_tensors(KNOWN[name])
    assert sum(prod(plan.shape) for plan in plans if isinstance(plan.content, Spread)) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "tensors"), [("Qwen/Qwen3-VL-Embedding-2B", 625), ("Qwen/Qwen3-VL-Embedding-8B", 749)]
)
def test_models_that_see_have_the_published_number_of_tensors(name: str, tensors: int) -> None:
    """So many names stand in the files of the hub, and so many the engine expects."""
    plans = list(plan_tensors(KNOWN[name]))
    assert len(plans) == len({plan.name for plan in plans}) == tensors


@pytest.mark.parametrize("name", KNOWN)
def test_equal_seeds_give_equal_weights_in_every_format(name: str, tmp_path: Path) -> None:
    """Format and prefix change the files, never the weights; another seed changes every one of them."""
    sizes = SMALL | ({"head_size": 16, "key_value_heads": 2} if "Qwen" in name else {})
    blueprint = replace(scaled(KNOWN[name], sizes | (VISION if "VL" in name else {})), prefix="")
    variants = {
        "plain": replace(blueprint, file_format="safetensors"),
        "pickled": replace(blueprint, file_format="bin", prefix="model."),
        "sharded": replace(blueprint, file_format="sharded", shard_bytes=30_000),
        "other": replace(blueprint, seed=1, extras=frozenset()),
    }
    for variant, made in variants.items():
        make_folder(tmp_path / variant, made)
    plain = digests(tmp_path / "plain")
    assert digests(tmp_path / "pickled", "model.") == plain
    assert digests(tmp_path / "sharded") == plain
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    other = digests(tmp_path / "other")
    assert other
    assert not [tensor for tensor in other if plain[tensor] == other[tensor]]


def test_limits_follow_the_positions(tmp_path: Path) -> None:
    """A model with fewer positions says so in every file that states a limit, but no limit stays no limit."""
    assert scaled(KNOWN["BAAI/bge-m3"], SMALL).sentence_bert_config == {"max_seq_length": 64, "do_lower_case": False}
    assert scaled(KNOWN["BAAI/bge-m3"], SMALL).tokenizer_config["model_max_length"] == 64
    assert scaled(KNOWN["BAAI/bge-large-zh-v1.5"], SMALL).tokenizer_config["model_max_length"] > 10**29


def test_memory_stays_small_however_large_the_tensor() -> None:
    """A tensor of 8 GB comes in chunks of at most 17 MB that are the same object, and in its full length."""
    plan = TensorPlan("huge", (1_000_000, 4_000), Spread(1.0))
    chunks = list(RandomSource(0).chunks(plan, "bf16"))
    assert sum(map(len, chunks)) == 2 * prod(plan.shape)
    assert max(map(len, chunks)) <= 17_000_000
    assert len({id(chunk) for chunk in chunks}) == 2


def test_a_matrix_larger_than_the_random_block_has_no_two_equal_rows() -> None:
    """Repeating the block makes no row of a matrix a copy of another."""
    columns = 2_048
    rows = values(
        RandomSource(0).chunks(TensorPlan("big", (3 * BLOCK // columns, columns), Spread(1.0)), "bf16"), columns
    )
    assert len(np.unique(rows[:, :64], axis=0)) == len(rows)


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (0.0, 0x0000),
        (1.0, 0x3F80),
        (-1.0, 0xBF80),
        (1 + 2**-8, 0x3F80),
        (1 + 2**-8 + 2**-20, 0x3F81),
        (1 + 3 * 2**-8, 0x3F82),
        (-(2 - 2**-9), 0xC000),
    ],
)
def test_bf16_rounds_to_the_nearest_and_halves_to_even(value: float, bits: int) -> None:
    """A value is stored as the nearest bf16 number, the even one of two that are equally near."""
    assert encode(np.array([value], np.float32), "bf16").tolist() == [bits]


def test_the_command_makes_what_it_is_asked_for(tmp_path: Path) -> None:
    """Options of the command reach the files: sizes, format, dtype, prefix, tokenizer."""
    tokenizer = tmp_path / "given.json"
    tokenizer.write_text("{}", encoding="utf-8")
    folder = tmp_path / "made"
    sizes = [word for name, size in SMALL.items() for word in (f"--{name}", str(size))]
    options = ["--format", "bin", "--dtype", "f16", "--prefix", "bert.", "--seed", "3", "--tokenizer", str(tokenizer)]
    command.main(["--like", "BAAI/bge-large-en-v1.5", "--output", str(folder), *sizes, *options])
    tensors = open_weights(folder)
    assert {name.partition(".")[0] for name in tensors} == {"bert"}
    assert tensors["bert.encoder.layer.1.output.dense.weight"].dtype == "F16"
    assert tensors["bert.encoder.layer.1.output.dense.weight"].shape == (32, 48)
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"] == 300
    assert (folder / "tokenizer.json").read_text(encoding="utf-8") == "{}"


@pytest.mark.parametrize("vocabulary", [1_214, 2_000, 151_936])
def test_the_tokenizer_of_a_model_that_sees_has_its_image_token(vocabulary: int, tmp_path: Path) -> None:
    """A folder can be served: the prompt's tokens are there, and have the numbers that its configuration says."""
    smaller = scaled(KNOWN["Qwen/Qwen3-VL-Embedding-2B"], SMALL | VISION | {"vocabulary": vocabulary})
    make_folder(tmp_path, smaller)
    image_token = smaller.config["image_token_id"]
    tokeniser = Tokeniser(tmp_path / "tokenizer.json", 512, vocabulary, image_token)
    (encoded,) = tokeniser.encode([ImageItem("read already")], None, [Picture(np.zeros((64, 64, 3), np.uint8))])
    assert (encoded.ids == image_token).sum() == 4
    assert encoded.ids.max() < vocabulary
