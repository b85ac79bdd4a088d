"""One stored tensor and its conversions; knows nothing of files."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quartzite.errors import WeightsRefused

DType = Literal["F32", "F16", "BF16", "F64", "I64", "I32", "I16", "I8", "U8", "BOOL"]

STORED_AS: dict[str, type[np.generic]] = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "F64": np.float64,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A named tensor in a file.

    `data` is a C-contiguous view of the mapped file in the tensor's shape; BF16, which numpy lacks, is held as
    uint16 bit patterns. The mapping is private and copy-on-write: writable for libraries that insist, never written.
    """

    name: str
    dtype: DType
    data: NDArray[np.generic]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.data.shape

    def as_f32(self) -> NDArray[np.float32]:
        """Return the values as float32, a view when they are stored so; raise WeightsRefused for integer tensors."""
        if self.dtype == "F32":
            return self.data  # type: ignore[return-value]
        if self.dtype == "BF16":
            return bf16_to_f32(self.data)  # type: ignore[arg-type]
        if self.dtype in ("F16", "F64"):
            return self.data.astype(np.float32)
        raise WeightsRefused(f"tensor {self.name} has dtype {self.dtype}, a float tensor was expected")


def bf16_to_f32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Widen bfloat16 bit patterns, any shape, to float32 of that shape: exact, bf16 is the upper half of f32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
