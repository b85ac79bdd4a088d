"""The limits of a machine that servers are held against: bare OpenVINO at its best shape, and bare bf16 products."""

from contextlib import ExitStack
from pathlib import Path

from engine import Process, worker
from measuring import Figures
from server import cpu_s
from subjects import PYTHON

BARE, PRODUCT = "bare", "product"
LIMITED = ("chunks", "even")
"""Workloads whose tokens per second can be held against a limit."""
SECONDS = 3.0


class Limits:
    """Both limits of one model, in worker processes that do nothing between turns."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._bare = stack.enter_context(worker(PYTHON, "quartzite_worker.py"))
        self._product = stack.enter_context(worker(PYTHON, "product_worker.py"))
        shapes: list[str] = self._bare("load_bare", folder=str(folder), precision="bf16")["shapes"]
        told = self._product("load", folder=str(folder))
        self._flops_per_token: float = told["flops_per_token"]
        self._tokens = max(told["tokens"], key=self._flops_per_s)
        self._shape = max(shapes, key=lambda shape: _rate(self._bare, shape, SECONDS / 5))

    def _flops_per_s(self, tokens: int) -> float:
        rate: float = self._product("rate", tokens=tokens, seconds=SECONDS / 3)["flops_per_s"]
        return rate

    def cpu_s(self) -> float:
        """Return the seconds of processor time that both have taken."""
        return cpu_s([self._bare.pid, self._product.pid])

    def turns(self) -> dict[str, Figures]:
        """Return the figures of a turn of each limit; products are told as the tokens of a model made of them alone."""
        flops_per_s = self._product("rate", tokens=self._tokens, seconds=SECONDS)["flops_per_s"]
        product = {
            "gflops": flops_per_s / 1e9,
            "tokens_per_s": flops_per_s / self._flops_per_token,
            "tokens_at_once": self._tokens,
        }
        batch, length = map(int, self._shape.split("x"))
        bare = {"tokens_per_s": _rate(self._bare, self._shape, SECONDS), "items": batch, "length": length}
        return {BARE: bare, PRODUCT: product}


def _rate(bare: Process, shape: str, seconds: float) -> float:
    told = bare("rate_bare", shape=shape, seconds=seconds)
    return float(told["tokens"] / told["seconds"])
