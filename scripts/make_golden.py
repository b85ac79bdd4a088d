"""Make the golden vectors with transformers and sentence-transformers; runs in the reference environment only.

    .venv-reference/bin/python scripts/make_golden.py [--minilm FOLDER]            # write tests/golden/*.npz
    .venv-reference/bin/python scripts/make_golden.py [--minilm FOLDER] --check    # fail when one would change

Every text runs alone, without padding, in float32 on the CPU with eager attention; pooling is done here.
"""

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, logging
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from synthetic import golden_pictures
from synthetic.blueprint import Blueprint, Pooling
from synthetic.folder import make_folder
from synthetic.golden import (
    CASES,
    GoldenVectors,
    golden_file,
    load_vectors,
    read_texts,
    save_vectors,
    weights_sha256,
)

POOL: Mapping[Pooling, Callable[[torch.Tensor], torch.Tensor]] = {
    "cls": lambda states: states[0],
    "mean": lambda states: states.mean(dim=0),
    "max": lambda states: states.amax(dim=0),
    "last": lambda states: states[-1],
}
TOLERANCE = 1e-6


def main() -> int:
    """Write or check all golden files; return the exit status."""
    parser = argparse.ArgumentParser(description="Make the golden vectors of the tests.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file would change")
    parser.add_argument("--minilm", type=Path, metavar="FOLDER", help="folder of the real all-MiniLM-L6-v2; else left")
    options = parser.parse_args()
    logging.set_verbosity_error()  # a pooler that is not there is no news
    logging.disable_progress_bar()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)  # the order of sums, and so the last digit, depends on it
    different = [name for name, golden in _run(options.minilm) if not _settle(name, golden, check=options.check)]
    for name, blueprint in golden_pictures.CASES.items():
        if not _settle_seeing(name, run_seeing(blueprint), check=options.check):
            different.append(name)
    for name in different:
        print(f"{golden_file(name)} is not what the reference gives", file=sys.stderr)
    return int(bool(different))


def run_case(blueprint: Blueprint, texts: list[str]) -> GoldenVectors:
    """Run transformers over the texts and return its ids and pooled float32 vectors."""
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder), blueprint)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = _load(Path(folder))
    limit = (blueprint.sentence_bert_config or {}).get("max_seq_length", model.config.max_position_embeddings)
    ids = [tokenizer(text, truncation=True, max_length=limit)["input_ids"] for text in texts]
    states = (model(input_ids=torch.tensor([item])).last_hidden_state[0] for item in ids)
    vectors = np.stack([POOL[blueprint.pooling](item).numpy() for item in states])
    return GoldenVectors(ids, vectors, weights_sha256(blueprint))


def run_seeing(blueprint: Blueprint) -> golden_pictures.SeenVectors:
    """Run transformers over items of text and pictures and return their last tokens' float32 states.

    The pixels go through transformers' own image processor, without a change of size.
    """
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder), blueprint)
        model = _load(Path(folder))
    processor = Qwen2VLImageProcessorPil(
        patch_size=16, temporal_patch_size=2, merge_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_resize=False
    )
    items = golden_pictures.golden_items(blueprint)
    inputs = [_seen(item, model.config.image_token_id, processor) for item in items]
    vectors = np.stack([model(**each).last_hidden_state[0, -1].numpy() for each in inputs])
    patches = [_patches_sha256(each["pixel_values"]) if "pixel_values" in each else "" for each in inputs]
    return golden_pictures.SeenVectors(vectors, weights_sha256(blueprint), golden_pictures.items_sha256(items), patches)


def _seen(
    item: golden_pictures.GoldenItem, image_token: int, processor: Qwen2VLImageProcessorPil
) -> dict[str, torch.Tensor]:
    """Return the model's arguments for one item."""
    ids = torch.tensor([item.ids])
    if item.pixels is None:
        return {"input_ids": ids}
    pixels = processor(images=[Image.fromarray(item.pixels)], return_tensors="pt")
    return {"input_ids": ids, "mm_token_type_ids": (ids == image_token).int(), **pixels}


def _patches_sha256(pixel_values: torch.Tensor) -> str:
    """Return the digest of the first of the two frames, float32 (patches, 768); refuse two that differ."""
    first, second = pixel_values.reshape(-1, 3, 2, 256).unbind(2)
    if not torch.equal(first, second):
        raise SystemExit("the two frames of a picture are not the same")
    return hashlib.sha256(first.contiguous().numpy().tobytes()).hexdigest()


def run_minilm(folder: Path, texts: list[str]) -> GoldenVectors:
    """Run sentence-transformers over the texts and return its ids and normalised float32 vectors."""
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"attn_implementation": "eager"})
    ids = [model.preprocess([text])["input_ids"][0].tolist() for text in texts]
    vectors = model.encode(texts, batch_size=1, normalize_embeddings=True, show_progress_bar=False)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return GoldenVectors(ids, np.asarray(vectors, np.float32), digest)


def _run(minilm: Path | None) -> Iterator[tuple[str, GoldenVectors]]:
    texts = read_texts()
    for name, blueprint in CASES.items():
        yield name, run_case(blueprint, texts)
    if minilm is not None:
        yield "minilm", run_minilm(minilm, read_texts("english"))


def _load(folder: Path) -> PreTrainedModel:
    """Load the model; refuse one in which a tensor that matters was not found and left random."""
    model, report = AutoModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    absent = {name for name in report["missing_keys"] if not name.startswith("pooler.")}
    if absent or report["mismatched_keys"]:
        raise SystemExit(f"transformers does not find {absent or report['mismatched_keys']} in the folder it was given")
    return model.eval()


def _settle(name: str, golden: GoldenVectors, *, check: bool) -> bool:
    """Return whether the stored file holds these vectors already; unless only checking, make it so."""
    file = golden_file(name)
    same = file.exists() and _same(load_vectors(file), golden)
    if not same and not check:
        save_vectors(file, golden)
        print(f"{file}: {len(golden.ids)} vectors")
        return True
    return same


def _settle_seeing(name: str, golden: golden_pictures.SeenVectors, *, check: bool) -> bool:
    """Do what `_settle` does for a case of text and pictures."""
    file = golden_pictures.golden_file(name)
    same = file.exists() and _same_seeing(golden_pictures.load(file), golden)
    if not same and not check:
        golden_pictures.save(file, golden)
        print(f"{file}: {len(golden.vectors)} vectors")
        return True
    return same


def _same_seeing(stored: golden_pictures.SeenVectors, made: golden_pictures.SeenVectors) -> bool:
    facts = ("weights_sha256", "items_sha256", "patches_sha256")
    return all(getattr(stored, fact) == getattr(made, fact) for fact in facts) and _near(stored.vectors, made.vectors)


def _same(stored: GoldenVectors, made: GoldenVectors) -> bool:
    """Compare ids and weights exactly, vectors within 1e-6 of their largest value."""
    return (
        (stored.ids, stored.weights_sha256, stored.vectors.shape) == (made.ids, made.weights_sha256, made.vectors.shape)
        and _near(stored.vectors, made.vectors)
    )  # fmt: skip


def _near(stored: NDArray[np.float32], made: NDArray[np.float32]) -> bool:
    return stored.shape == made.shape and bool(np.abs(stored - made).max() <= TOLERANCE * np.abs(made).max())


if __name__ == "__main__":
    sys.exit(main())
