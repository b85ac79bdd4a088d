"""The servers that are compared: how each is started at its best documented setting for a CPU, on the same weights.

What a peer needs beyond its environment (a GGUF, an ONNX or OpenVINO export of the same weights) is made on first use
and kept in the cache.
"""

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from server import Command
from subjects import PYTHON, ROOT, Subject
from workloads import MODEL

PEERS = ROOT / "benchmarks" / "peers"
CACHED = "quartzite-cache"
"""Answers what comes again from memory: only for workloads in which that is meant, so it is measured when asked for."""
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Site:
    """What a contender is to serve and where it may keep things."""

    folder: Path
    subject: Subject
    cache: Path
    port: int = 0

    def python(self, peer: str) -> Path:
        """Return the interpreter of a peer's environment."""
        return self.cache / "peers" / peer / "bin" / "python"

    def made(self, name: str) -> Path:
        """Return where a peer's own form of the model is kept."""
        return self.cache / "peer-models" / f"{self.folder.name}-{name}"


@dataclass(frozen=True)
class Contender:
    """One server; `peer` names its environment, None is Quartzite's own."""

    peer: str | None
    command: Callable[[Site], Command]
    prepare: Callable[[Site], None] | None = None
    without: frozenset[str] = field(default_factory=frozenset)
    """Names of subjects that it does not run."""
    sees: bool = False
    """Whether it takes images as `{"image": ...}` in `input`."""

    def is_installed(self, cache: Path) -> bool:
        """Tell whether its environment is there."""
        return self.peer is None or (cache / "peers" / self.peer / ".ready").exists()


def quartzite(precision: str, *more: str) -> Callable[[Site], Command]:
    """Return how Quartzite is started, with `more` flags."""

    def command(site: Site) -> Command:
        flags = ["--model", f"{MODEL}={site.folder}", "--precision", precision, "--port", site.port]
        return _command([PYTHON, "-m", "quartzite", "serve", *flags, "--cache", site.cache, *more])

    return command


def vllm(reserved: int) -> Callable[[Site], Command]:
    """Return how vLLM's CPU build is started: bf16, its native kernels, compiled graphs, the OpenMP that it asks for.

    It keeps `reserved` cores for its front end. One is its default; with none, products have all cores.
    """

    def command(site: Site) -> Command:
        flags = {
            "model": site.folder,
            "served-model-name": MODEL,
            "runner": "pooling",
            "host": "127.0.0.1",
            "port": site.port,
            "dtype": "bfloat16",
            "max-model-len": min(site.subject.max_tokens, 8192),
        }
        environment = {
            "VLLM_CPU_KVCACHE_SPACE": "2",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_NUM_OF_RESERVED_CPU": str(reserved),
            "LD_PRELOAD": str(site.python("vllm").parents[1] / "lib" / "libiomp5.so"),
        }
        return _command([site.python("vllm"), "-m", "vllm.entrypoints.openai.api_server", *_flags(flags)], environment)

    return command


def infinity(dtype: str) -> Callable[[Site], Command]:
    """Return how Infinity is started with its PyTorch engine."""

    def command(site: Site) -> Command:
        flags = {
            "model-id": site.folder,
            "served-model-name": MODEL,
            "engine": "torch",
            "device": "cpu",
            "dtype": dtype,
            "host": "127.0.0.1",
            "port": site.port,
            "url-prefix": "/v1",
        }
        program = site.python("infinity").with_name("infinity_emb")
        # Its warm-up computes full batches of its longest text for minutes; the bench has a warm-up of its own.
        arguments = [program, "v2", *_flags(flags), "--no-bettertransformer", "--no-model-warmup"]
        return _command(arguments, {"INFINITY_ANONYMOUS_USAGE_STATS": "0"})

    return command


