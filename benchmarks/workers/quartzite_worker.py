"""Quartzite without HTTP: the whole pipeline from text to unit vectors, and bare OpenVINO at fixed shapes."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from dense import dense_graph, dense_inputs
from protocol import answer

from quartzite.admission.gate import Caller, Permit
from quartzite.bootstrap import Service, running
from quartzite.config import EngineSettings, ModelSettings, RequestSettings, Settings
from quartzite.domain import EmbeddingRequest, TextItem
from quartzite.engines.openvino.engine import model_tensors, parallelism
from quartzite.registry.folder import read_card
from quartzite.weights.tensor import Tensor

LIST = 32
NAME = "model"


class Worker:
    """Holds one running service at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._service: Service | None = None

    def load(self, folder: str, precision: str) -> dict[str, Any]:
        """Start the service of one model folder."""
        self._loop.run_until_complete(self._stack.aclose())
        settings = Settings(
            models=(ModelSettings(name=NAME, folder=folder),),
            engine=EngineSettings(precision=precision),  # type: ignore[arg-type]
            requests=RequestSettings(timeout_ms=3_600_000),
        )
        begun = time.perf_counter()
        self._service = self._loop.run_until_complete(self._stack.enter_async_context(running(settings)))
        return {
            "load_s": time.perf_counter() - begun,
            "how": next(iter(self._service.models.loaded.values())).arithmetic,
        }

    def encode(self, texts: list[str], with_vectors: bool = False) -> dict[str, Any]:
        """Embed all `texts`, sent at once as lists of 32."""
        begun = time.perf_counter()
        answers = self._loop.run_until_complete(self._encode(texts))
        seconds = time.perf_counter() - begun
        vectors = np.concatenate([answer.vectors for answer in answers]).tolist() if with_vectors else None
        return {"seconds": seconds, "tokens": sum(answer.tokens for answer in answers), "vectors": vectors}

    async def _encode(self, texts: list[str]) -> list[Any]:
        assert self._service
        lists = [tuple(TextItem(text) for text in texts[at : at + LIST]) for at in range(0, len(texts), LIST)]
        calls = (EmbeddingRequest(NAME, items, truncate="right") for items in lists)
        return await asyncio.gather(
            *(self._service.pipeline.embed(call, Permit(Caller(None, "bench"))) for call in calls)
        )

    def close(self) -> dict[str, Any]:
        """Stop the service."""
        self._loop.run_until_complete(self._stack.aclose())
        return {}


class Bare:
    """OpenVINO fed dense batches (B, S) of whole items from memory: no text, no queue, no padding, no mask to make."""

    def __init__(self) -> None:
        self._compiled: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._tensors: dict[str, Tensor] = {}

    def load(self, folder: str, precision: str) -> dict[str, Any]:
        """Compile the model for every shape worth trying, one stream of one thread for each core."""
        card = read_card(NAME, Path(folder), None)
        streams, threads = parallelism(EngineSettings())
        self._tensors = model_tensors(card)
        options = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": threads}
        compiled = ov.Core().compile_model(dense_graph(card, self._tensors), "CPU", options)
        shapes = [(batch, length) for length in (64, 128, 256) for batch in (1, 2, 4, 8) if batch * length <= 1024]
        self._compiled = {
            f"{batch}x{length}": (compiled, dense_inputs(card, batch, length)) for batch, length in shapes
        }
        return {"shapes": list(self._compiled)}

    def rate(self, shape: str, seconds: float) -> dict[str, Any]:
        """Run one shape for about `seconds` on all streams."""
        compiled, inputs = self._compiled[shape]
        queue = ov.AsyncInferQueue(compiled, parallelism(EngineSettings())[0])
        for _ in range(2 * len(queue)):
            queue.start_async(inputs)
        queue.wait_all()
        runs, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            queue.start_async(inputs)
            runs += 1
        queue.wait_all()
        batch, length = inputs["states"].shape[:2]
        return {"tokens": runs * batch * length, "seconds": time.perf_counter() - begun}


if __name__ == "__main__":
    worker, bare = Worker(), Bare()
    answer(
        {
            "load": worker.load,
            "encode": worker.encode,
            "close": worker.close,
            "load_bare": bare.load,
            "rate_bare": bare.rate,
        }
    )
