"""A minimal HTTP server over an embedding library: what somebody would write who wants it fast but wants no more.

    python library_server.py --backend torch --folder FOLDER --port 8000 [--dtype bfloat16]

It runs in the library's own environment. One thread computes; it takes what is waiting, up to 256 texts, encodes it in
one call (sentence-transformers sorts by length and pads batches of `--batch`) and answers each request.
"""

import argparse
import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

MOST_TEXTS = 256
OPENVINO_TYPES = {"float32": "f32", "bfloat16": "bf16"}
Encode = Callable[[list[str]], Any]


class Desk:
    """Gathers requests while the library is busy."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._waiting: list[tuple[list[str], asyncio.Future[Any]]] = []
        self._came = asyncio.Event()
        self._thread = ThreadPoolExecutor(1)

    async def embed(self, texts: list[str]) -> Any:
        """Return the vectors of `texts`, (B, D)."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((texts, answer))
        self._came.set()
        return await answer

    async def work(self) -> None:
        """Compute for ever."""
        while True:
            await self._came.wait()
            taken = [self._waiting.pop(0)]
            while self._waiting and sum(len(texts) for texts, _ in taken) < MOST_TEXTS:
                taken.append(self._waiting.pop(0))
            if not self._waiting:
                self._came.clear()
            await self._answer(taken)

    async def _answer(self, taken: list[tuple[list[str], asyncio.Future[Any]]]) -> None:
        together = [text for texts, _ in taken for text in texts]
        try:
            vectors = await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, together)
        except Exception as fault:  # noqa: BLE001 - whatever it is, the waiting are told
            for _, answer in taken:
                answer.set_exception(fault)
            return
        for texts, answer in taken:
            answer.set_result(vectors[: len(texts)])
            vectors = vectors[len(texts) :]


def application(desk: Desk) -> Starlette:
    """Return the application with its one route."""

    async def embeddings(request: Request) -> Response:
        asked = orjson.loads(await request.body())
        texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
        vectors = await desk.embed(texts)
        data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
        body = {"object": "list", "model": asked["model"], "data": data}
        return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")

    return Starlette(routes=[Route("/v1/embeddings", embeddings, methods=["POST"])])


def sentence_transformers(folder: str, backend: str, dtype: str, batch: int) -> Encode:
    """Return how sentence-transformers encodes."""
    import torch
    from sentence_transformers import SentenceTransformer

    kwargs: dict[str, dict[str, Any]] = {
        "torch": {"dtype": getattr(torch, dtype)},
        "openvino": {"ov_config": {"INFERENCE_PRECISION_HINT": OPENVINO_TYPES[dtype]}},
        "onnx": {},
    }
    model = SentenceTransformer(
        folder, device="cpu", backend=backend, model_kwargs=kwargs[backend], local_files_only=True
    )

    def encode(texts: list[str]) -> Any:
        with torch.inference_mode():
            return model.encode(texts, batch_size=batch, normalize_embeddings=True, show_progress_bar=False)

    return encode


def fastembed(folder: str, batch: int) -> Encode:
    """Return how fastembed encodes a model of its user's own, given as sentence-transformers exports it to ONNX."""
    import numpy as np
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    pooling = json.loads((Path(folder) / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    TextEmbedding.add_custom_model(
        model="bench",
        pooling=PoolingType[{"lasttoken": "LAST_TOKEN"}.get(pooling["pooling_mode"], pooling["pooling_mode"].upper())],
        normalization=True,
        sources=ModelSource(hf="bench/bench"),
        dim=pooling["embedding_dimension"],
        model_file="onnx/model.onnx",
    )
    model = TextEmbedding("bench", specific_model_path=folder)
    return lambda texts: np.stack(list(model.embed(texts, batch_size=batch)))


def main() -> None:
    """Load the model and serve it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["torch", "onnx", "openvino", "fastembed"], required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=8)
    asked = parser.parse_args()
    if asked.backend == "fastembed":
        encode = fastembed(asked.folder, asked.batch)
    else:
        encode = sentence_transformers(asked.folder, asked.backend, asked.dtype, asked.batch)

    async def serve() -> None:
        desk = Desk(encode)
        working = asyncio.create_task(desk.work())
        config = uvicorn.Config(application(desk), host="127.0.0.1", port=asked.port, log_level="warning")
        await uvicorn.Server(config).serve()
        working.cancel()

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


if __name__ == "__main__":
    main()
