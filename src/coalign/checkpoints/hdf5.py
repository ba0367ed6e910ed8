"""HDF5 files that hold what they show: links, external storage and virtual datasets are refused, for they lead to other
files.

Extra: `features` (h5py). The library is written in C and believes what a file says of itself, so a file is walked
through once in a process of its own before it is read here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from functools import lru_cache
from typing import Any

from coalign.errors import InputError
from coalign.files import regular

_LARGEST = 1 << 33  # bytes of one dataset that is read whole
_TRIED = 1 << 24  # bytes of one dataset that the walk reads; of a larger one it reads the first and the last number
_PACKED = 200  # times that a large dataset may be packed
_SECONDS = 600


def walk(path: str) -> str:
    """The fault in a file's structure; empty where there is none. It may end the process that calls it."""
    import h5py

    def visit(name: str, link: Any) -> str | None:  # what it returns ends the walk
        if not isinstance(link, h5py.HardLink):
            return f"{name!r} is a link, which is not followed"
        item: Any = file[name]
        if not isinstance(item, h5py.Dataset) or not item.size or item.external or item.is_virtual:
            return None
        if item.nbytes <= _TRIED:
            item[()]
        else:
            for corner in ((0,) * item.ndim, tuple(length - 1 for length in item.shape)):
                item[corner]
        return None

    try:
        with h5py.File(path, "r") as file:
            return file.visititems_links(visit) or ""
    except Exception as error:  # the library's own errors are of many kinds
        return " ".join(str(error)[:300].split()) or type(error).__name__


def open_hdf5(path: str | os.PathLike[str]) -> Any:
    """The open `h5py.File`.

    Raises:
        InputError: h5py is not installed; the file is missing or damaged.
    """
    try:
        import h5py
    except ImportError:
        raise InputError(f"{path}: is HDF5; install the extra: pip install 'coalign[features]'") from None
    path = regular(path)
    said = _walked(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns)
    if said:
        raise InputError(f"{path}: is no readable HDF5 file ({said})")
    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: is no readable HDF5 file ({str(error).splitlines()[0]})") from None


@lru_cache(1024)
def _walked(path: str, size: int, changed: int) -> str:  # noqa: ARG001 (of this content)
    """`walk` in a process of its own: a fork of this one, or a new one where threads run that a fork would lack."""
    if hasattr(os, "fork") and threading.active_count() == 1:
        return _forked(path)
    try:
        done = subprocess.run(
            [sys.executable, __file__, path], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"reading its structure does not end in {_SECONDS} s"
    return _KILLED if done.returncode else done.stdout.strip()


_KILLED = "it ends the process that reads it"


def _forked(path: str) -> str:
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_SECONDS)
            os.write(writing, (walk(path) or "sound").encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answer:  # noqa: PTH123 (a descriptor)
        said = answer.read().decode("utf-8", "replace")
    os.waitpid(process, 0)
    return {"": _KILLED, "sound": ""}.get(said, said)


def child(group: Any, name: str) -> Any:
    """The group in a group. Raises InputError for an array, in which names are not to be looked for, and for a link."""
    import h5py

    node = _member(group, name)
    if not isinstance(node, h5py.Group):
        raise InputError(f"{name!r} is no group")
    return node


def _member(group: Any, name: str) -> Any:
    import h5py

    if type(group.get(name, getlink=True)) is not h5py.HardLink:
        raise InputError(f"{name!r} is a link, which is not followed")
    return group[name]


def dataset(group: Any, name: str) -> Any:
    """A dataset in a group.

    Raises:
        InputError: There is none, its bytes lie in another file, or it is too large.
    """
    import h5py

    node = _member(group, name)
    if not isinstance(node, h5py.Dataset):
        raise InputError(f"{name!r} is no array")
    if node.external or node.is_virtual:
        raise InputError(f"the bytes of {name!r} lie in another file, which is not read")
    stored = node.id.get_storage_size()
    if node.nbytes > max(_TRIED, _PACKED * stored):
        raise InputError(f"{name!r} claims {node.nbytes} bytes and holds {stored}")
    return node


def whole(group: Any, name: str) -> Any:
    """The content of a dataset. Raises InputError as `dataset` does."""
    array = dataset(group, name)
    if array.nbytes > _LARGEST:
        raise InputError(f"{name!r} claims {array.nbytes} bytes")
    return array[()]


if __name__ == "__main__":
    print(walk(sys.argv[1]))
