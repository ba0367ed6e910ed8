"""Published pickles, read without running anything.

Several data sets were published as pickles (ViLBERT's region features, the aligned CMU-MOSI and MOSEI). A pickle is a
program: it may import and call whatever it names. This reader admits plain containers, numbers, strings and numpy
arrays, and refuses everything else by name. Arrays are rebuilt here rather than by numpy's own hooks, so that a made-up
array header cannot reach outside its own bytes.

Work and memory are bounded by the size of the pickle. It is read opcode by opcode (Python's own reader in C allocates
what an opcode asks for, such as a memo of 2^32 places); what copies content is charged for it; keys are flat, because
the hash of nested tuples that share their parts takes twice as long for every level, as does any walk over them: so
what is expanded must not be larger than `_EXPANDED` times the pickle.
"""

from __future__ import annotations

import math
import pickle
import struct
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from coalign.errors import InputError
from coalign.files import regular

_KINDS = "biufcSU"  # numbers and strings; objects come as a list, structures not at all


class _RefusedError(Exception):
    """A pickle asked for something that is no data."""


def load(source: str | Path | bytes, *, name: str | None = None) -> Any:
    """The contents of a pickle of plain data: containers, numbers, strings, bytes, numpy arrays. Nothing in it is run.

    Args:
        source: a file, or the bytes of a pickle. Strings of Python 2 are read as Latin-1, as numpy's arrays need it.
        name: what errors call it; the file's name where it is not given.

    Raises:
        InputError: the file cannot be read, is damaged, or names something other than plain data.
    """
    title = name or (str(source) if not isinstance(source, bytes) else "a pickle")
    try:
        if isinstance(source, bytes):
            return _load(BytesIO(source), len(source))
        path = regular(source)
        with path.open("rb") as file:
            return _load(file, path.stat().st_size)
    except InputError as error:
        raise InputError(f"{title}: cannot be read: {str(error).removeprefix(f'{source}: ')}") from None
    except OSError as error:
        raise InputError(f"{title}: cannot be read: {error.strerror or error}") from None
    except _RefusedError as error:
        raise InputError(f"{title}: {error}; only plain containers and numpy arrays are read from a pickle") from None
    except RecursionError:
        raise InputError(f"{title}: not a readable pickle: nested too deeply") from None
    except Exception as error:  # a damaged pickle breaks in any of its opcodes
        raise InputError(f"{title}: not a readable pickle: {str(error)[:500] or type(error).__name__}") from None


def _load(file: BufferedIOBase, size: int) -> Any:
    value = _Unpickler(_Bounded(file, size), size).load()
    _expanded(value, _ROOM + _EXPANDED * size, {})
    return _plain(value, {}, {})


class _Bounded:
    """A file of which no more can be asked than it has."""

    def __init__(self, file: BufferedIOBase, size: int) -> None:
        self._file, self._left = file, size
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self._left:
            raise EOFError("pickle data was truncated")
        return self._file.read(count)

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)


_Reader: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType, reportPrivateUsage]


class _Unpickler(_Reader):
    """Python's reader of opcodes, with the names that are admitted and a budget of bytes that may be copied."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Reader.dispatch)

    def __init__(self, file: Any, size: int) -> None:
        super().__init__(file, encoding="latin1")
        self._budget = _ROOM + _COPIED * size

    def charge(self, size: int) -> None:
        self._budget -= size
        if self._budget < 0:
            raise _RefusedError("copies its content over and over")

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        admitted = _ADMITTED.get((_MODULES.get(module_name, module_name), global_name))
        if admitted is None:
            raise _RefusedError(f"asks for {module_name}.{global_name}, which is refused")
        return admitted

    def persistent_load(self, pid: Any, /) -> Any:  # noqa: ARG002
        raise _RefusedError("refers to objects outside the file, which is refused")

    def _admit(self, call: Any, arguments: Any) -> None:
        """Refuses calls whose work or result is not bounded by what the pickle holds."""
        if call in (bytes, bytearray) and any(isinstance(argument, int) for argument in arguments):
            raise _RefusedError("makes bytes of a number, which is refused")
        if call is str and any(not isinstance(argument, str | bytes | int | float) for argument in arguments):
            raise _RefusedError("makes a text of a container, which is refused")
        for argument in arguments:
            if isinstance(argument, str | bytes | bytearray | list | tuple | dict | set | frozenset):
                self.charge(len(cast("Any", argument)))
        if call in (set, frozenset):
            _flat(*arguments)
        elif isinstance(call, type) and issubclass(call, dict):
            for argument in arguments:
                _flat([pair[0] for pair in argument] if isinstance(argument, list | tuple) else ())

    def load_reduce(self) -> None:
        self._admit(*self.stack[-2:])
        super().load_reduce()

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        self._admit(*self.stack[-2:])
        super().load_newobj()

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_newobj_ex(self) -> None:
        raise _RefusedError("makes an object by named arguments, which is refused")

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def _instantiate(self, klass: Any, args: Any) -> None:
        self._admit(klass, args)
        super()._instantiate(klass, args)

    def load_build(self) -> None:
        made, state = self.stack[-2:]
        if isinstance(made, _Array) and isinstance(state, tuple):
            self._admit(None, state[-1:])  # its bytes are copied
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))  # what is there, not what is claimed

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def load_setitem(self) -> None:
        _flat(self.stack[-2:-1])
        super().load_setitem()

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        _flat(self.stack[::2])
        super().load_setitems()

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self) -> None:
        _flat(self.stack[::2])
        super().load_dict()

    dispatch[pickle.DICT[0]] = load_dict

    def load_additems(self) -> None:
        _flat(self.stack)
        super().load_additems()

    dispatch[pickle.ADDITEMS[0]] = load_additems

    def load_frozenset(self) -> None:
        _flat(self.stack)
        super().load_frozenset()

    dispatch[pickle.FROZENSET[0]] = load_frozenset


_ROOM, _COPIED, _EXPANDED = 1 << 24, 16, 16
"""Bytes, or nodes, that any pickle may take, and further ones for each of its own bytes."""


def _flat(*groups: Any) -> None:
    """Refuses keys that are more than numbers, texts and tuples of these."""
    for group in groups:
        for key in group:
            parts = cast("tuple[Any, ...]", key) if isinstance(key, tuple) else (key,)
            if any(isinstance(part, tuple | frozenset | _Array) for part in parts):
                raise _RefusedError("has keys that are nested, which is refused")


def _expanded(value: Any, most: int, known: dict[int, int]) -> int:
    """How many nodes a value has, shared ones counted as often as they are referred to."""
    parts: Any = ()
    if isinstance(value, dict):
        parts = cast("dict[Any, Any]", value).values()
    elif isinstance(value, _Array):
        array = value[0] if value else None
        parts = array.flat if array is not None and array.dtype.kind == "O" else ()
    elif isinstance(value, list | tuple):
        parts = cast("list[Any]", value)
    if not parts or id(cast("object", value)) in known:
        return known.get(id(cast("object", value)), 1)
    known[id(cast("object", value))] = 1  # of one that holds itself
    count = 1
    for part in parts:
        count += _expanded(part, most, known)
        if count > most:
            raise _RefusedError("refers to its parts so often that it has no end")
    known[id(cast("object", value))] = count
    return count


class _Dtype:
    """Stands for a `numpy.dtype` while a pickle is read: its name, and the byte order that follows it."""

    def __init__(self, name: str, *_: Any) -> None:
        if np.dtype(name).kind not in _KINDS + "O":
            raise _RefusedError(f"has an array of type {name!r}, which is refused")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, subarray, names, fields = state[:5]
        if subarray is not None or names is not None or fields is not None:
            raise _RefusedError("has an array of structures, which is refused")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array(list[NDArray[Any]]):
    """Stands for an array: holds it once its state was read. A list, so that the pickle may refer to it before."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, fortran, data = cast("tuple[tuple[int, ...], _Dtype, bool, Any]", state[-4:])
        self[:] = [_from_bytes(data, dtype, shape, "F" if fortran else "C")]