def llama(site: Site) -> Command:
    """Return how llama-cpp-python's server is started: f16, a context that holds the longest text in one batch."""
    tokens = min(site.subject.max_tokens, 8192)
    flags = {
        "model": site.made("f16.gguf"),
        "embedding": True,
        "n_ctx": tokens,
        "n_batch": tokens,
        "n_ubatch": tokens,
        "n_threads": CORES,
        "n_threads_batch": CORES,
        "host": "127.0.0.1",
        "port": site.port,
        "model_alias": MODEL,
    }
    return _command([site.python("llama"), "-m", "llama_cpp.server", *_flags(flags)])


def make_gguf(site: Site) -> None:
    """Convert the weights with llama.cpp's own script."""
    _make(site, "f16.gguf", "sentence-transformers", ["convert_gguf.py", "--sources", site.cache / "peers" / "llama"])


def library(backend: str, peer: str, dtype: str = "float32", batch: int = 8) -> Callable[[Site], Command]:
    """Return how the minimal server is started over a library."""

    def command(site: Site) -> Command:
        flags = {"backend": backend, "port": site.port, "dtype": dtype, "batch": batch}
        flags["folder"] = site.folder if backend == "torch" else site.made("onnx" if peer == "fastembed" else backend)
        return _command([site.python(peer), PEERS / "library_server.py", *_flags(flags)])

    return command


def export(backend: str) -> Callable[[Site], None]:
    """Return how the weights are exported for a backend of sentence-transformers."""
    return lambda site: _make(site, backend, backend, ["export.py", "--backend", backend])


def _make(site: Site, name: str, peer: str, script: list[str | Path]) -> None:
    output = site.made(name)
    if output.exists():
        return
    log = site.cache / "logs" / f"{output.name}.log"
    for folder in (output.parent, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    # What a script leaves that fails is not taken for the model by the next run.
    with TemporaryDirectory(dir=output.parent) as drafts, log.open("wb") as out:
        draft = Path(drafts) / output.name
        command = [site.python(peer), PEERS / script[0], *script[1:], "--folder", site.folder, "--output", draft]
        subprocess.run(command, check=True, stdout=out, stderr=subprocess.STDOUT)
        draft.replace(output)


def _flags(values: Mapping[str, object]) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def _command(arguments: list[object], environment: Mapping[str, str] | None = None) -> Command:
    return Command([str(argument) for argument in arguments], environment or {})


CONTENDERS = {
    "quartzite": Contender(None, quartzite("bf16"), sees=True),
    CACHED: Contender(None, quartzite("bf16", "--max-vector-bytes", "5000000"), sees=True),
    "quartzite-int8": Contender(None, quartzite("int8"), sees=True),
    "quartzite-int8-dynamic": Contender(None, quartzite("int8-dynamic"), sees=True),
    "vllm": Contender("vllm", vllm(reserved=0)),
    "vllm-reserved": Contender("vllm", vllm(reserved=1)),
    "infinity": Contender("infinity", infinity("bfloat16")),
    "infinity-f32": Contender("infinity", infinity("float32")),
    # The converter asks for normaliser tables, which the small vocabulary of bge-m3's random folder does not have.
    "llama": Contender("llama", llama, make_gguf, frozenset({"bge-m3"})),
    "st-torch": Contender("sentence-transformers", library("torch", "sentence-transformers", "bfloat16")),
    "st-f32": Contender("sentence-transformers", library("torch", "sentence-transformers")),
    # transformers gives no `position_ids`, which the exported graph of Qwen3 asks for; fastembed gives none either.
    "st-onnx": Contender("onnx", library("onnx", "onnx", batch=1), export("onnx"), frozenset({"qwen3-0.6b"})),
    "st-openvino": Contender("openvino", library("openvino", "openvino", "bfloat16"), export("openvino")),
    # Batches by decision 89; fastembed does not sort by length, so in batches of one nothing is padded.
    "fastembed": Contender(
        "fastembed", library("fastembed", "fastembed", batch=1), export("onnx"), frozenset({"qwen3-0.6b"})
    ),
}
"""By the names of `service_report.NAMES`."""
