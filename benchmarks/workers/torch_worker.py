"""sentence-transformers on PyTorch, as its documentation runs it: `encode` sorts by length and pads each batch."""

import time
from typing import Any

import torch
from protocol import answer
from sentence_transformers import SentenceTransformer

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


class Worker:
    """Holds one model in each asked-for precision."""

    def __init__(self) -> None:
        self._models: dict[str, SentenceTransformer] = {}

    def load(self, folder: str, precisions: list[str]) -> dict[str, Any]:
        """Load one model folder in every precision."""
        self._models = {
            name: SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": DTYPES[name]}) for name in precisions
        }
        return {"threads": torch.get_num_threads()}

    def encode(
        self, texts: list[str], precision: str, batch_size: int = 32, with_vectors: bool = False
    ) -> dict[str, Any]:
        """Embed all `texts` with one call of `encode`."""
        model = self._models[precision]
        begun = time.perf_counter()
        with torch.inference_mode():
            vectors = model.encode(texts, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False)
        seconds = time.perf_counter() - begun
        return {"seconds": seconds, "vectors": vectors.tolist() if with_vectors else None}


if __name__ == "__main__":
    worker = Worker()
    answer({"load": worker.load, "encode": worker.encode})
