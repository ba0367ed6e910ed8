"""Published pickles: plain data comes back, anything else is refused by name and nothing is run."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import resource
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coalign.checkpoints.safe_pickle import load
from coalign.errors import InputError


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_comes_back(protocol: int) -> None:
    words = np.array([["a", [1, 2]], ["bcd", None]], dtype=object)
    data: Any = {
        "float": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big-endian": np.arange(3, dtype=">i4"),
        "bytes": np.array([b"x", b"yz"]),
        "text": np.array(["x", "yz"]),
        "objects": words,
        "nothing": np.zeros((0, 4), np.float32),
        "scalar": np.float64(2.5),
        "plain": [1, -(2**70), 2.5, True, None, "é", b"\xff", (1, {"k": {3}}), frozenset([4]), 1j, bytearray(b"z")],
        "ordered": OrderedDict([("b", 1), ("a", 2)]),
        "default": defaultdict(list, {"a": [1]}),
    }
    back = load(pickle.dumps(data, protocol))
    assert list(back) == list(data)
    for key, value in data.items():
        if isinstance(value, np.ndarray):
            assert type(back[key]) is np.ndarray and back[key].dtype == value.dtype
            np.testing.assert_array_equal(back[key], value)
            assert back[key].flags.writeable
        else:
            assert back[key] == value and type(back[key]) is type(value)


def test_a_file_shared_parts_and_a_list_that_holds_itself(tmp_path: Path) -> None:
    array = np.arange(3.0)
    loop: list[Any] = [array, [array]]
    loop.append(loop)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(loop))
    back = load(tmp_path / "a.pkl")
    assert back[2] is back and back[0] is back[1][0]


def test_strings_and_arrays_of_python_2() -> None:
    # what Python 2 and numpy 1 write: str opcodes, `numpy.core.multiarray`, raw data as a str
    raw = np.array([1.5, -2.0], "<f4").tobytes()
    stream = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08"
        + raw
        + b"tb."
    )
    pickletools.dis(stream, io.StringIO())
    np.testing.assert_array_equal(load(stream), np.array([1.5, -2.0], np.float32))


class _Runs:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call = call, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_nothing_is_run_and_the_error_says_what_was_refused(tmp_path: Path) -> None:
    made = tmp_path / "made"
    file = tmp_path / "evil.pkl"
    file.write_bytes(pickle.dumps({"a": [_Runs(os.mkdir, str(made))]}))
    with pytest.raises(InputError, match=r"evil.pkl: asks for \w+.mkdir, which is refused"):
        load(file)
    assert not made.exists()
    for name in ("eval", "exec", "getattr", "__import__", "open"):
        with pytest.raises(InputError, match=f"builtins.{name}"):
            load(f"cbuiltins\n{name}\n(S'1'\ntR.".encode())
    with pytest.raises(InputError, match=r"os\.system"):
        load(b"(S'true'\nios\nsystem\n.")
    with pytest.raises(InputError, match="objects outside"):
        load(b"\x80\x02U\x01xQ.")


def test_headers_that_lie_are_errors() -> None:
    def array(dtype: str, state: bytes, shape: bytes, data: bytes) -> bytes:
        return (
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
            + shape
            + b"cnumpy\ndtype\nU"
            + bytes([len(dtype)])
            + dtype.encode()
            + b"K\x00K\x01\x87R"
            + state
            + b"\x89"
            + data
            + b"tb."
        )

    plain = b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    assert load(array("f4", plain, b"K\x01\x85", b"U\x04\0\0\0\0")).shape == (1,)
    for stream in (
        array("f4", plain, b"K\x09\x85", b"U\x04\0\0\0\0"),  # nine numbers in four bytes
        array("O8", b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb", b"K\x01\x85", b"U\x08" + b"\1" * 8),
        array("V8", plain, b"K\x01\x85", b"U\x08" + b"\1" * 8),
        b"\x80\x02cnumpy\nndarray\nK\x09\x85R.",  # memory that was not written
        b"\x80\x02c_codecs\nencode\nN}U\x0c__defaults__K\x01s\x86b.",  # changes the reader itself
    ):
        with pytest.raises(InputError):
            load(stream)


@pytest.mark.parametrize("damage", [b"", b"\x80\x04", b"not a pickle", b"\x80\x04]" + b"(" * 100_000])
def test_damaged_files_are_one_line(damage: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.pkl"
    file.write_bytes(damage)
    with pytest.raises(InputError, match=r"a\.pkl: not a readable pickle"):
        load(file)
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "absent.pkl")


@pytest.mark.parametrize(
    "stream",
    [
        b"\x80\x04)" + b"2\x86" * 200 + b".",  # a tuple of two of a tuple of two ...: 2^200 nodes
        b"\x80\x04})" + b"2\x86" * 60 + b"K\x01s.",  # the same as a key: its hash alone takes as long
        b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x70\x85R.",  # 1.9 GB of zeros
        b"\x80\x04K\x01r\xff\xff\xff\xff]r\xfe\xff\xff\xffcos\nsystem\n.",  # a memo of 2^32 places
        b"\x80\x02](" + b"K\x00" * 40_000 + b"eq\x01](" + b"c__builtin__\nlist\nh\x01\x85R" * 4000 + b"e.",  # copies
        b"\x80\x04cbuiltins\nbytes\nJ\x00\x00\x00\x70\x85\x81.",  # the same by another opcode
        b"\x80\x04\x96\x00\x00\x00\x70\x00\x00\x00\x00.",  # a bytearray of 1.9 GB that is not there
        b"\x80\x04cbuiltins\nstr\n])" + b"2\x86" * 40 + b"a\x85R.",  # the text of 2^40 nodes
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes that are not there
    ],
)
def test_work_and_memory_are_bounded(stream: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError):
        load(stream)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes


def test_parts_may_be_shared() -> None:
    part = ([1, 2], {"a": (3,)})
    back = load(pickle.dumps([part] * 1000, 4))
    assert back[0] is back[999] and back[0] == part
