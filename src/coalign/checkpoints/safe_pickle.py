"""Published pickles, read without running anything.

Several data sets were published as pickles (ViLBERT's region features, the aligned CMU-MOSI and MOSEI). A pickle is a
program: it may import and call whatever it names. This reader admits plain containers, numbers, strings and numpy
arrays, and refuses everything else by name. Arrays are rebuilt here rather than by numpy's own hooks, so that a made-up
array header cannot reach outside its own bytes.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from coalign.errors import InputError

_KINDS = "biufcSU"  # numbers and strings; objects come as a list, structures not at all


class _RefusedError(Exception):
    """A pickle asked for something that is no data."""


def load(source: str | Path | bytes, *, name: str | None = None) -> Any:
    """What a pickle of plain data holds: containers, numbers, strings, bytes, numpy arrays. Nothing in it is run.

    Args:
        source: a file, or the bytes of a pickle. Strings of Python 2 are read as Latin-1, as numpy's arrays need it.
        name: what errors call it; the file's name where it is not given.

    Raises:
        InputError: the file cannot be read, is damaged, or names something other than plain data.
    """
    title = name or (str(source) if not isinstance(source, bytes) else "a pickle")
    try:
        with BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
            return _plain(_Unpickler(file).load(), {})
    except OSError as error:
        raise InputError(f"{title}: cannot be read: {error.strerror or error}") from None
    except _RefusedError as error:
        raise InputError(f"{title}: {error}; only plain containers and numpy arrays are read from a pickle") from None
    except RecursionError:
        raise InputError(f"{title}: not a readable pickle: nested too deeply") from None
    except Exception as error:  # a damaged pickle breaks in any of its opcodes
        raise InputError(f"{title}: not a readable pickle: {error or type(error).__name__}") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BufferedIOBase) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        found = _ADMITTED.get((_MODULES.get(module_name, module_name), global_name))
        if found is None:
            raise _RefusedError(f"asks for {module_name}.{global_name}, which is refused")
        return found

    def persistent_load(self, pid: Any, /) -> Any:  # noqa: ARG002
        raise _RefusedError("refers to objects outside the file, which is refused")


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


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """The value with its stand-ins replaced by what they hold; containers are kept, and may hold themselves."""
    if isinstance(value, _Array):
        if not value:
            raise _RefusedError("has an array without contents")
        array = value[0]
        if array.dtype.kind == "O" and id(array) not in seen:
            seen[id(array)] = array
            array[...] = _objects([_plain(item, seen) for item in array.flat]).reshape(array.shape)
        return array
    if isinstance(value, _Dtype):
        return value.dtype
    if isinstance(value, tuple):
        return tuple(_plain(item, seen) for item in cast("tuple[Any, ...]", value))
    if id(cast("object", value)) in seen:
        return value
    if isinstance(value, list):
        seen[id(cast("object", value))] = value
        value[:] = [_plain(item, seen) for item in cast("list[Any]", value)]
    elif isinstance(value, dict):
        seen[id(cast("object", value))] = value
        for key, item in list(cast("dict[Any, Any]", value).items()):
            value[key] = _plain(item, seen)
    return cast("Any", value)


class _Callable:
    """What a pickle gets in the place of a function. It cannot be changed, which a pickle may otherwise do."""

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
