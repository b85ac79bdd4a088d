"""Which arithmetic the processor does well; decides what `auto` means and says why."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quartzite.config import Precision

CPU_INFO = Path("/proc/cpuinfo")
NATIVE_BF16 = ("amx_bf16", "avx512_bf16")
CONVOLVING = "amx_bf16"
"""With this flag OpenVINO's convolutions in bf16 are faster than its products: decision 82."""
INT8_PRODUCTS = ("avx512_vnni", "avx_vnni")
WITHOUT_INT8_ACTIVATIONS = "amx_int8"
"""With this flag OpenVINO brings no activations to int8 by itself; a graph can: see decisions 74 and 75."""
DYNAMIC_GROUP = 128
"""Values of a token that share one scale in `int8-dynamic`: see decision 43."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How a model is computed: the precision of products, the storage of weight matrices, and why these.

    `group` says how many values of a token are brought to int8 with one scale before they meet int8 weights, 0 that
    they stay in `compute`. `convolves`: where the number of tokens is known, large products are convolutions.
    """

    compute: Literal["f32", "bf16"]
    storage: Literal["float", "int8"]
    reason: str
    group: int = 0
    by_token: bool = False
    convolves: bool = False

    @property
    def name(self) -> str:
        """The short name shown at start."""
        if self.storage == "int8":
            return "int8-dynamic" if self.group or self.by_token else "int8"
        return self.compute


def choose(wanted: Precision, flags: frozenset[str], in_graph: bool = False) -> Arithmetic:
    """Return the arithmetic for `wanted` on a processor with `flags`; `in_graph`: the graph can bring states to int8.

    OpenVINO also offers bf16 where it is only emulated, so the processor's own flags decide.
    """
    native = next((flag for flag in NATIVE_BF16 if flag in flags), None)
    if wanted == "f32":
        return Arithmetic("f32", "float", "as asked")
    if wanted == "bf16":
        reason = "as asked" if native else "as asked; this processor only emulates bf16"
        return Arithmetic("bf16", "float", reason, convolves=native == CONVOLVING)
    compute: Literal["f32", "bf16"] = "bf16" if native else "f32"
    if wanted == "int8-dynamic":
        return _int8_dynamic(compute, flags, in_graph)
    if wanted == "int8":
        return Arithmetic(compute, "int8", f"as asked; products in {compute}")
    found = f"the processor has {native}" if native else f"this {platform.machine()} processor has no native bf16"
    return Arithmetic(compute, "float", found, convolves=native == CONVOLVING)


def _int8_dynamic(compute: Literal["f32", "bf16"], flags: frozenset[str], in_graph: bool) -> Arithmetic:
    """Return the arithmetic of int8 products, the plugin's or with AMX the graph's own.

    Where there are none the weights are prepared all the same: they are closer to the stored ones than those of plain
    int8, and as fast.
    """
    if not any(flag in flags for flag in INT8_PRODUCTS):
        return Arithmetic(compute, "int8", f"this processor has no int8 products (VNNI); products in {compute}")
    if WITHOUT_INT8_ACTIVATIONS not in flags:
        return Arithmetic(compute, "int8", f"as asked; products in int8, the rest in {compute}", DYNAMIC_GROUP)
    if in_graph:
        return Arithmetic(compute, "int8", f"as asked; products in int8 (AMX), the rest in {compute}", by_token=True)
    reason = f"as asked; with AMX OpenVINO has its products in {compute}, so bf16 is as fast"
    return Arithmetic(compute, "int8", reason, DYNAMIC_GROUP)


def processor_flags(source: Path = CPU_INFO) -> frozenset[str]:
    """Return the flags of the first processor in `source`; empty where the system does not tell."""
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    line = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(line.partition(":")[2].split())
