"""Following the pickle of a torch file without running it."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest

from quartzite.errors import WeightsRefused
from quartzite.weights.pickled import STORAGES, Storage, StoredTensor, read_state_dict
from weight_files import (
    METADATA,
    ORDERED_DICT,
    STORAGE_NAMES,
    integer,
    integers,
    name,
    parameter,
    state_dict,
    storage,
    tensor,
    text,
    tuple_of,
)

PAIR = storage("0", "F32", 2)
REBUILD = name("torch._utils", "_rebuild_tensor_v2")


def _value(program: bytes) -> bytes:
    """Return a state dict that holds `program` where a tensor should be."""
    return state_dict({"a": program})


def test_a_state_dict_describes_its_tensors() -> None:
    """Storage, offset, shape and strides come out as they were written; the attributes of the dict are dropped."""
    found = read_state_dict(
        state_dict({"a": tensor(PAIR, 1, [1], [1]), "b": parameter(tensor(PAIR, 0, [], []))}, METADATA)
    )
    stored = Storage("0", "F32", 2)
    assert found == {"a": StoredTensor(stored, 1, (1,), (1,)), "b": StoredTensor(stored, 0, (), ())}


def test_a_plain_dict_and_one_item_at_a_time_do_as_well() -> None:
    """A dict instead of an OrderedDict, filled by SETITEM, is read alike."""
    program = b"\x80\x02}" + text("a") + tensor(PAIR, 0, [2], [1]) + b"s."
    assert list(read_state_dict(program)) == ["a"]


def test_an_empty_dict_holds_nothing() -> None:
    """A dict without tensors is valid: what is missing is for others to say."""
    assert read_state_dict(b"\x80\x02}.") == {}


def test_memorised_values_are_recalled_by_short_and_long_numbers() -> None:
    """BINPUT, BINGET and their long forms share one memo; a slot of any number costs nothing."""
    short, long = b"\x07", b"\xff\xff\xff\xff"
    memorised = tensor(PAIR, 0, [2], [1]) + b"q" + short + b"r" + long
    found = read_state_dict(state_dict({"a": memorised, "b": b"h" + short, "c": b"j" + long}))
    assert found["a"] is found["b"] is found["c"]


def test_sizes_beyond_four_bytes_are_read() -> None:
    """Storages of more than 2^31 elements are counted right."""
    found = read_state_dict(_value(tensor(storage("0", "F32", 2**33), 2**32, [1], [1])))
    assert found["a"].storage.elements == 2**33
    assert found["a"].offset == 2**32


def test_every_storage_class_has_a_dtype() -> None:
    """The table of storage classes is the one torch has for the dtypes that are read."""
    assert {f"torch {kind}": dtype for dtype, kind in STORAGE_NAMES.items()} == STORAGES


class _Runs:
    """Pickles into a call of `function`."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: {"a": evil}, lambda evil: OrderedDict(a=evil)])
def test_calls_in_a_pickle_never_happen(tmp_path: Path, protocol: int, wrap: object) -> None:
    """A pickle that would run a command when loaded is refused, and the command has not run."""
    canary = tmp_path / "canary"
    program = pickle.dumps(wrap(_Runs(os.system, f"touch {canary}")), protocol)  # type: ignore[operator]
    with pytest.raises(WeightsRefused):
        read_state_dict(program)
    assert not canary.exists()
    pickle.loads(program)  # the pickle is a real threat: loaded as usual, it does run
    assert canary.exists()


