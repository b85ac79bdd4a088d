"""The pickled part of a torch file, followed as data: nothing is ever imported, called or built by name.

A pickle is a program for a small stack machine. Loading one runs whatever it names; here each opcode is looked up in
a short table of what torch.save writes for a dict of tensors, each name in an even shorter one, and everything else
is refused. What comes out describes tensors; the bytes of their storages are somebody else's business.
"""

import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quartzite.errors import WeightsRefused
from quartzite.weights.mapped import MOST_AXES
from quartzite.weights.tensor import DType
from quartzite.weights.wording import clipped, shown

PROTOCOL = 2  # what torch.save writes, and all that torch's own safe loader takes


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of `elements` values of one dtype, in the archive under `data/<key>`."""

    key: str
    dtype: DType
    elements: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A window onto a storage; `offset` and `strides` count elements. Nothing but their signs has been checked."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Name:
    """A name the pickle mentions, "module attribute"; only a word, never looked up in Python."""

    text: str


def read_state_dict(program: bytes) -> dict[str, StoredTensor]:
    """Return the tensors a pickled dict of tensors describes; raise WeightsRefused for any other pickle."""
    machine = _Machine()
    for opcode, argument in _steps(program):
        step = OPCODES.get(opcode)
        if step is None:
            raise WeightsRefused(f"the pickle uses the opcode {opcode}, which a dict of tensors does not need")
        step(machine, argument)
    return _only_tensors(machine.pop())


def _steps(program: bytes) -> Iterator[tuple[str, Any]]:
    try:
        for opcode, argument, _ in pickletools.genops(program):
            yield opcode.name, argument
    except ValueError as fault:
        raise WeightsRefused(f"the pickle is damaged: {clipped(str(fault))}") from fault


def _only_tensors(value: object) -> dict[str, StoredTensor]:
    if not isinstance(value, dict):
        raise WeightsRefused(f"holds a {type(value).__name__}, a dict of tensors was expected")
    for name, tensor in value.items():
        if not isinstance(tensor, StoredTensor):
            raise WeightsRefused(
                f"holds a {type(tensor).__name__} under {shown(name)}, only tensors were expected: "
                "save the model's state_dict() itself"
            )
    return value


class _Machine:
    """The stack and the memo of one pickle; each method is what one opcode does."""

    def __init__(self) -> None:
        self._stack: list[object] = []
        self._below_marks: list[list[object]] = []
        self._memo: dict[int, object] = {}

    def push(self, value: object) -> None:
        self._stack.append(value)

    def pop(self) -> object:
        if not self._stack:
            raise WeightsRefused("the pickle is damaged: it takes more off its stack than there is")
        return self._stack.pop()

    def mark(self) -> None:
        self._below_marks.append(self._stack)
        self._stack = []

    def pop_to_mark(self) -> list[object]:
        if not self._below_marks:
            raise WeightsRefused("the pickle is damaged: it takes more off its stack than there is")
        values, self._stack = self._stack, self._below_marks.pop()
        return values

    def memorise(self, slot: int) -> None:
        value = self.pop()
        self._memo[slot] = value
        self.push(value)

    def recall(self, slot: int) -> None:
        if slot not in self._memo:
            raise WeightsRefused(f"the pickle is damaged: it recalls {slot}, which it never memorised")
        self.push(self._memo[slot])

    def push_tuple(self, size: int) -> None:
        self.push(tuple(reversed([self.pop() for _ in range(size)])))

    def set_items(self, items: list[object]) -> None:
        target = self.pop()
        if not isinstance(target, dict) or len(items) % 2:
            raise WeightsRefused("the pickle is damaged: it sets items of something that is no dict, or half an item")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str) or key in target:
                worded = shown(key) if isinstance(key, str) else f"a {type(key).__name__}"
                raise WeightsRefused(f"{worded} as the key of a dict is no string, or stands there twice")
            target[key] = value
        self.push(target)

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def persistent(self) -> None:
        self.push(_storage(self.pop()))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        build = FUNCTIONS.get(function.text) if isinstance(function, Name) else None
        if build is None or not isinstance(arguments, tuple):
            raise WeightsRefused(f"the pickle calls {_worded(function)}, which builds no tensor")
        self.push(build(arguments))

    def drop_state(self) -> None:
        """Forget the attributes set on a dict: torch keeps version numbers of layers there, as `_metadata`."""
        state, target = self.pop(), self.pop()
        if not isinstance(target, dict) or not isinstance(state, dict):
            raise WeightsRefused(f"the pickle sets the state of {_worded(target)}")
        self.push(target)


def _name(machine: _Machine, text: str) -> None:
    if text not in FUNCTIONS and text not in STORAGES:
        raise WeightsRefused(
            f"the pickle names {_worded(Name(text))}, which is not among the few names a dict of tensors needs; "
            "the file could run code if it were unpickled"
        )
    machine.push(Name(text))


def _check_protocol(_: _Machine, version: int) -> None:
    if version != PROTOCOL:
        raise WeightsRefused(f"the pickle has protocol {version}, torch.save writes {PROTOCOL}")


def _worded(value: object) -> str:
    return shown(value.text.replace(" ", ".")) if isinstance(value, Name) else f"a {type(value).__name__}"


def _storage(identity: object) -> Storage:
    match identity:
        case ("storage", Name(text), str(key), str(), int(elements)) if text in STORAGES and elements >= 0:
            return Storage(key, STORAGES[text], elements)
    raise WeightsRefused("the pickle refers to something that is no storage of a known dtype")


def _ordered_dict(arguments: tuple[object, ...]) -> dict[str, object]:
    if arguments:
        raise WeightsRefused("the pickle builds an OrderedDict from arguments")
    return {}


def _tensor(arguments: tuple[object, ...]) -> StoredTensor:
    """Follow torch._utils._rebuild_tensor_v2; a seventh argument would mark lazily negated values and is refused."""
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), dict()):
            if offset >= 0 and len(shape) == len(strides) and _sizes(shape) and _sizes(strides):
                return StoredTensor(storage, offset, shape, strides)
    raise WeightsRefused("the pickle builds a tensor from arguments that do not describe one")


def _parameter(arguments: tuple[object, ...]) -> StoredTensor:
    match arguments:
        case (StoredTensor() as tensor, bool(), dict()):
            return tensor
    raise WeightsRefused("the pickle builds a parameter from something that is no tensor")


def _sizes(values: tuple[object, ...]) -> bool:
    return len(values) <= MOST_AXES and all(type(value) is int and value >= 0 for value in values)


STORAGES: Mapping[str, DType] = {
    "torch FloatStorage": "F32",
    "torch HalfStorage": "F16",
    "torch BFloat16Storage": "BF16",
    "torch DoubleStorage": "F64",
    "torch LongStorage": "I64",
    "torch IntStorage": "I32",
    "torch ShortStorage": "I16",
    "torch CharStorage": "I8",
    "torch ByteStorage": "U8",
    "torch BoolStorage": "BOOL",
}

FUNCTIONS: Mapping[str, Callable[[tuple[object, ...]], object]] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
}

OPCODES: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _check_protocol,
    "STOP": lambda *_: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "BININT": _Machine.push,
    "BININT1": _Machine.push,
    "BININT2": _Machine.push,
    "LONG1": _Machine.push,
    "BINUNICODE": _Machine.push,
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "MARK": lambda machine, _: machine.mark(),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "SETITEM": lambda machine, _: machine.set_item(),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "BINPUT": _Machine.memorise,
    "LONG_BINPUT": _Machine.memorise,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "GLOBAL": _name,
    "BINPERSID": lambda machine, _: machine.persistent(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.drop_state(),
}