def _from_bytes(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: str = "C") -> NDArray[Any]:
    if dtype.dtype.kind == "O":
        if not isinstance(data, list) or len(cast("list[Any]", data)) != math.prod(shape):
            raise _RefusedError("has an array of objects without its objects")
        flat = _objects(cast("list[Any]", data))
    else:
        raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
        flat = np.frombuffer(raw, dtype.dtype).copy()
    return flat.reshape(shape, order=cast("Any", order))


def _objects(items: list[Any]) -> NDArray[Any]:
    """[N] the items as they are: numpy would make a second dimension of items that are lists."""
    out = np.empty(len(items), object)
    for at, item in enumerate(items):
        out[at] = item
    return out


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    return _Array([_from_bytes(data, dtype, shape, order)])


def _scalar(dtype: _Dtype, data: Any) -> Any:
    return _from_bytes([data] if dtype.dtype.kind == "O" else data, dtype, ())[()]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1" if encoding == "latin1" else "utf-8")


def _plain(value: Any, seen: dict[int, Any], tuples: dict[int, tuple[Any, Any]]) -> Any:
    """The value with its stand-ins replaced by what they hold; containers are kept, and may hold themselves."""
    if isinstance(value, _Array):
        if not value:
            raise _RefusedError("has an array without contents")
        array = value[0]
        if array.dtype.kind == "O" and id(array) not in seen:
            seen[id(array)] = array
            array[...] = _objects([_plain(item, seen, tuples) for item in array.flat]).reshape(array.shape)
        return array
    if isinstance(value, _Dtype):
        return value.dtype
    known = id(cast("object", value))
    if isinstance(value, tuple):
        if known not in tuples:
            made = tuple(_plain(item, seen, tuples) for item in cast("tuple[Any, ...]", value))
            tuples[known] = cast("Any", value), made  # the old one is kept, or another would get its id
        return tuples[known][1]
    if known in seen:
        return value
    if isinstance(value, list):
        seen[known] = value
        value[:] = [_plain(item, seen, tuples) for item in cast("list[Any]", value)]
    elif isinstance(value, dict):
        seen[known] = value
        for key, item in list(cast("dict[Any, Any]", value).items()):
            value[key] = _plain(item, seen, tuples)
    return cast("Any", value)


class _Callable:
    """The stand-in that a pickle gets for a function. It cannot be changed, which a pickle may otherwise do."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _RefusedError(f"sets {name} of a function, which is refused")


# numpy 2 moved what older pickles name; Python 3 renamed its own
_MODULES = {
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
    "__builtin__": "builtins",
}
_BUILT_IN = (bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset)
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Callable(_reconstruct),
    ("numpy.core.multiarray", "scalar"): _Callable(_scalar),
    ("numpy.core.numeric", "_frombuffer"): _Callable(_from_buffer),
    ("numpy", "ndarray"): "numpy.ndarray",  # an argument of _reconstruct, which does not look at it
    ("numpy", "dtype"): _Callable(_Dtype),
    ("_codecs", "encode"): _Callable(_encode),
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    **{("builtins", kind.__name__): kind for kind in _BUILT_IN},
}