UNKNOWN_NAMES = [
    ("os", "system"),
    ("builtins", "eval"),
    ("__builtin__", "exec"),
    ("torch.storage", "_load_from_bytes"),
    ("torch._utils", "_rebuild_tensor_v3"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__"),
    ("collections", "OrderedDict.__init__"),
    ("collections", "OrderedDict "),
    ("collections ", "OrderedDict"),
    ("torch", "QUInt8Storage"),
    ("torch.storage", "UntypedStorage"),
    ("torch", "load"),
    ("__torch__", "Model"),
    ("", ""),
]


@pytest.mark.parametrize(("module", "attribute"), UNKNOWN_NAMES)
def test_a_name_off_the_list_is_refused_by_name(module: str, attribute: str) -> None:
    """Whatever is not on the short list is refused the moment it is named, called or not."""
    with pytest.raises(WeightsRefused) as caught:
        read_state_dict(_value(name(module, attribute)))
    assert repr(f"{module} {attribute}".replace(" ", ".")) in str(caught.value)


FORBIDDEN_OPCODES = {
    "STACK_GLOBAL": b"\x80\x02" + text("os") + text("system") + b"\x93.",
    "INST": b"\x80\x02(ios\nsystem\n.",
    "OBJ": b"\x80\x02(" + name("collections", "OrderedDict") + b"o.",
    "NEWOBJ": b"\x80\x02" + name("collections", "OrderedDict") + b")\x81.",
    "NEWOBJ_EX": b"\x80\x02" + name("collections", "OrderedDict") + b")}\x92.",
    "EXT1": b"\x80\x02\x82\x01.",
    "PERSID": b"\x80\x02Psomething\n.",
    "EMPTY_LIST": b"\x80\x02].",
    "LONG4": b"\x80\x02\x8b\x01\x00\x00\x00\x01.",
    "BINBYTES": b"\x80\x02B\x01\x00\x00\x00x.",
    "BYTEARRAY8": b"\x80\x02\x96\x01\x00\x00\x00\x00\x00\x00\x00x.",
    "NEXT_BUFFER": b"\x80\x02\x97.",
    "DUP": b"\x80\x02}2.",
    "POP": b"\x80\x02}}0.",
    "FRAME": b"\x80\x02\x95\x01\x00\x00\x00\x00\x00\x00\x00}.",
}


@pytest.mark.parametrize("opcode", FORBIDDEN_OPCODES)
def test_an_opcode_off_the_list_is_refused_by_name(opcode: str) -> None:
    """Opcodes that torch.save does not write are refused, those that build objects above all."""
    with pytest.raises(WeightsRefused, match=rf"opcode {opcode},"):
        read_state_dict(FORBIDDEN_OPCODES[opcode])


def _tensor_of(*arguments: bytes) -> bytes:
    return _value(REBUILD + tuple_of(*arguments) + b"R")


NO_TENSOR = "do not describe one"
DAMAGED = {
    "nothing": (b"", "damaged"),
    "no opcode": (b"\x80\x02\xff", "damaged"),
    "no STOP": (b"\x80\x02}", "damaged"),
    "cut in a string": (b"\x80\x02X\xff\xff\xff\x7fabc", "damaged"),
    "string that is no UTF-8": (b"\x80\x02X\x01\x00\x00\x00\xff.", "damaged"),
    "nothing on the stack": (b"\x80\x02.", "takes more off its stack"),
    "memorise nothing": (b"\x80\x02q\x00.", "takes more off its stack"),
    "tuple of too few": (b"\x80\x02N\x87.", "takes more off its stack"),
    "tuple without mark": (b"\x80\x02t.", "takes more off its stack"),
    "items without mark": (b"\x80\x02}u.", "takes more off its stack"),
    "take across a mark": (b"\x80\x02N(\x85.", "takes more off its stack"),
    "call with nothing": (b"\x80\x02R.", "takes more off its stack"),
    "recall of nothing": (b"\x80\x02h\x00.", "recalls 0"),
    "long recall of nothing": (b"\x80\x02j\xff\xff\xff\xff.", "recalls 4294967295"),
    "half an item": (b"\x80\x02}(" + text("a") + b"u.", "half an item"),
    "items of a tuple": (b"\x80\x02)" + text("a") + b"Ns.", "no dict"),
    "number as a key": (b"\x80\x02}K\x01Ns.", "a int as the key"),
    "key twice": (b"\x80\x02}" + (text("a") + PAIR + b"s") * 2 + b".", "'a' as the key"),
    "other protocol": (b"\x80\x04}.", "protocol 4"),
    "a tensor alone": (b"\x80\x02" + tensor(PAIR, 0, [2], [1]) + b".", "holds a StoredTensor, a dict"),
    "a dict of dicts": (_value(b"}"), "holds a dict under 'a'.*state_dict"),
    "a dict that holds itself": (b"\x80\x02}q\x00" + text("a") + b"h\x00s.", "holds a dict under 'a'"),
    "a storage as a tensor": (_value(PAIR), "holds a Storage under 'a'"),
    "a bare name as a tensor": (_value(REBUILD), "holds a Name under 'a'"),
    "call of no name": (b"\x80\x02N)R.", "calls a NoneType"),
    "call of a storage class": (b"\x80\x02" + name("torch", "FloatStorage") + b")R.", "calls 'torch.FloatStorage'"),
    "call with no tuple": (b"\x80\x02" + REBUILD + b"NR.", "builds no tensor"),
    "OrderedDict of something": (b"\x80\x02" + name("collections", "OrderedDict") + b"N\x85R.", "from arguments"),
    "state of a tensor": (_value(tensor(PAIR, 0, [2], [1]) + b"}b"), "state of a StoredTensor"),
    "state that is no dict": (_value(b"}Nb"), "state of a dict"),
    "storage of another kind": (_value(tensor(storage("0", "F32", 2, "module"), 0, [2], [1])), "no storage"),
    "storage of negative size": (_value(tensor(storage("0", "F32", -2), 0, [2], [1])), "no storage"),
    "storage of a function": (
        _value(tuple_of(text("storage"), REBUILD, text("0"), text("cpu"), integer(2)) + b"Q"),
        "no storage",
    ),
    "storage of one word": (b"\x80\x02" + text("storage") + b"Q.", "no storage"),
    "negative offset": (_value(tensor(PAIR, -1, [2], [1])), NO_TENSOR),
    "negative size": (_value(tensor(PAIR, 0, [-2], [1])), NO_TENSOR),
    "negative stride": (_value(tensor(PAIR, 1, [2], [-1])), NO_TENSOR),
    "fewer strides than axes": (_value(tensor(PAIR, 0, [2, 1], [1])), NO_TENSOR),
    "too many axes": (_value(tensor(PAIR, 0, [1] * 65, [1] * 65)), NO_TENSOR),
    "a boolean as a size": (
        _tensor_of(PAIR, integer(0), tuple_of(b"\x88"), integers([1]), b"\x89", ORDERED_DICT),
        NO_TENSOR,
    ),
    "no storage": (_tensor_of(b"N", integer(0), integers([2]), integers([1]), b"\x89", ORDERED_DICT), NO_TENSOR),
    "hooks that are no dict": (_tensor_of(PAIR, integer(0), integers([2]), integers([1]), b"\x89", b"N"), NO_TENSOR),
    "values negated lazily": (
        _tensor_of(
            PAIR, integer(0), integers([2]), integers([1]), b"\x89", ORDERED_DICT, b"}" + text("neg") + b"\x88s"
        ),
        NO_TENSOR,
    ),
    "parameter of a storage": (_value(parameter(PAIR)), "no tensor"),
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_a_pickle_that_makes_no_sense_is_refused(fault: str) -> None:
    """Whatever is not a dict of tensors in the opcodes of torch.save is refused with the reason."""
    program, message = DAMAGED[fault]
    with pytest.raises(WeightsRefused, match=message):
        read_state_dict(program)


BOMBS = {
    "tuples in tuples": b"\x80\x02)" + b"\x85" * 100_000 + b".",
    "tuples in tuples as a key": b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.",
    "doubling tuples as a key": b"\x80\x02})" + b"q\x00h\x00\x86" * 5000 + b"Ns.",
    "dicts in dicts": b"\x80\x02" + (b"}" + text("a")) * 20_000 + b"N" + b"s" * 20_000 + b".",
    "marks in marks": b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
    "a long tuple as arguments": b"\x80\x02" + REBUILD + tuple_of(*[b"N"] * 500_000) + b"R.",
    "sizes of thousands of bits": _value(tensor(PAIR, 0, [2**2000] * 65, [2**2000] * 65)),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_pickle_cannot_become_large_work(bomb: str) -> None:
    """Nesting, doubling and huge numbers neither exhaust the stack nor grow beyond the file."""
    with pytest.raises(WeightsRefused) as caught:
        read_state_dict(BOMBS[bomb])
    assert len(str(caught.value)) < 500
