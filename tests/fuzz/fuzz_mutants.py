"""Damaged copies of sound files: bytes of any of them, and the parts of those whose structure is known."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
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
)
STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0.5, -1.5, 1e308, float("nan"), float("inf"), [], {}, [None], [[]], {"a": None}, {"": 1}),
    *NUMBERS,
    *STRINGS,
)


def mutate(folder: Path, rng: random.Random, names: tuple[str, ...] = ()) -> str:
    """Damages one of the files below a folder, in place; says which and how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if not names or path.name in names or path.suffix in names] or files
    path = rng.choice(files)
    own = STRUCTURED.get(path.suffix.lower())
    chosen = own if own is not None and rng.random() < 0.6 else rng.choice(RAW)
    data = path.read_bytes()
    try:
        mutant = chosen(data, rng)
    except Exception as error:  # the structure is another one than the name says
        chosen = rng.choice(RAW)
        mutant = chosen(data, rng)
        del error
    path.write_bytes(mutant)
    return f"{path.relative_to(folder)}: {chosen.__name__}"


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


RAW: tuple[Mutator, ...] = (flip_bits, flip_head, cut, drop, insert, repeat, blank, lengths)


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
    how = rng.randrange(8)
    if how == 0:
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


def change_array(array: np.ndarray[Any, Any], rng: random.Random) -> Any:
    """An array of another type or shape, or of strange values."""
    how = rng.randrange(8)
    with np.errstate(all="ignore"):
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
    return pickle.dumps(change_tree(value, rng), rng.randrange(6))


def safetensors(data: bytes, rng: random.Random) -> bytes:
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.4:  # the header alone
        header = json.dumps(change_tree(json.loads(data[8 : 8 + size]), rng)).encode()
        return len(header).to_bytes(8, "little") + header + data[8 + size :]
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
                how = rng.randrange(5)
                if how == 0:
                    continue
                if how == 1:
                    name += "x"
                elif how == 2 and name.endswith(".npy"):
                    content = npy(content, rng)
                else:
                    content = rng.choice(RAW)(content, rng)
            new.writestr(name, content)
    return out.getvalue()


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
        how = rng.randrange(6)
        value = item[()] if isinstance(item, h5py.Dataset) else None
        del file[name]
        if how == 0:
            pass
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
    how = rng.randrange(6)
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


def image(data: bytes, rng: random.Random) -> bytes:
    if data.startswith(b"\x89PNG") and rng.random() < 0.8:
        return png(data, rng)
    return rng.choice((disguised, flip_head, lengths, cut))(data, rng)


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
    ".parquet": parquet,
    ".arrow": arrow,
    ".tar": tarred,
    ".mp4": boxes,
}
