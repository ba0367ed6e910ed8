"""Damaged copies of sound files: bytes of any of them, and the parts of those whose structure is known."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

Mutator = Callable[[bytes, random.Random], bytes]
NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, -(2**63))
STRINGS = (
    "",
    " ",
    "\0",
    "a" * 5000,
    "../../etc/passwd",
    "/etc/passwd",
    "<script>",
    "=1+1",
    "\x1b[31m",
    "\u202e",
    "é",
    "nan",
    "\ud800",
    "a\0b",
    ".",
    "..",
    "/",
    "~root/x",
    "a" * 300 + ".png",
    "x/" * 3000,
    "file:///etc/passwd",
    "１２",
    "1_0",
    "a\u2028b\r\nc",
)
STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0.5, -1.5, 1e308, float("nan"), float("inf"), [], {}, [None], [[]], {"a": None}, {"": 1}),
    *(10**30, -(10**400), [float("nan")] * 4, [1, "a", None], [[1, 2], [3]], ["a"] * 4, {"0": 1, "1": 2}),
    *NUMBERS,
    *STRINGS,
)


def mutate(folder: Path, rng: random.Random, names: tuple[str, ...] = ()) -> str:
    """Damages one of the files below a folder, in place; says which and how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if not names or path.name in names or path.suffix in names] or files
    if not files:
        return "nothing is left"
    path = rng.choice(files)
    chance = rng.random()
    if chance < 0.04:
        how = rng.choice((no_file, another_file))
        how(path, rng)
        return f"{path.relative_to(folder)}: {how.__name__}"
    data = path.read_bytes()
    if chance < 0.12 and len(files) > 1:
        other = rng.choice([file for file in files if file != path])
        how = rng.choice((splice, transplant))
        path.write_bytes(how(data, other.read_bytes(), rng))
        return f"{path.relative_to(folder)}: {how.__name__} {other.relative_to(folder)}"
    own = STRUCTURED.get(path.suffix.lower())
    if chance < 0.3 and _is_text(data):
        chosen = rng.choice(TEXT)
    else:
        chosen = own if own is not None and rng.random() < 0.6 else rng.choice(RAW)
    try:
        mutant = chosen(data, rng)
    except Exception as error:  # the structure is another one than the name says
        chosen = rng.choice(RAW)
        mutant = chosen(data, rng)
        del error
    path.write_bytes(mutant)
    return f"{path.relative_to(folder)}: {chosen.__name__}"


# ------------------------------------------------------------------------------------------------------------- files
def no_file(path: Path, rng: random.Random) -> None:
    """Something else that has the file's name, or nothing."""
    path.unlink()
    how = rng.randrange(6)
    if how == 0:
        path.mkdir()
    elif how == 1:
        path.symlink_to(path.name)
    elif how == 2:
        path.symlink_to(rng.choice(("absent", "/etc/hostname", "/dev/zero", ".")))
    elif how == 3:
        os.mkfifo(path)
    elif how == 4:
        (path / path.name).mkdir(parents=True)


def another_file(path: Path, rng: random.Random) -> None:
    """A file beside it of a name that nobody expects, or of this name in other letters."""
    name = rng.choice(
        (path.name.upper(), f".{path.name}", f"{path.name}~", "a\n\x1b[31m.txt", f"{path.stem} (1){path.suffix}")
    )
    content = path.read_bytes()
    path.with_name(name).write_bytes(content)
    Path(os.fsdecode(os.fsencode(path.parent) + b"/\xff\xfe" + os.fsencode(path.suffix))).write_bytes(content)


def splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """The beginning of one file and the end of another."""
    share = rng.random()
    return data[: int(share * len(data))] + other[int(share * len(other)) :]


