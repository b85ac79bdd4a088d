"""Make the weight files under tests/fixtures/weights with the libraries everybody writes them with.

Run in the reference environment: python scripts/make_weight_fixtures.py
The values follow from arithmetic and are stated again, by numpy, in tests/weight_files.py.
"""

from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures" / "weights"


def counted(*shape: int) -> torch.Tensor:
    """Return 0, 1/4, 2/4, ... in `shape`: exact in every float dtype."""
    return (torch.arange(torch.Size(shape).numel()) / 4).reshape(shape)


def one_of_each_dtype() -> dict[str, torch.Tensor]:
    """Return a tensor of every dtype that is read, and the shapes that are easily forgotten."""
    return {
        "f32": counted(2, 3),
        "f16": counted(5).half(),
        "bf16": counted(3, 2).bfloat16(),
        "f64": counted(2).double(),
        "i64": torch.arange(3) - 1,
        "i32": (torch.arange(3) - 1).int(),
        "i16": (torch.arange(3) - 1).short(),
        "i8": (torch.arange(3) - 1).char(),
        "u8": torch.arange(3).byte(),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
    }


def state_dict() -> "OrderedDict[str, torch.Tensor]":
    """Return the state of a module, with its `_metadata`, and tensors that lie in storages in every possible way."""
    state = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2)).state_dict()
    for tensor in state.values():
        tensor.copy_(counted(*tensor.shape))
    state.update(one_of_each_dtype())
    state["tied"] = state["f32"]
    state["transposed"] = counted(2, 3).t()
    state["slice"] = counted(10)[3:7]
    state["column"] = counted(3, 4)[:, 1]
    state["expanded"] = counted(1, 3).expand(4, 3)
    state["parameter"] = torch.nn.Parameter(counted(2, 2))
    return state


def main() -> None:
    """Write the files anew."""
    FIXTURES.mkdir(parents=True, exist_ok=True)
    torch.save(state_dict(), FIXTURES / "torch_saved.bin")
    torch.save(one_of_each_dtype(), FIXTURES / "torch_legacy.bin", _use_new_zipfile_serialization=False)
    save_file(one_of_each_dtype(), FIXTURES / "library_saved.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