def transplant(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Another file under this name."""
    del data, rng
    return other


# ------------------------------------------------------------------------------------------------------------- bytes
def flip_bits(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def flip_head(data: bytes, rng: random.Random) -> bytes:
    """Where headers are."""
    return flip_bits(data[:512], rng) + data[512:]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.choice((0, 1, 4, 16, len(data) // 2, max(len(data) - 1, 0), rng.randrange(len(data) + 1)))]


def drop(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 2, 4, 8, 100, 4096)) :]


def insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 4, 8, 100, 5000))) + data[at:]


def repeat(data: bytes, rng: random.Random) -> bytes:
    at, size = rng.randrange(len(data) + 1), rng.choice((1, 8, 64, 512))
    return data[: at + size] + data[at : at + size] * rng.choice((1, 2, 20)) + data[at + size :]


def blank(data: bytes, rng: random.Random) -> bytes:
    at, size = rng.randrange(len(data) + 1), rng.choice((4, 16, 512, 4096))
    fill = rng.choice((b"\0", b"\xff"))
    return data[:at] + fill * len(data[at : at + size]) + data[at + size :]


def lengths(data: bytes, rng: random.Random) -> bytes:
    """A whole number somewhere becomes a remarkable one."""
    width = rng.choice((1, 2, 4, 8))
    at = rng.randrange(max(len(data) - width, 1))
    at = at // width * width if rng.random() < 0.7 else at
    order: Any = rng.choice(("little", "big"))
    number = (rng.choice(NUMBERS) % (1 << (8 * width))).to_bytes(width, order)
    return data[:at] + number + data[at + width :]


def foreign(data: bytes, rng: random.Random) -> bytes:
    """Content of another format, small files of large content among it."""
    how = rng.randrange(7)
    if how == 0:
        return zlib.compress(bytes(1 << 24), wbits=31) * 40  # members of a .gz, which unpack one after the other
    if how == 1:
        return zlib.compress(data, wbits=31)
    if how == 2:
        return _bomb()
    if how == 3:
        return pickle.dumps([{"a": 1}] * 3)
    if how == 4:
        buffer = io.BytesIO()
        np.save(buffer, np.arange(9.0))
        return buffer.getvalue()
    if how == 5:
        return bytes(rng.choice((1, 512, 1 << 20)))
    return rng.choice(
        (b"SQLite format 3\0" + bytes(4000), b"<html><body>404</body></html>", b"version https://git-lfs", b"\n")
    )


@cache
def _bomb() -> bytes:
    """A .zip of a few megabytes whose members hold gigabytes each."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(1 << 22)) + packer.flush(zlib.Z_FULL_FLUSH)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (1 << 32,)})
    begin = zlib.compressobj(9, wbits=-15)
    packed = begin.compress(head.getvalue()) + begin.flush(zlib.Z_FULL_FLUSH) + block * 1024 + b"\3\0"
    size, name = len(head.getvalue()) + (1 << 32) - 1024, b"a.npy"
    sizes = struct.pack("<III", 0, len(packed), min(size, 2**32 - 1))
    member = struct.pack("<4s5H", b"PK\3\4", 20, 0, 8, 0, 0) + sizes + struct.pack("<HH", len(name), 0) + name + packed
    entry = struct.pack("<4s6H", b"PK\1\2", 20, 20, 0, 8, 0, 0) + sizes
    entry += struct.pack("<5HII", len(name), 0, 0, 0, 0, 0, 0) + name
    return member + entry + struct.pack("<4s4HIIH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(member), 0)


RAW: tuple[Mutator, ...] = (flip_bits, flip_head, cut, drop, insert, repeat, blank, lengths, foreign)


# --------------------------------------------------------------------------------------------------------------- text
def _is_text(data: bytes) -> bool:
    try:
        return b"\0" not in data and bool(data.decode("utf-8"))
    except UnicodeError:
        return False


def encoding(data: bytes, rng: random.Random) -> bytes:
    """The same text in another encoding, with or without a mark of it."""
    text = data.decode("utf-8-sig")
    text = text if rng.random() < 0.5 else text.replace("a", "ä", 3)
    return text.encode(
        rng.choice(("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "latin-1", "utf-7")), "replace"
    )


def line_ends(data: bytes, rng: random.Random) -> bytes:
    """Other ends of lines, of all lines or of one."""
    end = rng.choice(
        (b"\r\n", b"\r", b"\r\r\n", "\u2028".encode(), "\x85".encode(), b"\x0c", b"\x1c", b"\0\n", b"\n\n", b"")
    )
    return data.replace(b"\n", end, rng.choice((1, -1)))


def character(data: bytes, rng: random.Random) -> bytes:
    """A character that is none, ends a text, or turns it round, somewhere."""
    at = rng.randrange(len(data) + 1)
    strange = (
        b"\0",
        b"\xed\xa0\x80",
        b"\\ud800",
        b"\xff",
        b"\xef\xbb\xbf",
        "\u202e".encode(),
        b"\x1b[2J",
        b"\x1a",
        b'"',
        b"\\",
    )
    return data[:at] + rng.choice(strange) + data[at:]


def number(data: bytes, rng: random.Random) -> bytes:
    """A number of the text becomes a remarkable one."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    one = rng.choice(found)
    strange = (
        "9" * 19,
        "9" * 400,
        "9" * 5000,
        "1e999",
        "-1e999",
        "1e-999",
        "NaN",
        "-Infinity",
        "-0",
        "0x10",
        "１",
        "1_0",
        "",
        "1.5",
        "007",
        "true",
    )
    return data[: one.start()] + rng.choice((*strange, *map(str, NUMBERS))).encode() + data[one.end() :]


def doubled_key(data: bytes, rng: random.Random) -> bytes:
    """A key of an object that is there twice."""
    one = rng.choice(list(re.finditer(rb'"[^"\\]*"\s*:', data)))
    value = rng.choice((b"null", b"[]", b"{}", b'""', b"-1", b"1e400"))
    return data[: one.start()] + one.group() + value + b"," + data[one.start() :]


def lines_moved(data: bytes, rng: random.Random) -> bytes:
    """Lines doubled, left out, or in another order."""
    found = data.split(b"\n")
    how, at = rng.randrange(4), rng.randrange(len(found))
    if how == 0:
        rng.shuffle(found)
    elif how == 1:
        found[at:at] = [found[at]] * rng.choice((1, 1000))
    elif how == 2:
        found = found[:1] if rng.random() < 0.5 else found[1:]
    else:
        found.insert(at, rng.choice((b"", b" ", b"#", b"//", b"\t\t\t", b",,,,,,,", b"---")))
    return b"\n".join(found)


TEXT: tuple[Mutator, ...] = (encoding, line_ends, character, number, number, doubled_key, lines_moved)


# -------------------------------------------------------------------------------------------------------------- trees
def change_tree(value: Any, rng: random.Random) -> Any:
    """A tree of plain values with one or a few of its nodes changed."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        places = list(_places(value))
        if not places:
            return rng.choice(STRANGE)
        holder, key = rng.choice(places)
        value = _change(value, holder, key, rng)
    return value


def _places(value: Any, depth: int = 0) -> Any:
    if depth > 12:
        return
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    else:
        keys = list(range(min(len(value), 50))) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from _places(value[key], depth + 1)


def _change(root: Any, holder: Any, key: Any, rng: random.Random) -> Any:
    old = holder[key]
    how = rng.randrange(10)
    if how >= 8:  # the values of two nodes change places
        other, place = rng.choice(list(_places(root)))
        if not _holds(old, other) and not _holds(other[place], holder):
            holder[key], other[place] = other[place], old
    elif how == 0:
        del holder[key]
    elif how == 1:
        holder[key] = [old]
    elif how == 2:
        holder[key] = {"a": old, str(key): old} if rng.random() < 0.5 else str(old)
    elif how == 3 and isinstance(holder, dict):
        holder[rng.choice(("", "a", f"{key}x", *STRINGS[:2]))] = holder.pop(key)
    elif how == 4 and isinstance(old, int | float) and not isinstance(old, bool):
        holder[key] = rng.choice((*NUMBERS, float(old) + 0.5, -old, str(old), old * 1000))
    elif how == 5 and isinstance(old, list):
        holder[key] = old * rng.choice((0, 2)) if rng.random() < 0.5 else old[:-1]
    elif how == 6 and isinstance(old, np.ndarray):
        holder[key] = change_array(old, rng)
    elif how == 7 and rng.random() < 0.2:
        nested: Any = old
        for _ in range(rng.choice((5, 200, 3000))):
            nested = [nested]
        holder[key] = nested
    else:
        holder[key] = rng.choice(STRANGE)
    return root


def _holds(value: Any, holder: Any) -> bool:
    return value is holder or any(own[key] is holder for own, key in _places(value))


def change_array(array: np.ndarray[Any, Any], rng: random.Random) -> Any:
    """An array of another type or shape, or of strange values."""
    how = rng.randrange(13)
    with np.errstate(all="ignore"):
        if how == 8 and array.dtype.kind in "iu":
            extreme = rng.choice((np.iinfo(array.dtype).max, np.iinfo(array.dtype).min, 1))
            array = array.copy()
            array.reshape(-1)[rng.choice((slice(None), slice(0, 1), slice(-1, None)))] = extreme
            return array
        if how == 9:
            return array.T if array.ndim > 1 else array[:, None]
        if how == 10:
            return array.astype(array.dtype.newbyteorder())
        if how == 11:
            return array[:0] if array.ndim else array.reshape(1, 1, 1)
        if how == 12:
            return np.repeat(array, 3, 0) if array.ndim else array.astype("f8")
        if how == 0:
            return array.astype(rng.choice(("f2", "f8", "i1", "i8", "u8", "c8", "?", "S3", "U3", ">f4", "m8[s]")))
        if how == 1:
            return array.reshape(-1)
        if how == 2:
            return array[None]
        if how == 3:
            return array[..., :0] if array.ndim else array.reshape(0) if array.size == 0 else array
        if how == 4:
            return array[: len(array) // 2] if array.ndim else array
        if how == 5:
            return np.zeros(array.shape, "S1")
        if how == 6:
            return np.array(rng.choice((0, -1, 1e300, np.nan)))
        return np.full(array.shape, rng.choice((np.nan, np.inf, -1.0, 1e38)))


def json_tree(data: bytes, rng: random.Random) -> bytes:
    return json.dumps(change_tree(json.loads(data.decode("utf-8-sig")), rng)).encode()


def json_text(data: bytes, rng: random.Random) -> bytes:
    deep = b"[" * 100_000
    return rng.choice(
        (b"", b"null", b"[]", b"{}", b"3", b'"a"', b"NaN", deep, b'{"a":' * 5000, b"[" + data, data + data)
    )


def json_any(data: bytes, rng: random.Random) -> bytes:
    return (json_tree if rng.random() < 0.9 else json_text)(data, rng)


def json_line(data: bytes, rng: random.Random) -> bytes:
    found = data.split(b"\n")
    at = rng.randrange(max(len(found) - 1, 1))
    found[at] = rng.choice((json_any, json_any, flip_bits, cut))(found[at], rng)
    return b"\n".join(found)


def cells(data: bytes, rng: random.Random) -> bytes:
    """A table of text with a cell changed, dropped or added."""
    separator = b"\t" if data.count(b"\t") > data.count(b",") else b","
    found = [line.split(separator) for line in data.split(b"\n")]
    row = found[rng.choice((0, rng.randrange(len(found)), rng.randrange(len(found))))]
    at = rng.randrange(len(row))
    strange = (
        b"",
        b'"',
        b"\0",
        b"\xff\xfe",
        b"\xe9",
        b"nan",
        b"inf",
        b"-1",
        b"1e999",
        b"9" * 5000,
        b"a" * 200_000,
        b"\r",
    )
    how = rng.randrange(5)
    if how == 0:
        del row[at]
    elif how == 1:
        row.insert(at, rng.choice(strange))
    elif how == 2:
        row[at] = row[at] + rng.choice(strange)
    else:
        row[at] = rng.choice(strange)
    return b"\n".join(separator.join(one) for one in found)


# ---------------------------------------------------------------------------------------------------------- containers
def pickled(data: bytes, rng: random.Random) -> bytes:
    """The seeds are our own, so they may be loaded."""
    value = pickle.loads(data)
    if isinstance(value, list):
        value = [list(part) if isinstance(part, tuple) else part for part in value]
    if rng.random() < 0.2:
        places = list(_places(value))
        holder, key = rng.choice(places)
        holder[key] = _unlike_json(holder, rng)
        return pickle.dumps(value, rng.randrange(2, 6))
    return pickle.dumps(change_tree(value, rng), rng.randrange(6))


def _unlike_json(holder: Any, rng: random.Random) -> Any:
    """A value that other formats have not: one that holds itself, a set, an array of objects."""
    inside: list[Any] = []
    inside.append(inside)
    arrays = np.array([[1, 2], None], object), np.zeros(2, [("a", "f4"), ("b", "i8")]), np.zeros((0, 3)), np.float64(2)
    dates = np.array(["2020-01-01"], "datetime64[D]"), np.array(["a", "bc"]), np.ma.masked_array([1, 2], [True, False])
    plain = (holder, inside, {1, 2}, frozenset("a"), b"a", bytearray(9), 1j, (), ((1,), 2), range(3), 2**2000, "\ud800")
    return rng.choice((*plain, *arrays, *dates, np.asfortranarray(np.ones((2, 3))), np.arange(4)[::-1]))


def safetensors(data: bytes, rng: random.Random) -> bytes:
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.4:  # the header alone
        header = json.dumps(change_tree(json.loads(data[8 : 8 + size]), rng)).encode()
        return len(header).to_bytes(8, "little") + header + data[8 + size :]
    if rng.random() < 0.3:  # numbers of another type, as many as there is room for
        header = json.loads(data[8 : 8 + size])
        name = rng.choice([name for name in header if name != "__metadata__"])
        kinds = {
            "F64": 8,
            "BF16": 2,
            "F16": 2,
            "F8_E4M3": 1,
            "F8_E5M2": 1,
            "C64": 8,
            "I64": 8,
            "U16": 2,
            "BOOL": 1,
            "U8": 1,
        }
        kind = rng.choice(list(kinds))
        begin, end = header[name]["data_offsets"]
        count = (end - begin) // kinds[kind]
        header[name] = {
            "dtype": kind,
            "shape": rng.choice(([count], [1, count], [count, 1, 1])),
            "data_offsets": [begin, end],
        }
        said = json.dumps(header).encode()
        return len(said).to_bytes(8, "little") + said + data[8 + size :]
    from safetensors.numpy import load, save

    metadata = json.loads(data[8 : 8 + size]).get("__metadata__")
    tensors = load(data)
    name = rng.choice(list(tensors))
    if rng.random() < 0.3:
        del tensors[name]
    else:
        changed = np.ascontiguousarray(change_array(tensors[name], rng))
        tensors[name] = changed if changed.dtype.kind in "fiub" else changed.view("u1")
    return save(tensors, change_tree(metadata, rng) if metadata and rng.random() < 0.5 else metadata)


def npy(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        buffer = io.BytesIO()
        np.save(buffer, change_array(np.load(io.BytesIO(data)), rng))
        return buffer.getvalue()
    return npy_header(data, rng)


def npy_header(data: bytes, rng: random.Random) -> bytes:
    """A header that tells of another array than follows."""
    array = np.load(io.BytesIO(data))
    shape = rng.choice(((2**40,), (-1,), (3, 2**33), (0,), array.shape * 2, (2**62, 4), ()))
    kind = rng.choice((array.dtype.str, "|O", "<f8", "|V5", [("a", "<f4")], "<U1000000", "nonsense"))
    header = (
        f"{{'descr': {kind!r}, 'fortran_order': {rng.choice(('True', 'False', '3'))}, 'shape': {shape!r}, }}".encode()
    )
    header = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + array.tobytes()


def zipped(data: bytes, rng: random.Random) -> bytes:
    """A member changed, doubled, left out, or of another name."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", rng.choice((0, 8))) as new:
        names = old.namelist()
        chosen = rng.choice(names)
        for name in names:
            content = old.read(name)
            if name == chosen:
                how = rng.randrange(8)
                if how == 0:
                    continue
                if how == 1:
                    name = rng.choice((f"{name}x", f"../{name}", f"/{name}", name.upper(), ""))
                elif how == 5:
                    new.writestr(name, content)  # twice
                elif how == 6:
                    content = old.read(rng.choice(names))
                elif how == 7:
                    content = bytes(1 << 26)
                elif how == 2 and name.endswith(".npy"):
                    content = npy(content, rng)
                else:
                    content = rng.choice(RAW)(content, rng)
            new.writestr(name, content)
    return out.getvalue()


def gzipped(data: bytes, rng: random.Random) -> bytes:
    """What it unpacks to damaged, or more than there is room for."""
    if rng.random() < 0.2:
        packer = zlib.compressobj(9, wbits=31)
        block = packer.compress(bytes(1 << 22)) + packer.flush(zlib.Z_FULL_FLUSH)
        again = packer.compress(bytes(1 << 22)) + packer.flush(zlib.Z_FULL_FLUSH)
        return block + again * 1000
    return zlib.compress(rng.choice((*RAW, *TEXT))(zlib.decompress(data, wbits=31), rng), wbits=31)


def torch_file(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return zipped(data, rng)
    import torch

    value = torch.load(io.BytesIO(data), weights_only=True)
    out = io.BytesIO()
    torch.save(change_tree(value, rng), out, _use_new_zipfile_serialization=rng.random() < 0.7)
    return out.getvalue()


def hdf5(data: bytes, rng: random.Random) -> bytes:
    """A dataset changed, left out, linked elsewhere, or in external files."""
    import h5py

    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = rng.choice(names)
        item = file[name]
        how = rng.randrange(12)
        value = item[()] if isinstance(item, h5py.Dataset) else None
        if how == 6:  # two of them change places
            other = rng.choice(names)
            if not name.startswith(other) and not other.startswith(name):
                file.move(name, "_"), file.move(other, name), file.move("_", other)
            return _closed(file, buffer)
        del file[name]
        if how == 0:
            pass
        elif how == 7:  # of numbers that nobody wrote: a small file of any size
            shape = rng.choice(((2**40,), (2**20, 2**20), (2**33, 4)))
            file.create_dataset(name, shape, "f4", chunks=(1024,) if len(shape) == 1 else (512, 2))
        elif how == 8:
            file[name] = file["/"]
        elif how == 9:
            file[name] = h5py.Empty(rng.choice(("f4", "S3")))
        elif how == 10:
            strange = (np.zeros(3, [("a", "f4"), ("b", "i8")]), [b"a", b"\xff"], np.array(["a", "é"], object))
            kind = h5py.string_dtype() if (one := rng.choice(strange)) is strange[2] else None
            file.create_dataset(name, data=one, dtype=kind)
        elif how == 11:
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource("/etc/hostname", "a", (4,))
            file.create_virtual_dataset(name, layout)
        elif how == 1:
            file[name] = h5py.ExternalLink("/etc/hostname", "/a")
        elif how == 2:
            file[name] = h5py.SoftLink(rng.choice((name, "/", "/absent")))
        elif how == 3:
            file.create_dataset(name, (4,), "u1", external=[("/etc/hostname", 0, 4)])
        elif how == 4:
            file.create_group(name)
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fiubS":
            changed = change_array(value, rng)
            file[name] = changed if changed.dtype.kind in "fiubS" else changed.view("u1")
        else:
            file[name] = rng.choice((3, -1, 2**62, "text", 0.5))
    return buffer.getvalue()


def _closed(file: Any, buffer: io.BytesIO) -> bytes:
    file.close()
    return buffer.getvalue()


def parquet(data: bytes, rng: random.Random) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(_arrow_changed(pq.read_table(pa.BufferReader(data)), rng), out)
    return out.getvalue()


def arrow(data: bytes, rng: random.Random) -> bytes:
    import pyarrow as pa

    try:
        read, new = pa.ipc.open_file, pa.ipc.new_file
        table = read(pa.BufferReader(data)).read_all()
    except pa.ArrowInvalid:
        read, new = pa.ipc.open_stream, pa.ipc.new_stream
        table = read(pa.BufferReader(data)).read_all()
    table = _arrow_changed(table, rng)
    out = io.BytesIO()
    with new(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def _arrow_changed(table: Any, rng: random.Random) -> Any:
    import pyarrow as pa

    at = rng.randrange(table.num_columns)
    name, old = table.column_names[at], table.column(at)
    how = rng.randrange(10)
    if how == 6:
        return _arrow_types(table, at, name, rng)
    if how == 7:  # two columns change places
        other = rng.randrange(table.num_columns)
        names = list(table.column_names)
        names[at], names[other] = names[other], names[at]
        return table.rename_columns(names)
    if how == 8:
        return table.append_column(rng.choice((name, name.upper(), "", "\0", "<b>")), old)
    if how == 9:
        return table.select([]) if rng.random() < 0.2 else pa.concat_tables([table.slice(0, 0), table, table])
    if how == 0:
        return table.drop_columns([name])
    if how == 1:
        return table.set_column(at, name, pa.nulls(len(table)))
    if how == 2:
        return table.set_column(at, name, pa.array([rng.choice(NUMBERS) for _ in range(len(table))], pa.int64()))
    if how == 3:
        return table.rename_columns([f"{one}x" if one == name else one for one in table.column_names])
    if how == 4:
        return table.slice(0, 0)
    values = old.to_pylist()
    values[rng.randrange(len(values))] = None
    return table.set_column(at, name, pa.array(values, old.type))


def _arrow_types(table: Any, at: int, name: str, rng: random.Random) -> Any:
    """A column of another type, whose values may be what was there."""
    import pyarrow as pa

    count = len(table)
    deep: Any = None
    for _ in range(30):
        deep = [deep]
    values, kind = rng.choice(
        (
            ([b"\xff\xfe"] * count, pa.binary()),
            ([["a", None]] * count, pa.list_(pa.string())),
            ([{"a": None}] * count, pa.struct([("a", pa.int8())])),
            ([{"bytes": None, "path": "../x"}] * count, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ([10**18] * count, pa.timestamp("ns")),
            ([float("nan")] * count, pa.float16()),
            ([True] * count, pa.bool_()),
            ([[("a", 1)]] * count, pa.map_(pa.string(), pa.int64())),
            (["a"] * count, pa.dictionary(pa.int8(), pa.string())),
            (["x"] * count, pa.large_string()),
            ([deep] * count, None),
            ([[0.5] * 3] * count, pa.list_(pa.float32(), 3)),
            (["\0", "\u202e", "", " "] * (count // 4) + ["a"] * (count % 4), pa.string()),
        )
    )
    return table.set_column(at, name, pa.array(values, kind))


def tarred(data: bytes, rng: random.Random) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=out, mode="w") as new:
        members = old.getmembers()
        chosen = rng.choice(members)
        for member in members:
            content = b"" if not member.isfile() else old.extractfile(member).read()  # type: ignore[union-attr]
            if member is chosen:
                how = rng.randrange(5)
                if how == 0:
                    continue
                if how == 1:
                    member.type = rng.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE))
                    member.linkname = "/etc/passwd"
                elif how == 2:
                    member.name = rng.choice(("../x.png", "/x.png", "a", ".txt", "a.png.png", "é.txt", member.name * 9))
                else:
                    content = rng.choice(RAW)(content, rng)
            member.size = len(content) if member.isfile() else 0
            new.addfile(member, io.BytesIO(content))
    raw = bytearray(out.getvalue())
    if rng.random() < 0.3:  # a size that is not true, under a checksum that is
        raw[124:136] = rng.choice(
            (b"77777777777\0", b"\x80" + b"\xff" * 11, b"00000000000\0", b"-0000000010\0", b"abc")
        )[:12].ljust(12, b"\0")
        raw[148:156] = b" " * 8
        raw[148:156] = b"%06o\0 " % sum(raw[:512])
    return bytes(raw)


def png(data: bytes, rng: random.Random) -> bytes:
    """A chunk changed, with the checksum that fits."""
    chunks: list[list[bytes]] = []
    at = 8
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + size]])
        at += 12 + size
    chosen = rng.choice(chunks[: rng.choice((1, len(chunks)))])
    how = rng.randrange(4)
    if how == 0 and chosen[0] == b"IHDR":
        width, height = (rng.choice((0, 1, 7, 40_000, 2**31 - 1)) for _ in range(2))
        chosen[1] = struct.pack(">II", width, height) + chosen[1][8:]
    elif how == 1 and chosen[0] == b"IHDR":
        chosen[1] = chosen[1][:8] + bytes(rng.choice((1, 2, 4, 8, 16, 0, 3, 6, 255)) for _ in range(5))
    elif how == 2:
        if rng.random() < 0.3:  # a text or a profile that unpacks to half a gigabyte
            kind, before = rng.choice(((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")))
            chosen[0], chosen[1] = kind, before + zlib.compress(bytes(1 << 29), 1)
        else:
            chosen[0] = rng.choice((b"IHDR", b"IDAT", b"tRNS", b"PLTE", b"acTL", b"iCCP", b"eXIf", b"zTXt", b"IEND"))
    else:
        chosen[1] = rng.choice(RAW)(chosen[1], rng)
    out = data[:8]
    for kind, content in chunks:
        out += len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
    return out


def disguised(data: bytes, rng: random.Random) -> bytes:
    """Another kind of file under this name."""
    del data
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    wmf, fli = b"\xd7\xcd\xc6\x9a" + b"\0" * 60, b"\0" * 4 + b"\x11\xaf" + b"\1\0" * 100
    pdf, svg = b"%PDF-1.4\n1 0 obj\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    return rng.choice((eps, wmf, fli, pdf, svg, b"#!/bin/sh\n", b"PK\3\4" + b"\0" * 30, b"\x89HDF\r\n\x1a\n" * 20))


def extent(data: bytes, rng: random.Random) -> bytes:
    """Width and height of a picture that is as small as it was."""
    far = struct.pack("<HH", *(rng.choice((0, 1, 20_000, 65_535)) for _ in range(2)))
    wide = struct.pack("<ii", *(rng.choice((0, -1, 1, 30_000, 2**31 - 1)) for _ in range(2)))
    if data[:3] == b"GIF":
        return data[:6] + far + data[10:]
    if data[:2] == b"BM":
        return data[:18] + wide + data[26:]
    if data[:2] == b"P6":
        return b"P6\n%d %d\n255\n" % struct.unpack("<ii", wide) + data[-64:]
    at = data.find(b"\xff\xc0")
    if at < 0:
        raise ValueError("of no kind that is known here")
    return data[: at + 5] + far + data[at + 9 :]


def image(data: bytes, rng: random.Random) -> bytes:
    if data.startswith(b"\x89PNG") and rng.random() < 0.8:
        return png(data, rng)
    return rng.choice((disguised, flip_head, lengths, cut, extent))(data, rng)


def boxes(data: bytes, rng: random.Random) -> bytes:
    """The size or the content of one of an mp4's boxes."""
    names = (
        b"moov",
        b"mvhd",
        b"trak",
        b"tkhd",
        b"mdhd",
        b"stsd",
        b"stts",
        b"stsc",
        b"stsz",
        b"stco",
        b"avc1",
        b"avcC",
        b"hdlr",
    )
    places = [at for name in names if (at := data.find(name)) > 0]
    at = rng.choice(places)
    if rng.random() < 0.5:
        return data[: at - 4] + (rng.choice(NUMBERS) % 2**32).to_bytes(4, "big") + data[at:]
    inside = rng.choice(RAW)(data[at + 4 : at + 104], rng)[:100]
    return data[: at + 4] + inside + data[at + 4 + len(inside) :]


def exported(data: bytes, rng: random.Random) -> bytes:
    """What a network says of itself, its shapes, its operations, where its numbers lie."""
    import onnx

    model = onnx.load_model_from_string(data)
    kept, node = model.graph.initializer[0], model.graph.node[0]
    how = rng.randrange(6)
    if how == 0:
        said = model.metadata_props[0]
        said.value = json.dumps(change_tree(json.loads(said.value), rng))
    elif how == 1:
        kept.dims[rng.randrange(len(kept.dims))] = rng.choice(NUMBERS[:-3])
    elif how == 2:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = rng.choice(NUMBERS[:-3])
    elif how == 3:
        node.op_type = rng.choice(("Tile", "Expand", "ConstantOfShape", "Reshape", "If", "Loop", "NoSuchThing"))
    elif how == 4:
        kept.ClearField("raw_data")
        kept.data_location = onnx.TensorProto.EXTERNAL
        where = rng.choice(("/etc/passwd", "../../../../../../etc/passwd", "none", "/dev/zero", ""))
        kept.external_data.add(key="location", value=where)
    else:
        kept.data_type = rng.randrange(24)
    return model.SerializeToString()


STRUCTURED: dict[str, Mutator] = {
    **dict.fromkeys((".json", ".json3"), json_any),
    **dict.fromkeys((".jsonl", ".ndjson"), json_line),
    **dict.fromkeys((".csv", ".tsv", ".txt", ".srt", ".vtt", ".ctm", ".textgrid", ".conll", ".bpe"), cells),
    **dict.fromkeys((".pkl", ".p", ".pdparams"), pickled),
    **dict.fromkeys((".pt", ".pth", ".bin"), torch_file),
    **dict.fromkeys((".h5", ".hdf5", ".csd"), hdf5),
    **dict.fromkeys((".png", ".jpg", ".gif", ".webp", ".tif", ".bmp", ".ppm", ".avif", ".jp2"), image),
    ".safetensors": safetensors,
    ".npy": npy,
    ".onnx": exported,
    ".npz": zipped,
    ".gz": gzipped,
    ".parquet": parquet,
    ".arrow": arrow,
    ".tar": tarred,
    ".mp4": boxes,
}
